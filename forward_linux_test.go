package vdestack

import (
	"context"
	"errors"
	"fmt"
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
	answer(t, l, func(c net.Conn) string {
		b, _ := io.ReadAll(c)
		return host4(c.RemoteAddr()) + " says " + string(b)
	})
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

// TestForwardUDP carries datagrams into a stack and out of it, empty ones and the largest
// too, and answers from the address that was asked.
func TestForwardUDP(t *testing.T) {
	netnstest.NoLeaks(t)
	s := testenv.Opened(New(t.Context(), Config{
		Interfaces: []Interface{{VNL: "null://", Addrs: testenv.Prefixes("10.0.0.1/24", "fd00::1/64")}},
		DNS:        DNS{Hosts: map[string][]netip.Addr{"server.lan": testenv.Addrs("10.0.0.1")}},
	}))(t)
	inside := testenv.Opened(s.ListenPacket("udp", ":53"))(t)
	echoUDP(t, inside)
	outside := testenv.Opened(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	echoUDP(t, outside)
	for _, tt := range []struct {
		name, network, from, to string
		out                     bool
		hosts                   []string
	}{
		{name: "in", network: "udp", from: "127.0.0.1:0", to: "10.0.0.1:53", hosts: []string{"127.0.0.1"}},
		{name: "in, any address", network: "udp", from: ":0", to: "server.lan:domain", hosts: []string{"127.0.0.1", "127.0.0.9", "::1"}},
		{name: "in, IPv6", network: "udp6", from: ":0", to: "[fd00::1]:53", hosts: []string{"::1"}},
		{name: "in, IPv4", network: "udp4", from: ":0", to: "10.0.0.1:53", hosts: []string{"127.0.0.1", "127.0.0.9"}},
		{name: "out", network: "udp", from: "10.0.0.1:0", to: outside.LocalAddr().String(), out: true, hosts: []string{"10.0.0.1"}},
		{name: "out, any address", network: "udp", from: ":0", to: outside.LocalAddr().String(), out: true, hosts: []string{"10.0.0.1", "fd00::1", "127.0.0.9"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			make, dial := s.ForwardIn, net.Dial
			if tt.out {
				make, dial = s.ForwardOut, s.Dial
			}
			f := testenv.Opened(make(t.Context(), tt.network, tt.from, tt.to, nil))(t)
			_, port, _ := net.SplitHostPort(f.Addr().String())
			b := [65507]byte{}
			for _, h := range tt.hosts {
				c := testenv.Opened(dial("udp", net.JoinHostPort(h, port)))(t)
				c.SetDeadline(time.Now().Add(testenv.Timeout))
				for _, n := range []int{5, 0, len(b)} {
					_, err := c.Write(b[:n])
					testenv.Check(t, err)
					if got, err := c.Read(b[:]); err != nil || got != n {
						t.Errorf("%s: got %d bytes, %v, want %d", h, got, err, n)
					}
				}
			}
			n := uint64(3 * len(tt.hosts))
			testenv.Eventually(t, "all counted", func() bool {
				st := f.Stats()
				return st.Datagrams == DatagramStats{In: n, Out: n} && st.Open == uint64(len(tt.hosts))
			}, func() string { return fmt.Sprintf("%+v", f.Stats()) })
		})
	}
}

// TestForwardUDPFragments carries datagrams, several at a time, that are larger than the
// packets of the network where the server is.
func TestForwardUDPFragments(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	s, peer := open(t, vnl, "10.0.0.1/24"), open(t, vnl, "10.0.0.2/24")
	echoUDP(t, testenv.Opened(peer.ListenPacket("udp", "10.0.0.2:53"))(t))
	f := testenv.Opened(s.ForwardIn(t.Context(), "udp", "127.0.0.1:0", "10.0.0.2:53", nil))(t)
	c := testenv.Opened(net.Dial("udp", f.Addr().String()))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	const many, size = 10, 3000
	b := make([]byte, size+1)
	for range many {
		testenv.Must(c.Write(b[:size]))(t)
	}
	for range many {
		if n, err := c.Read(b); n != size || err != nil {
			t.Fatalf("got %d bytes, %v, want %d", n, err, size)
		}
	}
	testenv.Eventually(t, "all counted", func() bool {
		st := f.Stats()
		return st.Datagrams == DatagramStats{In: many, Out: many} && st.BytesIn == many*size && st.BytesOut == many*size && st.Err == nil
	}, func() string { return fmt.Sprintf("%+v", f.Stats()) })
}

// echoUDP answers datagrams with what they say.
func echoUDP(t testing.TB, c net.PacketConn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
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
	udpTaken := testenv.Opened(net.ListenPacket("udp", "127.0.0.1:0"))(t)
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
		{"no path", "tcp", "unix:", "10.0.0.1:80", nil, "address unix:: the path is missing"},
		{"no name", "tcp", "unix:@", "10.0.0.1:80", nil, "address unix:@: the path is missing"},
		{"NUL", "tcp", "unix:a\x00b", "10.0.0.1:80", nil, "a NUL byte in the path"},
		{"long path", "tcp", "unix:" + strings.Repeat("x", 108), "10.0.0.1:80", nil, "a socket address has room for 107 bytes"},
		{"family of the server", "tcp4", "127.0.0.1:0", "[fd00::1]:80", nil, "address fd00::1: no suitable address found"},
		{"file", "tcp", "unix:" + file, "10.0.0.1:80", nil, "bind: address already in use"},
		{"version", "tcp", "127.0.0.1:0", "10.0.0.1:80", &ForwardOptions{ProxyProtocol: 3}, "ProxyProtocol 3: there are versions 1 and 2"},
		{"UDP taken", "udp", udpTaken.LocalAddr().String(), "10.0.0.1:80", nil, "bind: address already in use"},
		{"UDP name", "udp", "127.0.0.1:0", "nosuch.lan:80", nil, "lookup nosuch.lan"},
		{"UDP with PROXY", "udp", "127.0.0.1:0", "10.0.0.1:80", &ForwardOptions{ProxyProtocol: 2}, "the PROXY protocol is for TCP"},
		{"UDP by a unix socket", "udp", "unix:/x", "10.0.0.1:80", nil, "takes the place of TCP only"},
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
