package vdestack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// dialer and listener in stacks, for a test of connections between them.
type endpoint struct {
	name, network, listen string
	from, to              *Stack
}

func endpoints(t *testing.T) []endpoint {
	a, b := pair(t)
	return []endpoint{
		{"tcp4", "tcp4", "10.0.0.1:0", b, a},
		{"tcp6", "tcp6", "[fc00::1:1]:0", b, a},
		{"tcp4 loopback", "tcp", "127.0.0.1:0", a, a},
		{"tcp6 loopback", "tcp", "[::1]:0", a, a},
		{"unix", "unix", filepath.Join(t.TempDir(), "socket"), a, a},
		{"abstract unix", "unix", "@vdestack-test", a, a},
	}
}

func (e endpoint) pipe() (c1, c2 net.Conn, stop func(), err error) {
	ln, err := e.to.Listen(e.network, e.listen)
	if err != nil {
		return nil, nil, nil, err
	}
	defer ln.Close()
	accepted := make(chan error, 1)
	go func() {
		var err error
		c2, err = ln.Accept()
		accepted <- err
	}()
	c1, err = e.from.Dial(e.network, ln.Addr().String())
	if err != nil {
		return nil, nil, nil, err
	}
	if err := <-accepted; err != nil {
		c1.Close()
		return nil, nil, nil, err
	}
	return c1, c2, func() { c1.Close(); c2.Close() }, nil
}

func TestConn(t *testing.T) {
	testenv.Long(t)
	for _, e := range endpoints(t) {
		t.Run(e.name, func(t *testing.T) { nettest.TestConn(t, e.pipe) })
	}
}

// TestWhere sees every socket in its stack, and of the standard types.
func TestWhere(t *testing.T) {
	for _, e := range endpoints(t) {
		t.Run(e.name, func(t *testing.T) {
			ln := testenv.Must(e.to.Listen(e.network, e.listen))(t)
			checkIn(t, e.to, ln)
			ln.Close()
			c1, c2, stop, err := e.pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			checkIn(t, e.from, c1)
			checkIn(t, e.to, c2)
			switch c1.(type) {
			case *net.TCPConn, *net.UnixConn:
			default:
				t.Errorf("connection is a %T", c1)
			}
			switch ln.(type) {
			case *net.TCPListener, *net.UnixListener:
			default:
				t.Errorf("listener is a %T", ln)
			}
		})
	}
}

// TestEscape has the same address and port on the host, which gets nothing.
func TestEscape(t *testing.T) {
	host := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	s := open(t, "")
	if c, err := s.Dial("tcp", host.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port of the host answers in the stack: %v, %v", c, err)
	}
	ln, err := s.Listen("tcp", host.Addr().String())
	if err != nil {
		t.Fatalf("the port of the host is taken in the stack: %v", err)
	}
	defer ln.Close()
	testenv.Dial(t, s, "tcp", host.Addr().String())
	host.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := host.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the host was called: %v", err)
	}
}

func TestUDP(t *testing.T) {
	a, b := pair(t)
	tests := []struct{ name, network, listen, dial string }{
		{"udp4", "udp4", "10.0.0.1:0", "10.0.0.1"},
		{"udp6", "udp6", "[fc00::1:1]:0", "fc00::1:1"},
		{"both, over 4", "udp", ":0", "10.0.0.1"},
		{"both, over 6", "udp", ":0", "fc00::1:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := testenv.ListenPacket(t, a, tt.network, tt.listen)
			checkIn(t, a, p)
			_, port, _ := net.SplitHostPort(p.LocalAddr().String())
			c := testenv.Dial(t, b, tt.network, net.JoinHostPort(tt.dial, port))
			checkIn(t, b, c)
			deadline := time.Now().Add(10 * time.Second)
			p.SetDeadline(deadline)
			c.SetDeadline(deadline)
			want := bytes.Repeat([]byte("0123456789"), 6000) // many fragments
			testenv.Must(c.Write(want))(t)
			buf := make([]byte, 65536)
			n, from, err := p.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("got %d bytes, %v, want %d", n, err, len(want))
			}
			testenv.Must(p.WriteTo([]byte("answer"), from))(t)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "answer" {
				t.Errorf("got %q, %v", buf[:n], err)
			}
		})
	}
}

