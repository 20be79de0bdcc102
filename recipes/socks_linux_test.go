package recipes

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/things-go/go-socks5"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/proxy"
)

// serveSOCKS serves SOCKS5, with the stack as the way out. ln is a listener of the host, or of
// another stack.
func serveSOCKS(ln net.Listener, st *vdestack.Stack) error {
	return socks5.NewServer(
		socks5.WithDial(st.DialContext),
		socks5.WithResolver(stackNames{}),
		socks5.WithRule(&socks5.PermitCommand{EnableConnect: true}),
	).Serve(ln)
}

// stackNames leaves names to the stack's Dial. The library's own resolver asks the host.
type stackNames struct{}

func (stackNames) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

func TestSOCKS(t *testing.T) {
	server, exit := lab(t)
	ln := testenv.Listen(t, server, "tcp", ":7")
	go func() {
		if c, err := ln.Accept(); err == nil {
			fmt.Fprint(c, c.RemoteAddr())
			c.Close()
		}
	}()
	host := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer host.Close()
	go serveSOCKS(host, exit)
	socks := testenv.Must(proxy.SOCKS5("tcp", host.Addr().String(), nil, nil))(t)
	c := testenv.Must(socks.Dial("tcp", "server.lab.example:7"))(t)
	defer c.Close()
	from, err := io.ReadAll(c)
	if ip, _, _ := net.SplitHostPort(string(from)); ip != "10.0.0.2" {
		t.Errorf("the server sees %q, %v, want the stack's 10.0.0.2", from, err)
	}
}
