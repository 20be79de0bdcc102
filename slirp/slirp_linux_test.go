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
		ifc.Gateways = append(ifc.Gateways, numbered(p, hostNumber))
	}
	st, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{ifc}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Timeout)
	t.Cleanup(cancel)
	return ctx
}

// hosts are the addresses of the host's loopback, and how guests name them.
var hosts = []struct{ name, loopback, named string }{
	{"IPv4", "127.0.0.1", "10.0.2.2"},
	{"IPv6", "::1", "fd00::2"},
}

// TestHTTP gets a page of a server on the host's loopback.
func TestHTTP(t *testing.T) {
	curl := testenv.Need(t, "curl", "curl")
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", net.JoinHostPort(h.loopback, "0"))
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				fmt.Fprintf(w, "hello %s", host)
			}))
			srv.Listener.Close()
			srv.Listener = ln
			srv.Start()
			defer srv.Close()
			st := guest(t, "slirp://")
			url := "http://" + net.JoinHostPort(h.named, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
			want := "hello " + h.loopback

			client := st.HTTPClient()
			client.Timeout = testenv.Timeout
			resp, err := client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			client.CloseIdleConnections()
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			out, err := st.Command(bounded(t), curl, "-sS", "--max-time", "15", url).CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("curl: got %q, %v, want %q", out, err, want)
			}
		})
	}
}

// TestTransfer moves data both ways at once, ends one direction first, and looks
// that all arrives.
func TestTransfer(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", net.JoinHostPort(h.loopback, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			const size = 32 << 20
			data := bytes.Repeat([]byte("vdestack slirp "), size/15)
			sums := make(chan [32]byte, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				go c.Write(data)
				sum := sha256.New()
				io.Copy(sum, c)
				sums <- [32]byte(sum.Sum(nil))
				// The other direction goes on after the guest has ended its own.
				c.Write([]byte("the end"))
			}()
			st := guest(t, "slirp://")
			c, err := st.DialContext(bounded(t), "tcp", net.JoinHostPort(h.named, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(testenv.Timeout))
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
			st := guest(t, "slirp://")
			c, err := st.DialContext(bounded(t), "udp", net.JoinHostPort(h.named, fmt.Sprint(echo.Port())))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
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
	pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestRefused connects to what is not there, and to what must not be reached.
func TestRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
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
			c, err := st.DialContext(bounded(t), "tcp", net.JoinHostPort(tt.addr, fmt.Sprint(tt.port)))
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

// TestClose looks at what is left to a plug that is closed.
func TestClose(t *testing.T) {
	conn, err := vdeplug.Open("slirp://", nil)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error, 1)
	go func() {
		_, err := conn.Recv(make([]byte, vdeplug.MaxFrame))
		received <- err
	}()
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-received; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Recv that waited: got %v, want net.ErrClosed", err)
	}
	if err := conn.Send(make([]byte, 60)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send: got %v, want net.ErrClosed", err)
	}
	if _, err = conn.Recv(make([]byte, vdeplug.MaxFrame)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Recv: got %v, want net.ErrClosed", err)
	}
}

// plugs are those that tests have made, by number, for a stack to open.
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
	c, err := vdeplug.Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
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

// noLeaks fails the test if it leaves goroutines or descriptors behind. Call it first:
// its clean-up is then the last.
func noLeaks(t *testing.T) {
	t.Helper()
	st := guest(t, "null://") // what all stacks share
	st.Close()
	netnstest.NoLeaks(t)
}

// TestLeaks closes a plug that has connections in all states, a flow, a command
// that ignores its end, and a file of TFTP.
func TestLeaks(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	echo := echoServer(t, "127.0.0.1")
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2000), 0o644)
	st := guest(t, "slirp:///tcpfwd=127.0.0.1:8080:10.0.2.15:80,127.0.0.1:8081:10.0.2.99:80/udpfwd=127.0.0.1:5353:10.0.2.15:53"+
		"/cmdfwd=6000:'sh -c \"trap : TERM; echo on; while :; do sleep 1; done\"'/tftp_path="+strings.ReplaceAll(dir, "/", "%2f"))
	ctx := bounded(t)
	host := fmt.Sprintf("10.0.2.2:%d", ln.Addr().(*net.TCPAddr).Port)

	idle, err := st.DialContext(ctx, "tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	command, err := st.DialContext(ctx, "tcp", "10.0.2.4:6000")
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	command.SetDeadline(time.Now().Add(testenv.Timeout))
	if _, err := io.ReadFull(command, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	full, err := st.DialContext(ctx, "tcp", host) // nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		full.Write(make([]byte, 64<<20))
	}()
	nobody, err := net.Dial("tcp", "127.0.0.1:8081") // it looks for its guest
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	for _, c := range []struct {
		addr, send string
		want       int
	}{
		{fmt.Sprintf("10.0.2.2:%d", echo.Port()), "hello", 5},
		{"10.0.2.2:69", "\x00\x01f\x00octet\x00", 516},
	} {
		u, err := st.DialContext(ctx, "udp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		u.SetDeadline(time.Now().Add(testenv.Timeout))
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

// TestReset looks that each side learns that the other has broken off.
func TestReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	st := guest(t, "slirp://")
	for _, breaker := range []string{"host", "guest"} {
		t.Run(breaker, func(t *testing.T) {
			c, err := st.DialContext(bounded(t), "tcp", fmt.Sprintf("10.0.2.2:%d", ln.Addr().(*net.TCPAddr).Port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			h, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
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

// TestMTU looks at the size of segments that the guest may send.
func TestMTU(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const headers = 20 + 20 + 12 // of IPv4 and TCP with a timestamp
	for _, tt := range []struct {
		vnl  string
		want int
	}{
		{"slirp://", 1500 - headers},
		{"slirp:///mtu=1400", 1400 - headers},
		{"slirp:///mru=1300", 1300 - headers},
		{"slirp:///mtu=9000/mru=9000", 1500 - headers}, // that of the guest's interface
	} {
		st := guest(t, tt.vnl)
		c, err := st.DialContext(bounded(t), "tcp", fmt.Sprintf("10.0.2.2:%d", ln.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG) })
		if err != nil || got != tt.want {
			t.Errorf("%s: got segments of %d bytes, %v, want %d", tt.vnl, got, err, tt.want)
		}
		c.Close()
	}
}
