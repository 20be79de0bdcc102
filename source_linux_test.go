package vdestack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A fakeHost is a stack that is the host of forwards, as an ordinary user's tests cannot
// give the host addresses.
type fakeHost struct{ *Stack }

func newHost(t testing.TB, prefixes ...string) fakeHost {
	t.Helper()
	return fakeHost{open(t, "null://", prefixes...)}
}

// in is ForwardIn to a stack from this host.
func (h fakeHost) in(s *Stack, network, from, to string, opts *ForwardOptions) (*Forward, error) {
	return s.forward(context.Background(), network, h.network(), s.network(), from, to, opts)
}

// dialFrom connects on the host from an address.
func (h fakeHost) dialFrom(from string) func(network, address string) (net.Conn, error) {
	return func(network, address string) (net.Conn, error) {
		ap := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
		d := Dialer{Stack: h.Stack}
		if d.LocalAddr = net.Addr(net.TCPAddrFromAddrPort(ap)); strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(ap)
		}
		return d.Dial(network, address)
	}
}

// askUDP says hello, and returns the answer and who asked.
func askUDP(t testing.TB, dial func(network, address string) (net.Conn, error), a net.Addr) (answer, self string) {
	t.Helper()
	c := testenv.Opened(dial("udp", a.String()))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	_, err := io.WriteString(c, "hello")
	testenv.Check(t, err)
	b := make([]byte, 100)
	n, err := c.Read(b)
	testenv.Check(t, err)
	return string(b[:n]), c.LocalAddr().String()
}

