package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/proxy"
)

// TestSOCKSEnds has each end of a connection through the proxy finish first, while the other has
// more to say.
func TestSOCKSEnds(t *testing.T) {
	t.Parallel()
	st := testenv.Opened(vdestack.Open(""))(t)
	ln := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { ln.Close() })
	go acceptSOCKS(t.Context(), ln, st.DialContext, slog.New(slog.DiscardHandler))
	server := testenv.Listen(t, st, "tcp", "127.0.0.1:0")
	socks := testenv.Must(proxy.SOCKS5("tcp", ln.Addr().String(), nil, nil))(t)
	for _, clientFirst := range []bool{true, false} {
		client := testenv.Must(socks.Dial("tcp", server.Addr().String()))(t).(*net.TCPConn)
		defer client.Close()
		target := testenv.Must(server.Accept())(t).(*net.TCPConn)
		defer target.Close()
		first, second := target, client
		if clientFirst {
			first, second = client, target
		}
		for _, step := range []struct {
			from, to *net.TCPConn
			text     string
		}{{first, second, "the first end"}, {second, first, "the second end"}} {
			step.to.SetDeadline(time.Now().Add(testenv.Timeout))
			testenv.Must(io.WriteString(step.from, step.text))(t)
			testenv.Check(t, step.from.CloseWrite())
			if got, err := io.ReadAll(step.to); string(got) != step.text || err != nil {
				t.Errorf("client first %v: got %q, %v, want %q", clientFirst, got, err, step.text)
			}
		}
	}
}

// A listenerOf accepts what is in a channel.
type listenerOf struct {
	net.Listener
	accepted chan any // error or net.Conn
}

func (l listenerOf) Accept() (net.Conn, error) {
	switch c := (<-l.accepted).(type) {
	case net.Conn:
		return c, nil
	case error:
		return nil, c
	}
	return nil, net.ErrClosed
}

// TestSOCKSClients has a client that cannot be accepted, some that say nothing or what is not
// served, and one that is served long after.
func TestSOCKSClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listenerOf{accepted: make(chan any)}
		dials := make(chan string, 1)
		dial := func(_ context.Context, network, address string) (net.Conn, error) {
			dials <- network + " " + address
			time.Sleep(2 * requestTimeout)
			return nil, syscall.ECONNREFUSED
		}
		go acceptSOCKS(t.Context(), l, dial, slog.New(slog.DiscardHandler))
		defer close(l.accepted)
		l.accepted <- syscall.EMFILE
		for _, tt := range []struct{ name, request, want, dial string }{
			{"silent", "", "", ""},
			{"silent after the greeting", "\x05\x01\x00", "\x05\x00", ""},
			{"no request", "GET / HTTP/1.0\r\n", "", ""},
			{"password only", "\x05\x01\x02", "\x05\xff", ""},
			{"BIND", "\x05\x01\x00\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", ""},
			{"UDP", "\x05\x01\x00\x05\x03\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", ""},
			{"IPv4", "\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "tcp 10.0.0.1:80"},
			{"name", "\x05\x01\x00\x05\x01\x00\x03\x03a.b\x00\x50", "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "tcp a.b:80"},
			{"IPv6", "\x05\x01\x00\x05\x01\x00\x04\xfd" + string(make([]byte, 15)) + "\x00\x50", "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "tcp [fd00::]:80"},
		} {
			near, far := net.Pipe()
			l.accepted <- far
			go io.WriteString(near, tt.request)
			got, err := io.ReadAll(near)
			if string(got) != tt.want || err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
			}
			synctest.Wait()
			select {
			case d := <-dials:
				if d != tt.dial {
					t.Errorf("%s: it has dialled %s, want %s", tt.name, d, tt.dial)
				}
			default:
				if tt.dial != "" {
					t.Errorf("%s: it has dialled nothing, want %s", tt.name, tt.dial)
				}
			}
			near.Close()
		}
	})
}

// TestSOCKSStop ends the proxy while it waits after errors, and while no more clients fit.
func TestSOCKSStop(t *testing.T) {
	for _, many := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := listenerOf{accepted: make(chan any)}
			ctx, cancel := context.WithCancel(t.Context())
			var accepting sync.WaitGroup
			accepting.Go(func() { acceptSOCKS(ctx, l, nil, slog.New(slog.DiscardHandler)) })
			if many {
				for range maxClients {
					near, far := net.Pipe()
					defer near.Close()
					l.accepted <- far
				}
			} else {
				l.accepted <- syscall.EMFILE
			}
			synctest.Wait()
			begin := time.Now()
			cancel()
			accepting.Wait()
			if took := time.Since(begin); took > 0 {
				t.Errorf("many clients %v: it has ended after %v", many, took)
			}
		})
	}
}
