package recipes

import (
	"context"
	"net"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// dialGRPC returns a client of a gRPC server in the network of the stack. Names are the
// stack's too: without passthrough the library asks the host for them.
func dialGRPC(st *vdestack.Stack, addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	dial := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		return st.DialContext(ctx, "tcp", addr)
	})
	return grpc.NewClient("passthrough:///"+addr, append(opts, dial)...)
}

func TestGRPC(t *testing.T) {
	server, client := lab(t)
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go s.Serve(testenv.Listen(t, server, "tcp", ":50051"))
	defer s.Stop()
	conn := testenv.Must(dialGRPC(client, "server.lab.example:50051", grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	defer conn.Close()
	reply := testenv.Must(grpc_health_v1.NewHealthClient(conn).Check(testenv.Context(t), &grpc_health_v1.HealthCheckRequest{}))(t)
	if reply.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("the server is %v", reply.Status)
	}
}
