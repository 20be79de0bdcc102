package slirp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func TestMain(m *testing.M) {
	testenv.Programs["sendRights"] = func() { sendRights(os.Stdout) }
	testenv.Main(m)
}

// guest opens a stack on a network, with the first address for guests and the
// host as its gateway.
func guest(t testing.TB, vnl string) *vdestack.Stack {
	t.Helper()
	return guestAt(t, vnl, "10.0.2.15/24", "fd00::15/64")
}

func guestAt(t testing.TB, vnl string, addrs ...string) *vdestack.Stack {
	t.Helper()
	ifc := vdestack.Interface{VNL: vnl}
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		ifc.Addrs = append(ifc.Addrs, p)
		ifc.Gateways = append(ifc.Gateways, numbered(p, 2))
	}
	st := testenv.Must(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{ifc}}))(t)
	t.Cleanup(func() { st.Close() })
	return st
}

// listen listens on an address of the host's loopback. named is how guests name it.
func listen(t testing.TB, loopback string) (ln net.Listener, named string) {
	t.Helper()
	ln = testenv.Must(net.Listen("tcp", net.JoinHostPort(loopback, "0")))(t)
	t.Cleanup(func() { ln.Close() })
	host := "10.0.2.2"
	if loopback == "::1" {
		host = "fd00::2"
	}
	return ln, net.JoinHostPort(host, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
}

// dial connects a guest or the host, until the test ends.
func dial(t testing.TB, from interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}, network, addr string) net.Conn {
	t.Helper()
	c := testenv.Must(from.DialContext(testenv.Context(t), network, addr))(t)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	return c
}

// hosts are the addresses of the host's loopback, and how guests name them.
var hosts = []struct{ name, loopback, named string }{
	{"IPv4", "127.0.0.1", "10.0.2.2"},
	{"IPv6", "::1", "fd00::2"},
}

// TestHTTP gets a page from a server on the host's loopback.
func TestHTTP(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			ln, named := listen(t, h.loopback)
			srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				fmt.Fprint(w, "hello ", host)
			})}}
			srv.Start()
			defer srv.Close()
			client := guest(t, "slirp://").HTTPClient()
			client.Timeout = testenv.Timeout
			defer client.CloseIdleConnections()
			resp := testenv.Must(client.Get("http://" + named))(t)
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "hello "+h.loopback {
				t.Errorf("got %q, %v, want hello %s", got, err, h.loopback)
			}
		})
	}
}

// TestTransfer moves data both ways at once, ends one direction first, and checks that
// everything arrives. The host sees its own loopback as the sender.
func TestTransfer(t *testing.T) {
	testenv.Long(t)
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			ln, named := listen(t, h.loopback)
			const size = 32 << 20
			data := bytes.Repeat([]byte("vdestack slirp "), size/15)
			sums := make(chan [32]byte, 1)
			go serve(ln, func(c net.Conn) {
				if from := c.RemoteAddr().(*net.TCPAddr).IP; !from.Equal(net.ParseIP(h.loopback)) {
					t.Errorf("the guest comes from %v, want %s", from, h.loopback)
				}
				go c.Write(data)
				sum := sha256.New()
				io.Copy(sum, c)
				sums <- [32]byte(sum.Sum(nil))
				// The other direction goes on after the guest has ended its own.
				c.Write([]byte("the end"))
			})
			c := dial(t, guest(t, "slirp://"), "tcp", named)
			go func() {
				c.Write(data)
				c.(*net.TCPConn).CloseWrite()
			}()
			got := make([]byte, len(data))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("what arrived differs: %v", err)
			}
			if rest, err := io.ReadAll(c); err != nil || string(rest) != "the end" {
				t.Errorf("got %q, %v, want what comes last", rest, err)
			}
			if <-sums != sha256.Sum256(data) {
				t.Error("what the host got differs")
			}
		})
	}
}

// TestUDP sends datagrams of many sizes to an echo server on the host's loopback.
func TestUDP(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			echo := echoServer(t, h.loopback)
			c := dial(t, guest(t, "slirp://"), "udp", net.JoinHostPort(h.named, fmt.Sprint(echo.Port())))
			buf := make([]byte, maxDatagram)
			for _, size := range []int{0, 1, 1472, 1473, 9000, 40000, 65000} {
				data := bytes.Repeat([]byte{byte(size)}, size)
				c.SetDeadline(time.Now().Add(testenv.Timeout))
				if _, err := c.Write(data); err != nil {
					t.Fatal(err)
				}
				n, err := c.Read(buf)
				if err != nil || !bytes.Equal(buf[:n], data) {
					t.Errorf("%d bytes: got %d bytes back, %v", size, n, err)
				}
			}
		})
	}
}

