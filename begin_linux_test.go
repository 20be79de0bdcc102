package vdestack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/sockets"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestBegin begins connections that the kernel makes at once, makes later, refuses, and
// would make with the socket itself.
func TestBegin(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24", "fc00::1:1/64")
	for _, ip := range []string{"127.0.0.1", "10.0.0.1", "::1", "fc00::1:1"} {
		to := testenv.Listen(t, s, "tcp", net.JoinHostPort(ip, "0")).Addr().String()
		c, f := sockets.Begin(t.Context(), s, to)
		if c == nil || f != nil {
			t.Fatalf("%s: %v, %v, want a connection", to, c, f)
		}
		checkIn(t, s, c)
		if got := c.RemoteAddr().String(); got != to {
			t.Errorf("connected to %s, want %s", got, to)
		}
		c.Close()
	}
	for _, tt := range []struct {
		to      string
		pending bool
	}{
		{"10.0.0.99:80", true},  // the kernel asks for its hardware address
		{"192.0.2.1:80", false}, // no route leads there
		{"127.0.0.1:80", true},  // refused: package net gets the error of the socket
		{"[ff02::1]:80", false}, // a group
		{"[fe80::1%vde0]:80", false},
		{"[::ffff:127.0.0.1]:80", false},
		{"0.0.0.0:80", false},
		{"127.0.0.1:http", false},
	} {
		c, f := sockets.Begin(t.Context(), s, tt.to)
		if c != nil || (f != nil) != tt.pending {
			t.Errorf("%s: %v, %v, want a socket: %v", tt.to, c, f, tt.pending)
		}
		f.Close()
	}
	testenv.Check(t, s.Sysctl("net.ipv4.ip_local_port_range", "20000 20003"))
	for range 40 {
		c, f := sockets.Begin(t.Context(), s, "127.0.0.1:20002")
		if c != nil {
			t.Fatalf("%v is connected to %v", c.LocalAddr(), c.RemoteAddr())
		}
		f.Close()
	}
}

// TestBegun compares connections that are made at once with those of package net, which a
// Dialer with a Control function has.
func TestBegun(t *testing.T) {
	s := open(t, "")
	for _, addr := range []string{"127.0.0.1:80", "[::1]:80"} {
		testenv.Listen(t, s, "tcp", addr)
		for _, keepAlive := range []time.Duration{0, time.Minute, -1} {
			d := Dialer{Stack: s}
			d.KeepAlive = keepAlive
			got := stateOf(t, testenv.Opened(d.Dial("tcp", addr))(t))
			d.Control = func(string, string, syscall.RawConn) error { return nil }
			if want := stateOf(t, testenv.Opened(d.Dial("tcp", addr))(t)); got != want {
				t.Errorf("%s, KeepAlive %v:\n got %s\nwant %s", addr, keepAlive, got, want)
			}
		}
	}
}

// stateOf describes a connection: how its descriptor and socket are set, and an error.
func stateOf(t *testing.T, c net.Conn) string {
	t.Helper()
	var values []int
	raw := testenv.Must(c.(*net.TCPConn).SyscallConn())(t)
	testenv.Check(t, raw.Control(func(fd uintptr) {
		for _, cmd := range []int{unix.F_GETFL, unix.F_GETFD} {
			values = append(values, testenv.Must(unix.FcntlInt(fd, cmd, 0))(t))
		}
		for _, o := range [][2]int{
			{unix.SOL_SOCKET, unix.SO_DOMAIN}, {unix.SOL_SOCKET, unix.SO_PROTOCOL}, {unix.SOL_SOCKET, unix.SO_ERROR},
			{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_BROADCAST}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
			{unix.SOL_TCP, unix.TCP_NODELAY}, {unix.SOL_TCP, unix.TCP_KEEPIDLE}, {unix.SOL_TCP, unix.TCP_KEEPINTVL},
			{unix.SOL_TCP, unix.TCP_KEEPCNT}, {unix.SOL_IPV6, unix.IPV6_V6ONLY},
		} {
			v, err := unix.GetsockoptInt(int(fd), o[0], o[1])
			if err != nil {
				v = -1 // IPv4
			}
			values = append(values, v)
		}
	}))
	c.SetDeadline(time.Unix(1, 0))
	_, err := c.Read(make([]byte, 1))
	op := err.(*net.OpError)
	return fmt.Sprintf("%v, %s %s %v %v", values, op.Op, op.Net, op.Addr, op.Err)
}

// TestBegunReset connects to a server that resets its connections: some at the moment at
// which the kernel has made them, and no longer knows the other end.
func TestBegunReset(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	l := testenv.Listen(t, s, "tcp", "127.0.0.1:0")
	var all sync.WaitGroup
	defer all.Wait()
	defer l.Close()
	for range 4 {
		all.Go(func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	for range 1000 {
		c, err := s.Dial("tcp", l.Addr().String())
		switch {
		case errors.Is(err, unix.ECONNRESET):
		case err != nil:
			t.Error(err)
		default:
			if c.RemoteAddr() == nil {
				t.Error("a connection without a remote address")
			}
			c.Close()
		}
	}
}

// TestBegunFull has no, one and two descriptors left for a connection, which takes two, and
// an error that says so.
func TestBegunFull(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	addr := testenv.Listen(t, s, "tcp", "127.0.0.1:0").Addr().String()
	testenv.Check(t, testenv.Closing(s.Dial("tcp", addr))) // with a socket that was made with the stack
	var old unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: old.Max}))
	var fill []int
	defer func() {
		for _, fd := range fill {
			unix.Close(fd)
		}
	}()
	for fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil; fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC) {
		fill = append(fill, fd)
	}
	for room := range 3 {
		err := testenv.Closing(s.Dial("tcp", addr))
		if room == 2 && err != nil || room < 2 && (!errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "(the limit of descriptors is 100: ")) {
			t.Errorf("%d descriptors are left: %v", room, err)
		}
		unix.Close(fill[0])
		fill = fill[1:]
	}
}

// TestBegins has dials that package net ends before it makes a socket, or tells somebody
// about.
func TestBegins(t *testing.T) {
	s := open(t, "")
	addr := testenv.Listen(t, s, "tcp", "127.0.0.1:0").Addr().String()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-1))
	defer cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		d    net.Dialer
		want string
	}{
		"cancelled":             {cancelled, net.Dialer{}, "operation was canceled"},
		"deadline of a context": {late, net.Dialer{}, "i/o timeout"},
		"Deadline":              {t.Context(), net.Dialer{Deadline: time.Now()}, "i/o timeout"},
		"Timeout":               {t.Context(), net.Dialer{Timeout: -1}, "i/o timeout"},
	} {
		if _, err := (&Dialer{Dialer: tt.d, Stack: s}).DialContext(tt.ctx, "tcp", addr); err == nil || err.Error() != "dial tcp "+addr+": "+tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}

	var events []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		ConnectStart: func(network, addr string) { events = append(events, "start "+network+" "+addr) },
		ConnectDone: func(network, addr string, err error) {
			events = append(events, fmt.Sprint("done ", network, " ", addr, " ", err))
		},
	})
	testenv.Check(t, testenv.Closing(s.DialContext(ctx, "tcp", addr)))
	if want := []string{"start tcp " + addr, "done tcp " + addr + " <nil>"}; !slices.Equal(events, want) {
		t.Errorf("the trace has %q, want %q", events, want)
	}

	s.Close()
	if _, err := s.Dial("tcp", addr); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
