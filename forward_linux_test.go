package vdestack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// echo answers connections of a listener with who they are and what they say.
func echo(t testing.TB, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			io.WriteString(c, host4(c.RemoteAddr())+" says "+string(b))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// host4 returns the host of an address.
func host4(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// ask connects, says hello and returns the answer.
func ask(t testing.TB, dial func(network, address string) (net.Conn, error), a net.Addr) string {
	t.Helper()
	c, err := dial(a.Network(), a.String())
	testenv.Check(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	_, err = io.WriteString(c, "hello")
	testenv.Check(t, err)
	testenv.Check(t, c.(interface{ CloseWrite() error }).CloseWrite())
	b, err := io.ReadAll(c)
	testenv.Check(t, err)
	return string(b)
}

// TestForward carries connections into a stack and out of it, by TCP of both families, by
// names, and by unix sockets.
func TestForward(t *testing.T) {
	netnstest.NoLeaks(t)
	s := testenv.Opened(New(t.Context(), Config{
		Interfaces: []Interface{{VNL: "null://", Addrs: testenv.Prefixes("10.0.0.1/24", "fd00::1/64")}},
		DNS:        DNS{Hosts: map[string][]netip.Addr{"server.lan": testenv.Addrs("10.0.0.1")}},
	}))(t)
	inside := testenv.Opened(s.Listen("tcp", ":80"))(t)
	echo(t, inside)
	dir := testenv.ShortDir(t)
	unixServer := testenv.Opened(net.Listen("unix", filepath.Join(dir, "server")))(t)
	echo(t, unixServer)
	outside := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	echo(t, outside)

	in := func(network, from, to string) *Forward {
		return testenv.Opened(s.ForwardIn(t.Context(), network, from, to, nil))(t)
	}
	for _, tt := range []struct{ name, network, from, to, want string }{
		{"IPv4", "tcp", "127.0.0.1:0", "10.0.0.1:80", "10.0.0.1 says hello"},
		{"IPv6", "tcp6", "[::1]:0", "[fd00::1]:80", "fd00::1 says hello"},
		{"4 to 6", "tcp", "localhost:0", "[fd00::1]:http", "fd00::1 says hello"},
		{"name", "tcp4", ":0", "server.lan:80", "10.0.0.1 says hello"},
		{"unix", "tcp", "unix:" + filepath.Join(dir, "in"), "10.0.0.1:80", "10.0.0.1 says hello"},
	} {
		t.Run("in, "+tt.name, func(t *testing.T) {
			f := in(tt.network, tt.from, tt.to)
			if got := ask(t, net.Dial, f.Addr()); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if st := f.Stats(); st.Accepted != 1 || st.BytesIn != 5 || st.BytesOut != uint64(len(tt.want)) {
				t.Errorf("%+v", st)
			}
		})
	}
	for _, tt := range []struct{ name, network, from, to, want string }{
		{"IPv4", "tcp", "10.0.0.1:0", outside.Addr().String(), "127.0.0.1 says hello"},
		{"unix", "tcp", "[fd00::1]:0", "unix:" + filepath.Join(dir, "server"), " says hello"},
	} {
		t.Run("out, "+tt.name, func(t *testing.T) {
			f := testenv.Opened(s.ForwardOut(t.Context(), tt.network, tt.from, tt.to, nil))(t)
			if got := ask(t, s.Dial, f.Addr()); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestForwardClose has the context end nothing, and Stack.Close end forwards of both
// directions that nobody has kept, with their connections.
func TestForwardClose(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "null://", "10.0.0.1/24")
	ctx, cancel := context.WithCancel(t.Context())
	l := testenv.Opened(s.Listen("tcp", "10.0.0.1:80"))(t)
	out := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	var addrs [2]net.Addr
	for i, f := range []*Forward{
		testenv.Must(s.ForwardIn(ctx, "tcp", "127.0.0.1:0", "10.0.0.1:80", nil))(t),
		testenv.Must(s.ForwardOut(ctx, "tcp", "10.0.0.1:0", out.Addr().String(), nil))(t),
	} {
		addrs[i] = f.Addr()
	}
	cancel()
	c := testenv.Dial(t, hostNet{}, "tcp", addrs[0].String())
	inside := testenv.Opened(l.Accept())(t)
	d := testenv.Dial(t, s, "tcp", addrs[1].String())
	outside := testenv.Opened(out.Accept())(t)
	testenv.Check(t, s.Close())
	for _, c := range []net.Conn{c, inside, d, outside} {
		c.SetDeadline(time.Now().Add(testenv.Timeout))
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %d bytes, %v, after Close", c.LocalAddr(), n, err)
		}
	}
	if _, err := net.Dial("tcp", addrs[0].String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after Close: %v, want ECONNREFUSED", err)
	}
	if _, err := s.ForwardIn(t.Context(), "tcp", "127.0.0.1:0", "10.0.0.1:80", nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, want %v", err, net.ErrClosed)
	}
	if _, err := (*Stack)(nil).ForwardOut(t.Context(), "tcp", ":0", ":1", nil); !errors.Is(err, ErrNoStack) {
		t.Errorf("nil: %v, want %v", err, ErrNoStack)
	}
}

type hostNet struct{}

func (hostNet) Dial(network, address string) (net.Conn, error) { return net.Dial(network, address) }

// TestForwardErrors has mistakes: both addresses are in the error, and nothing is left.
func TestForwardErrors(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "null://", "10.0.0.1/24")
	taken := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(testenv.ShortDir(t), "file")
	testenv.Check(t, os.WriteFile(file, nil, 0o600))
	for _, tt := range []struct {
		name, network, from, to string
		opts                    *ForwardOptions
		want                    string
	}{
		{"taken", "tcp", taken.Addr().String(), "10.0.0.1:80", nil, "bind: address already in use"},
		{"network", "sctp", ":1", "10.0.0.1:80", nil, "unknown network sctp"},
		{"unix network", "unix", "/x", "10.0.0.1:80", nil, `the host's address "unix:PATH"`},
		{"family", "tcp4", "[::1]:0", "10.0.0.1:80", nil, "address ::1: no suitable address found"},
		{"no port", "tcp", "127.0.0.1:0", "10.0.0.1", nil, "missing port in address"},
		{"port 0", "tcp", "127.0.0.1:0", "10.0.0.1:0", nil, "a port other than 0"},
		{"service", "tcp", "127.0.0.1:0", "10.0.0.1:nosuch", nil, "unknown port"},
		{"zone", "tcp", "[fe80::1%nosuch]:0", "10.0.0.1:80", nil, "listen tcp"},
		{"unix in the stack", "tcp", "127.0.0.1:0", "unix:/x", nil, "the stack's side has no unix sockets"},
		{"file", "tcp", "unix:" + file, "10.0.0.1:80", nil, "bind: address already in use"},
		{"version", "tcp", "127.0.0.1:0", "10.0.0.1:80", &ForwardOptions{ProxyProtocol: 3}, "ProxyProtocol 3: there are versions 1 and 2"},
		{"limit", "tcp", "127.0.0.1:0", "10.0.0.1:80", &ForwardOptions{MaxClients: -1}, "must not be negative"},
	} {
		_, err := s.ForwardIn(t.Context(), tt.network, tt.from, tt.to, tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.from+"->"+tt.to+": ") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := s.ForwardIn(ended, "tcp", "nosuch.lan:0", "10.0.0.1:80", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is done: %v", err)
	}
}
