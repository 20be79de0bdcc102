package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/vdestack/vdestack"
	"golang.org/x/net/netutil"
)

const (
	// maxClients is how many connections the proxy has at once; each takes two descriptors, of
	// which a program often may have 1024.
	maxClients = 256
	// dialTimeout is that of forwards.
	dialTimeout = 30 * time.Second
)

// serveSOCKS serves SOCKS5 on the host, with connections of a stack. stop ends the listener; the
// connections end with the stack.
func serveSOCKS(addr string, st *vdestack.Stack, log *slog.Logger) (stop func() error, err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("-socks5 %s: %w", addr, err)
	}
	if strings.HasSuffix(addr, ":0") {
		log.Info("free port", "option", "-socks5", "host", ln.Addr())
	}
	server := socks5.NewServer(
		socks5.WithDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return st.DialContext(ctx, network, address)
		}),
		socks5.WithResolver(stackNames{}),
		socks5.WithRule(&socks5.PermitCommand{EnableConnect: true}),
		socks5.WithLogger(socksLog{log}),
	)
	go server.Serve(netutil.LimitListener(ln, maxClients))
	return ln.Close, nil
}

// stackNames leaves names to the stack, which tries all their addresses. The library's own
// resolver asks the host.
type stackNames struct{}

// Resolve implements [socks5.NameResolver].
func (stackNames) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// socksLog logs what clients could not get.
type socksLog struct{ *slog.Logger }

// Errorf implements [socks5.Logger].
func (l socksLog) Errorf(format string, args ...any) {
	l.Debug("socks5: " + fmt.Sprintf(format, args...))
}