// whoUDP answers datagrams with who has sent them.
func whoUDP(t testing.TB, c net.PacketConn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, from, err := c.ReadFrom(make([]byte, 100))
			if err != nil {
				return
			}
			c.WriteTo([]byte(from.String()), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}

// state returns the rules and routes of a stack.
func state(t testing.TB, s *Stack) string {
	t.Helper()
	c := testenv.Opened(s.RTNL())(t)
	defer c.Close()
	return fmt.Sprint(testenv.Must(c.Rules())(t), testenv.Must(c.Routes())(t))
}

// TestKeepSource has servers in a stack see the addresses and ports of the host's clients,
// and at the same time serve another stack on the same ports. Servers have one address or
// all, and the stack a default route or none. Nothing is left at the end.
func TestKeepSource(t *testing.T) {
	for _, gateway := range []string{"", "10.0.0.254"} {
		for _, any := range []bool{false, true} {
			for _, tt := range []struct{ server, from, listen string }{
				{"10.0.0.1", "192.0.2.7", "127.0.0.1:0"},
				{"10.0.0.1", "192.0.2.7", ":0"},
				{"fd00::1", "2001:db8::7", "[::1]:0"},
				{"127.0.0.1", "192.0.2.7", "127.0.0.1:0"},
			} {
				t.Run(fmt.Sprintf("%s to %s by %s, any %v, gateway %s", tt.from, tt.server, tt.listen, any, gateway), func(t *testing.T) {
					netnstest.NoLeaks(t)
					h := newHost(t, "192.0.2.7/32", "2001:db8::7/128")
					vnl := "mem://" + strings.ReplaceAll(t.Name(), "/", "_")
					cfg := Config{Interfaces: []Interface{{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.1/24", "fd00::1/64")}}}
					if gateway != "" {
						cfg.Interfaces[0].Gateways = testenv.Addrs(gateway)
					}
					s := testenv.Opened(New(t.Context(), cfg))(t)
					peer := open(t, vnl, "10.0.0.2/24", "fd00::2/64")
					before := state(t, s)
					at := net.JoinHostPort(tt.server, "80")
					listen := at
					if any {
						listen = ":80"
					}
					tcp := testenv.Opened(s.Listen("tcp", listen))(t)
					whoTCP(t, tcp)
					udp := testenv.Opened(s.ListenPacket("udp", listen))(t)
					whoUDP(t, udp)
					keep := &ForwardOptions{KeepSource: true}
					ft := testenv.Opened(h.in(s, "tcp", tt.listen, at, keep))(t)
					fu := testenv.Opened(h.in(s, "udp", tt.listen, at, keep))(t)
					dial := h.dialFrom(tt.from)
					for range 2 {
						if got, self := who(t, dial, reach(ft)); got != self {
							t.Errorf("TCP: the server saw %s, want %s", got, self)
						}
						if got, self := askUDP(t, dial, reach(fu)); got != self {
							t.Errorf("UDP: the server saw %s, want %s", got, self)
						}
					}
					if !netip.MustParseAddr(tt.server).IsLoopback() {
						if got, self := who(t, peer.Dial, addr("tcp", at)); got != self {
							t.Errorf("TCP of a peer: the server saw %s, want %s", got, self)
						}
						if got, self := askUDP(t, peer.Dial, addr("udp", at)); got != self {
							t.Errorf("UDP of a peer: the server saw %s, want %s", got, self)
						}
					}
					testenv.Check(t, ft.Close())
					testenv.Check(t, fu.Close())
					if after := state(t, s); after != before {
						t.Errorf("is\n%s\nwas\n%s", after, before)
					}
				})
			}
		}
	}
}

func addr(network, address string) net.Addr { return forwardAddr{network, address} }

// reach returns where a client of the host reaches a forward.
func reach(f *Forward) net.Addr {
	a := f.Addr()
	h, port, _ := net.SplitHostPort(a.String())
	if h == "::" {
		return addr(a.Network(), "127.0.0.1:"+port)
	}
	return a
}

// whoTCP answers connections with who they are.
func whoTCP(t testing.TB, l net.Listener) {
	answer(t, l, func(c net.Conn) string { return c.RemoteAddr().String() })
}

// answer answers connections of a listener, one after the other.
func answer(t testing.TB, l net.Listener, text func(net.Conn) string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, text(c))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// who connects, and returns what the server says and who has connected.
func who(t testing.TB, dial func(network, address string) (net.Conn, error), a net.Addr) (got, self string) {
	t.Helper()
	c := testenv.Opened(dial("tcp", a.String()))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	b := testenv.Must(io.ReadAll(c))(t)
	return string(b), c.LocalAddr().String()
}

// TestKeepSourceLost has clients whose addresses cannot be kept: they are refused, or go
// by the PROXY protocol, and are counted.
func TestKeepSourceLost(t *testing.T) {
	netnstest.NoLeaks(t)
	h := newHost(t, "10.0.0.1/32", "10.0.0.9/32", "2001:db8::7/128")
	s := open(t, "null://", "10.0.0.1/24")
	l := testenv.Opened(s.Listen("tcp", ":80"))(t)
	whoTCP(t, l)
	before := state(t, s)
	f := testenv.Opened(h.in(s, "tcp", ":0", "10.0.0.1:80", &ForwardOptions{KeepSource: true}))(t)
	_, port, _ := net.SplitHostPort(f.Addr().String())
	froms := []string{"127.0.0.1", "10.0.0.1", "10.0.0.9", "2001:db8::7"}
	to := func(from string) net.Addr {
		if strings.Contains(from, ":") {
			return addr("tcp", "[::1]:"+port)
		}
		return addr("tcp", "127.0.0.1:"+port)
	}
	for i, from := range froms {
		c, err := h.dialFrom(from)("tcp", to(from).String())
		if err == nil {
			_, err = io.ReadAll(c)
			c.Close()
		}
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: got %v, want ECONNRESET", from, err)
		}
		testenv.Eventually(t, "no client", func() bool { return f.Stats().Open == 0 })
		if st := f.Stats(); st.SourceLost != uint64(i+1) || st.Failed != uint64(i+1) || !strings.Contains(st.Err.Error(), "KeepSource") {
			t.Errorf("%s: %+v", from, st)
		}
	}
	testenv.Check(t, f.Close())
	if after := state(t, s); after != before {
		t.Errorf("is\n%s\nwas\n%s", after, before)
	}
	told := testenv.Opened(s.Listen("tcp", ":81"))(t)
	answer(t, told, func(c net.Conn) string {
		h, err := proxyproto.Read(bufio.NewReader(c))
		if err != nil {
			return err.Error()
		}
		return host4(c.RemoteAddr()) + " for " + h.SourceAddr.String()
	})
	proxy := testenv.Opened(h.in(s, "tcp", ":0", "10.0.0.1:81", &ForwardOptions{KeepSource: true, ProxyProtocol: 1}))(t)
	_, port, _ = net.SplitHostPort(proxy.Addr().String())
	for _, from := range froms {
		got, self := who(t, h.dialFrom(from), to(from))
		if want := "10.0.0.1 for " + self; got != want {
			t.Errorf("the server saw %s, want %s", got, want)
		}
	}
	if st := proxy.Stats(); st.SourceLost != uint64(len(froms)) || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
}

// TestKeepSourceShared has two ports of the host lead to one server, and what cannot be.
func TestKeepSourceShared(t *testing.T) {
	netnstest.NoLeaks(t)
	h := newHost(t, "192.0.2.7/32")
	s := open(t, "null://", "10.0.0.1/24", "10.0.0.3/24")
	before := state(t, s)
	whoTCP(t, testenv.Opened(s.Listen("tcp", ":80"))(t))
	keep := &ForwardOptions{KeepSource: true}
	in := func(network, to string) (*Forward, error) {
		return h.in(s, network, "127.0.0.1:0", to, keep)
	}
	a := testenv.Opened(in("tcp", "10.0.0.1:80"))(t)
	b := testenv.Opened(in("tcp", "10.0.0.1:80"))(t)
	c := testenv.Opened(in("tcp", "10.0.0.3:80"))(t)
	dial := h.dialFrom("192.0.2.7")
	for _, f := range []*Forward{a, b, c} {
		if got, self := who(t, dial, f.Addr()); got != self {
			t.Errorf("the server saw %s, want %s", got, self)
		}
	}
	testenv.Check(t, a.Close())
	if got, self := who(t, dial, b.Addr()); got != self {
		t.Errorf("after the other's end: the server saw %s, want %s", got, self)
	}
	d := testenv.Opened(in("udp", "10.0.0.1:53"))(t)
	for _, tt := range []struct {
		make func() (*Forward, error)
		want string
	}{
		{func() (*Forward, error) { return in("udp", "10.0.0.3:53") }, "one address for each port of UDP"},
		{func() (*Forward, error) { return in("tcp", "10.0.0.9:80") }, "10.0.0.9 is not an address of the stack"},
		{func() (*Forward, error) { return in("tcp", ":80") }, "needs the address of the server"},
		{func() (*Forward, error) { return in("tcp", "10.0.0.1:65535") }, "ports 65535"},
		{func() (*Forward, error) {
			return s.ForwardIn(t.Context(), "tcp", "unix:@x", "10.0.0.1:80", keep)
		}, "clients of a unix socket have no address"},
		{func() (*Forward, error) {
			return s.ForwardOut(t.Context(), "tcp", "10.0.0.1:0", "127.0.0.1:80", keep)
		}, "KeepSource is for the way in"},
	} {
		if f, err := tt.make(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, %v, want %q", f, err, tt.want)
		}
	}
	for _, f := range []*Forward{b, c, d} {
		testenv.Check(t, f.Close())
	}
	if after := state(t, s); after != before {
		t.Errorf("is\n%s\nwas\n%s", after, before)
	}
	// Stack.Close ends one that is in use.
	testenv.Must(in("udp", "10.0.0.3:53"))(t)
	testenv.Check(t, s.Close())
}

// TestKeepSourceAddresses has a client's UDP socket ask several addresses of the host: each
// answer is from the one that was asked.
func TestKeepSourceAddresses(t *testing.T) {
	netnstest.NoLeaks(t)
	h := newHost(t, "192.0.2.7/32")
	s := open(t, "null://", "10.0.0.1/24")
	whoUDP(t, testenv.Opened(s.ListenPacket("udp", ":53"))(t))
	f := testenv.Opened(h.in(s, "udp", ":0", "10.0.0.1:53", &ForwardOptions{KeepSource: true}))(t)
	c := testenv.Opened(h.ListenPacket("udp", "192.0.2.7:0"))(t)
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	for _, host := range []string{"127.0.0.1", "127.0.0.9", "127.0.0.1"} {
		to := &net.UDPAddr{IP: net.ParseIP(host), Port: f.Addr().(*net.UDPAddr).Port}
		_, err := c.WriteTo([]byte("hello"), to)
		testenv.Check(t, err)
		if _, from, err := c.ReadFrom(make([]byte, 100)); err != nil || from.String() != to.String() {
			t.Errorf("the answer of %v is from %v, %v", to, from, err)
		}
		testenv.Eventually(t, "one flow", func() bool { return f.Stats().Open == 1 })
	}
}

// TestKeepSourceRoutes removes the routes of clients that have been gone for long, and no
// sooner.
func TestKeepSourceRoutes(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "null://", "10.0.0.1/24")
	k := testenv.Must(s.keepSource(t.Context(), "tcp", "10.0.0.1", 80))(t)
	defer k.close()
	src := k.by[0]
	routes := func() (clients []string) {
		for _, r := range testenv.Must(src.nl.Routes())(t) {
			if r.Table == src.rule.Table {
				clients = append(clients, r.Dst.Addr().String())
			}
		}
		slices.Sort(clients)
		return clients
	}
	a, b := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	for _, client := range []netip.Addr{a, a, b} {
		testenv.Check(t, src.hold(client))
	}
	src.release(a)
	src.release(b)
	want := []string{a.String(), b.String()}
	src.removeIdle()
	if got := routes(); !slices.Equal(got, want) {
		t.Errorf("just released: %v, want %v", got, want)
	}
	src.mu.Lock()
	for _, c := range src.clients {
		c.since = time.Now().Add(-sourceLinger)
	}
	src.mu.Unlock()
	src.removeIdle()
	if got := routes(); !slices.Equal(got, want[:1]) {
		t.Errorf("after a time: %v, want %v", got, want[:1])
	}
	testenv.Check(t, src.hold(b))
	if got := routes(); !slices.Equal(got, want) {
		t.Errorf("again: %v, want %v", got, want)
	}
	// Whatever has happened to the route of a client, it is there for the next connection.
	testenv.Check(t, src.route(b, src.nl.RouteDel))
	testenv.Check(t, src.hold(b))
	if got := routes(); !slices.Equal(got, want) {
		t.Errorf("after its route was removed: %v, want %v", got, want)
	}
	src.release(b)
	for i := range maxSources - 2 {
		src.mu.Lock()
		src.clients[netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})] = &sourceClient{conns: 1}
		src.mu.Unlock()
	}
	if err := src.hold(netip.MustParseAddr("192.0.2.9")); !errors.Is(err, errSource) {
		t.Errorf("a client too many: %v", err)
	}
	src.release(b)
	testenv.Check(t, src.hold(netip.MustParseAddr("192.0.2.9")))
	want[1] = "192.0.2.9"
	if got := routes(); !slices.Equal(got, want) {
		t.Errorf("in the place of one that has left: %v, want %v", got, want)
	}
}