// TestDualStack listens without a host and is reached over both families.
func TestDualStack(t *testing.T) {
	a, b := pair(t)
	ln := testenv.Listen(t, a, "tcp", ":0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"10.0.0.1", "fc00::1:1"} {
		testenv.Dial(t, b, "tcp", net.JoinHostPort(host, port))
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		ln := testenv.Listen(t, a, network, ":0")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for family, host := range map[string]string{"4": "10.0.0.1", "6": "fc00::1:1"} {
			err := testenv.Closing(b.Dial("tcp", net.JoinHostPort(host, port)))
			if (err == nil) != strings.HasSuffix(network, family) {
				t.Errorf("a listener of %s, called at %s: %v", network, host, err)
			}
		}
	}
}

// TestDialer has the fields of net.Dialer and net.ListenConfig do their work.
func TestDialer(t *testing.T) {
	a, b := pair(t)
	var seen []string
	var mu sync.Mutex
	note := func(who string, s *Stack) func(string, string, syscall.RawConn) error {
		return func(network, address string, c syscall.RawConn) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, who+" "+network)
			checkIn(t, s, rawConn{c})
			var err error
			c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 20000) })
			return err
		}
	}
	lc := ListenConfig{Stack: a}
	lc.Control = note("listen", a)
	ln := testenv.Opened(lc.Listen(t.Context(), "tcp", "10.0.0.1:0"))(t)
	d := Dialer{Stack: b}
	d.LocalAddr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 4444}
	d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 77 * time.Second, Interval: 11 * time.Second, Count: 5}
	d.ControlContext = func(_ context.Context, network, address string, c syscall.RawConn) error {
		return note("dial", b)(network, address, c)
	}
	d.Control = func(string, string, syscall.RawConn) error { return errors.New("ControlContext comes first") }
	c := testenv.Opened(d.Dial("tcp", ln.Addr().String()))(t)
	if got := c.LocalAddr().String(); got != "10.0.0.2:4444" {
		t.Errorf("local address %s", got)
	}
	raw, _ := c.(*net.TCPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		for _, o := range []struct {
			name             string
			level, opt, want int
		}{
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 11},
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 40000},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); got != o.want {
				t.Errorf("%s: got %d, %v, want %d", o.name, got, err, o.want)
			}
		}
	})
	if got := strings.Join(seen, ", "); got != "listen tcp4, dial tcp4" {
		t.Errorf("the caller's own Control functions saw %q", got)
	}

	d = Dialer{Stack: b}
	d.SetMultipathTCP(true)
	c = testenv.Opened(d.Dial("tcp", ln.Addr().String()))(t)
	if mp, err := c.(*net.TCPConn).MultipathTCP(); !mp || err != nil {
		t.Errorf("multipath TCP: %t, %v", mp, err)
	}
}

type rawConn struct{ c syscall.RawConn }

func (r rawConn) SyscallConn() (syscall.RawConn, error) { return r.c, nil }

// TestHook joins the stack with the bare hooks.
func TestHook(t *testing.T) {
	a, b := pair(t)
	lc := net.ListenConfig{Control: a.Control}
	ln := testenv.Opened(lc.Listen(t.Context(), "tcp", "10.0.0.1:0"))(t)
	checkIn(t, a, ln)
	d := net.Dialer{ControlContext: b.ControlContext}
	checkIn(t, b, testenv.Opened(d.Dial("tcp", ln.Addr().String()))(t))
	checkIn(t, a, testenv.Opened(lc.ListenPacket(t.Context(), "udp", "10.0.0.1:0"))(t))
}