// echoServer starts a server on an address of the host.
func echoServer(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	pc := testenv.Must(net.ListenPacket("udp", net.JoinHostPort(host, "0")))(t)
	t.Cleanup(func() { pc.Close() })
	go servePackets(pc, func(b []byte, _ net.Addr) []byte { return b })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// servePackets answers datagrams until the socket is closed; nil is no answer.
func servePackets(pc net.PacketConn, answer func(b []byte, from net.Addr) []byte) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if a := answer(buf[:n], from); a != nil {
			pc.WriteTo(a, from)
		}
	}
}

// serve calls f for each client and then closes it, until the listener is closed and the
// clients are gone.
func serve(ln net.Listener, f func(c net.Conn)) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		clients.Go(func() {
			defer c.Close()
			f(c)
		})
	}
}

// TestRefused connects to ports that are closed, and to what guests must not reach.
func TestRefused(t *testing.T) {
	ln, _ := listen(t, "127.0.0.1")
	open := ln.Addr().(*net.TCPAddr).Port
	for _, tt := range []struct {
		name, vnl, addr string
		port            int
	}{
		{"no server", "slirp://", "10.0.2.2", 9},
		{"name server, another port", "slirp://", "10.0.2.3", open},
		{"unspecified", "slirp://", "0.1.2.3", open},
		{"loopback is off", "slirp:///disable_host_loopback", "10.0.2.2", open},
		{"loopback is off, IPv6", "slirp:///disable_host_loopback", "fd00::2", open},
		{"metadata", "slirp://", "169.254.169.254", 80},
		{"restricted", "slirp:///restricted", "10.0.2.2", open},
		{"restricted, beyond", "slirp:///restricted", "203.0.113.1", open},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := guest(t, tt.vnl)
			c, err := st.DialContext(testenv.Context(t), "tcp", net.JoinHostPort(tt.addr, fmt.Sprint(tt.port)))
			if err == nil {
				c.Close()
				t.Fatalf("%s was reached", c.RemoteAddr())
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

// TestPlug checks what every plug promises.
func TestPlug(t *testing.T) {
	plugtest.Check(t, func(t *testing.T) plugtest.Conn { return openNAT(t, "slirp://") })
}

// plugs are those that tests have made, by name, for a stack to open.
var plugs sync.Map

func init() {
	vdeplug.Register(vdeplug.Scheme{Name: "plug-of-test", Open: func(_ context.Context, l vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
		p, _ := plugs.LoadAndDelete(l.Body())
		return p.(vdeplug.Conn), nil
	}})
}

// openNAT opens a plug.
func openNAT(t testing.TB, vnl string) *nat {
	t.Helper()
	c := testenv.Must(vdeplug.Open(vnl, nil))(t)
	t.Cleanup(func() { c.Close() })
	return c.(*nat)
}

// guestOn opens a stack on a plug.
func guestOn(t testing.TB, p vdeplug.Conn, addrs ...string) *vdestack.Stack {
	t.Helper()
	name := fmt.Sprintf("%p", p)
	plugs.Store(name, p)
	return guestAt(t, "plug-of-test://"+name, addrs...)
}

// natGuest opens a plug for IPv4, and a stack on it.
func natGuest(t *testing.T) (*nat, *vdestack.Stack) {
	t.Helper()
	n := openNAT(t, "slirp:///v4")
	return n, guestOn(t, n, "10.0.2.15/24")
}

// TestLeaks closes a plug that has connections in all states, a flow, a command
// that writes more than is read and ignores its end, and a file of TFTP.
func TestLeaks(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	_, host := listen(t, "127.0.0.1")
	echo := echoServer(t, "127.0.0.1")
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2000), 0o644)
	st := guest(t, "slirp:///tcpfwd=127.0.0.1:8080:10.0.2.15:80,127.0.0.1:8081:10.0.2.99:80/udpfwd=127.0.0.1:5353:10.0.2.15:53"+
		"/cmdfwd=6000:'sh -c \"trap : TERM; yes on & while :; do sleep 1; done\"'/tftp_path="+strings.ReplaceAll(dir, "/", "%2f"))

	dial(t, st, "tcp", host) // idle
	command := dial(t, st, "tcp", "10.0.2.4:6000")
	if _, err := io.ReadFull(command, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	full := dial(t, st, "tcp", host) // nobody reads
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		full.Write(make([]byte, 64<<20))
	}()
	nobody := testenv.Must(net.Dial("tcp", "127.0.0.1:8081"))(t) // it looks for its guest
	defer nobody.Close()
	for _, c := range []struct {
		addr, send string
		want       int
	}{
		{fmt.Sprintf("10.0.2.2:%d", echo.Port()), "hello", 5},
		{"10.0.2.2:69", "\x00\x01f\x00octet\x00", 516},
	} {
		u := dial(t, st, "udp", c.addr)
		fmt.Fprint(u, c.send)
		if n, err := u.Read(make([]byte, 2000)); err != nil || n != c.want {
			t.Errorf("%s: got %d bytes, %v, want %d", c.addr, n, err, c.want)
		}
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	<-writing
}

// TestReset breaks a connection off on each side: the other gets a reset.
func TestReset(t *testing.T) {
	ln, named := listen(t, "127.0.0.1")
	st := guest(t, "slirp://")
	for _, breaker := range []string{"host", "guest"} {
		t.Run(breaker, func(t *testing.T) {
			c := dial(t, st, "tcp", named)
			h := testenv.Must(ln.Accept())(t)
			defer h.Close()
			breaks, learns := h, c
			if breaker == "guest" {
				breaks, learns = c, h
			}
			breaks.(*net.TCPConn).SetLinger(0)
			breaks.Close()
			learns.SetDeadline(time.Now().Add(testenv.Timeout))
			if _, err := learns.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}

// TestResetUnread has a reset passed on while nobody reads from the side that breaks the
// connection off: after the end of its data, and while the other side reads nothing of
// what was sent before.
func TestResetUnread(t *testing.T) {
	ln, named := listen(t, "127.0.0.1")
	n := openNAT(t, "slirp://")
	st := guestOn(t, n, "10.0.2.15/24")
	places := func() int {
		n.conns.mu.Lock()
		defer n.conns.mu.Unlock()
		return n.conns.places
	}
	all := places()
	cases := map[string]func(breaks, learns net.Conn){
		"half-closed": func(breaks, learns net.Conn) {
			testenv.Check(t, breaks.(*net.TCPConn).CloseWrite())
			if _, err := learns.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("got %v, want the end", err)
			}
		},
		"stalled": func(breaks, learns net.Conn) {
			for sent := 1; sent > 0; {
				breaks.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				sent, _ = breaks.Write(make([]byte, 1<<20))
			}
		},
	}
	for name, prepare := range cases {
		for _, breaker := range []string{"host", "guest"} {
			t.Run(name+"/"+breaker, func(t *testing.T) {
				c := dial(t, st, "tcp", named)
				h := testenv.Must(ln.Accept())(t)
				defer h.Close()
				h.SetDeadline(time.Now().Add(testenv.Timeout))
				breaks, learns := h, c
				if breaker == "guest" {
					breaks, learns = c, h
				}
				prepare(breaks, learns)
				breaks.(*net.TCPConn).SetLinger(0)
				breaks.Close()
				testenv.Eventually(t, "no connection", func() bool { return places() == all })
				if !untilReset(learns.(stream)) {
					t.Error("no reset")
				}
			})
		}
	}
}

// TestMTU checks the size of the segments that the guest may send.
func TestMTU(t *testing.T) {
	_, named := listen(t, "127.0.0.1")
	const headers = 20 + 20 + 12 // of IPv4 and TCP with a timestamp
	for _, tt := range []struct {
		vnl  string
		want int
	}{
		{"slirp://", 1500 - headers},
		{"slirp:///mtu=1400", 1400 - headers},
		{"slirp:///mru=1300", 1300 - headers},
		{"slirp:///mtu=9000/mru=9000", 1500 - headers}, // the interface of the guest has 1500
	} {
		c := dial(t, guest(t, tt.vnl), "tcp", named)
		raw, err := c.(*net.TCPConn).SyscallConn()
		testenv.Check(t, err)
		var got int
		raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG) })
		if err != nil || got != tt.want {
			t.Errorf("%s: got segments of %d bytes, %v, want %d", tt.vnl, got, err, tt.want)
		}
	}
}
