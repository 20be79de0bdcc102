package recipes

import (
	"context"
	"iter"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// dialEtcd returns a client of etcd in the network of the stack.
func dialEtcd(st *vdestack.Stack, endpoints ...string) (*clientv3.Client, error) {
	dial := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		return st.DialContext(ctx, "tcp", addr)
	})
	return clientv3.New(clientv3.Config{Endpoints: endpoints, DialOptions: []grpc.DialOption{dial}})
}

// etcdRemotes has the hosts that the keys with a prefix name, each of which has put its
// ADDRESS:PORT there, with a lease.
func etcdRemotes(client *clientv3.Client) vdeplug.RemotesFunc {
	return func(ctx context.Context, prefix string) iter.Seq2[[]netip.AddrPort, error] {
		return func(yield func([]netip.AddrPort, error) bool) {
			for {
				hosts, revision, err := etcdHosts(ctx, client, prefix)
				if !yield(hosts, err) {
					return
				}
				if err == nil {
					err = etcdChange(ctx, client, prefix, revision+1)
				}
				if err != nil { // soon again
					select {
					case <-ctx.Done():
						return
					case <-time.After(time.Second):
					}
				}
			}
		}
	}
}

// etcdHosts returns the hosts, and the revision of etcd's data that had them.
func etcdHosts(ctx context.Context, client *clientv3.Client, prefix string) ([]netip.AddrPort, int64, error) {
	reply, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	var hosts []netip.AddrPort
	for _, kv := range reply.Kvs {
		host, err := netip.ParseAddrPort(string(kv.Value))
		if err != nil {
			return nil, 0, err
		}
		hosts = append(hosts, host)
	}
	return hosts, reply.Header.Revision, nil
}

// etcdChange returns when a key has changed in a revision, or a later one.
func etcdChange(ctx context.Context, client *clientv3.Client, prefix string, revision int64) error {
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	change := <-client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision))
	return change.Err()
}

// An etcd has one key, and a new revision with each value.
type etcd struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	values []string
	next   chan bool // closed when there may be a second revision
}

// Range implements [etcdserverpb.KVServer].
func (e *etcd) Range(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	revision := 1
	select {
	case <-e.next:
		revision = 2
	default:
	}
	return &etcdserverpb.RangeResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: int64(revision)},
		Kvs:    []*mvccpb.KeyValue{{Key: []byte("lab-a"), Value: []byte(e.values[revision-1])}},
	}, nil
}

// Watch implements [etcdserverpb.WatchServer], for a watch from the second revision.
func (e *etcd) Watch(stream etcdserverpb.Watch_WatchServer) error {
	r, err := stream.Recv()
	if err != nil || r.GetCreateRequest().GetStartRevision() != 2 {
		return err
	}
	header := &etcdserverpb.ResponseHeader{Revision: 1}
	if err := stream.Send(&etcdserverpb.WatchResponse{Header: header, Created: true}); err != nil {
		return err
	}
	close(e.next)
	if err := stream.Send(&etcdserverpb.WatchResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: 2},
		Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("lab-a"), ModRevision: 2}}},
	}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func TestEtcd(t *testing.T) {
	server, st := lab(t)
	e := &etcd{values: []string{"192.0.2.1:4789", "192.0.2.2:4789"}, next: make(chan bool)}
	s := grpc.NewServer()
	etcdserverpb.RegisterKVServer(s, e)
	etcdserverpb.RegisterWatchServer(s, e)
	go s.Serve(testenv.Listen(t, server, "tcp", ":2379"))
	defer s.Stop()
	client := testenv.Must(dialEtcd(st, "server.lab.example:2379"))(t)
	defer client.Close()
	var seen []string
	for hosts, err := range etcdRemotes(client)(testenv.Context(t), "lab-") {
		testenv.Check(t, err)
		if len(hosts) != 1 {
			t.Fatalf("the hosts are %v", hosts)
		}
		if seen = append(seen, hosts[0].String()); len(seen) == len(e.values) {
			break
		}
	}
	if !slices.Equal(seen, e.values) {
		t.Errorf("got %v, want %v", seen, e.values)
	}
}
