package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/backoff"
)

const (
	// maxClients is how many connections the proxy has at once; each takes two descriptors, of
	// which a program often may have 1024.
	maxClients = 256
	// requestTimeout is how long a client may take to say where it wants to go.
	requestTimeout = 10 * time.Second
	// dialTimeout is that of forwards.
	dialTimeout = 30 * time.Second
)

// serveSOCKS serves SOCKS5 on the host, with connections of a stack. stop ends the listener; the
// connections end with the stack.
func serveSOCKS(addr string, st *vdestack.Stack, log *slog.Logger) (stop func(), err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("-socks5 %s: %w", addr, err)
	}
	if strings.HasSuffix(addr, ":0") {
		log.Info("free port", "option", "-socks5", "listen", ln.Addr())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var accepting sync.WaitGroup
	accepting.Go(func() { acceptSOCKS(ctx, ln, st.DialContext, log) })
	return func() {
		cancel()
		ln.Close()
		accepting.Wait()
	}, nil
}

// acceptSOCKS serves clients until ctx is done or the listener closed. The library's own loop ends
// at the first error.
func acceptSOCKS(ctx context.Context, ln net.Listener, dial func(ctx context.Context, network, address string) (net.Conn, error), log *slog.Logger) {
	server := socks5.NewServer(
		socks5.WithDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return dial(ctx, network, address)
		}),
		socks5.WithResolver(stackNames{}),
		socks5.WithRule(&socks5.PermitCommand{EnableConnect: true}),
		socks5.WithConnectMiddleware(func(_ context.Context, client io.Writer, _ *socks5.Request) error {
			return client.(net.Conn).SetDeadline(time.Time{})
		}),
		socks5.WithLogger(socksLog{log}),
	)
	slots := make(chan struct{}, maxClients)
	var errs backoff.Timer
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-slots
			log.Debug("socks5: no client", "error", err)
			if !errs.Wait(ctx) {
				return
			}
			continue
		}
		errs.Reset()
		go func() {
			defer func() { <-slots }()
			c.SetDeadline(time.Now().Add(requestTimeout))
			// As it is, for its CloseWrite: else a client waits for ever for the end of an answer.
			if err := server.ServeConn(c); err != nil {
				log.Debug("socks5: client", "error", err)
			}
		}()
	}
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