// TestDialErrors compares with package net on the host.
func TestDialErrors(t *testing.T) {
	s := open(t, "")
	for _, tt := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:1"},
		{"tcp", "127.0.0.1"},
		{"tcp", "127.0.0.1:99999"},
		{"tcp", "127.0.0.1:nosuchport"},
		{"tcp4", "[::1]:80"},
		{"foo", "127.0.0.1:1"},
		{"", ""},
		{"unix", "/nonexistent/socket"},
		{"unix", "@nonexistent"},
	} {
		_, got := s.Dial(tt.network, tt.address)
		_, want := net.Dial(tt.network, tt.address)
		if got == nil || want == nil || got.Error() != want.Error() {
			t.Errorf("dial %q %q: got %v, want as on the host: %v", tt.network, tt.address, got, want)
		}
		var op *net.OpError
		if !errors.As(got, &op) {
			t.Errorf("dial %q %q: a %T", tt.network, tt.address, got)
		}
	}
	for _, tt := range []struct{ network, address string }{
		{"tcp", "192.0.2.1:80"}, // no such address here
		{"tcp", "127.0.0.1:99999"},
		{"tcp4", "[::1]:80"},
		{"unix", "/nonexistent/socket"},
		{"foo", ":0"},
	} {
		_, got := s.Listen(tt.network, tt.address)
		_, want := net.Listen(tt.network, tt.address)
		if got == nil || want == nil || got.Error() != want.Error() {
			t.Errorf("listen %q %q: got %v, want as on the host: %v", tt.network, tt.address, got, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	a, _ := pair(t)
	// Nobody answers for this address; the address resolution takes seconds.
	const nobody = "10.0.0.99:80"
	soon, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		limits  net.Dialer
		address string
		want    string // in the error; empty: it is a timeout
	}{
		{"Timeout", t.Context(), net.Dialer{Timeout: 20 * time.Millisecond}, nobody, ""},
		{"a negative Timeout, a name", t.Context(), net.Dialer{Timeout: -1, Deadline: time.Now().Add(testenv.Timeout)}, "localhost:80", ""},
		{"deadline of the context", soon, net.Dialer{}, nobody, ""},
		{"cancelled", cancelled, net.Dialer{}, nobody, "operation was canceled"},
	} {
		_, err := (&Dialer{Dialer: tt.limits, Stack: a}).DialContext(tt.ctx, "tcp", tt.address)
		if ne, ok := errors.AsType[net.Error](err); !ok || tt.want == "" && !ne.Timeout() || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestHappyEyeballs dials a name with a dead IPv6 address and a good IPv4 one.
func TestHappyEyeballs(t *testing.T) {
	a, _ := pair(t)
	s := made(t, Config{
		Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.3/24", "fc00::1:3/64")}},
		DNS:        DNS{Hosts: map[string][]netip.Addr{"server": testenv.Addrs("fc00::1:99", "10.0.0.1"), "dead": testenv.Addrs("10.0.0.1", "fc00::1:1")}},
	})
	testenv.Listen(t, a, "tcp", "10.0.0.1:80")
	start := time.Now()
	c := testenv.Must(s.Dial("tcp", "server:80"))(t)
	c.Close()
	// Far below the three seconds after which address resolution gives up.
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("a dead IPv6 address delayed the dial by %v", d)
	}
	if _, err := s.Dial("tcp", "dead:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	d := Dialer{Stack: s}
	d.FallbackDelay = -1
	d.Timeout = 100 * time.Millisecond
	if c, err := d.Dial("tcp6", "server:80"); err == nil {
		t.Errorf("connected to %v", c.RemoteAddr())
	}
	d.Timeout = 0
	d.LocalAddr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 3)}
	if err := testenv.Closing(d.Dial("tcp", "server:80")); err != nil {
		t.Errorf("with a local IPv4 address: %v", err)
	}
}

func TestHTTP(t *testing.T) {
	a, b := pair(t)
	ln := testenv.Must(a.Listen("tcp", ":80"))(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})}
	defer srv.Close()
	go srv.Serve(ln)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c := b.HTTPClient()
	defer c.CloseIdleConnections()
	c.Timeout = 10 * time.Second
	want := strings.Repeat("body ", 100000)
	for _, url := range []string{"http://10.0.0.1/", "http://[fc00::1:1]/"} {
		resp := testenv.Must(c.Post(url, "text/plain", strings.NewReader(want)))(t)
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want {
			t.Errorf("%s: got %d bytes, %v, want %d", url, len(got), err, len(want))
		}
	}
}

func TestSocketTypes(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	for _, k := range [][3]int{
		{unix.AF_INET, unix.SOCK_STREAM, 0},
		{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, 0},
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{unix.AF_PACKET, unix.SOCK_RAW, 0},
		{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
	} {
		f, err := s.Socket(k[0], k[1], k[2])
		if err != nil {
			t.Errorf("socket %v: %v", k, err)
			continue
		}
		checkIn(t, s, f)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("socket %v is not close-on-exec: %v", k, err)
		}
		f.Close()
	}
}
