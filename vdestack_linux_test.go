package vdestack

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// open opens a stack for the length of the test.
func open(t testing.TB, vnl string, prefixes ...string) *Stack {
	t.Helper()
	s, err := Open(vnl, prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// made returns a stack that ends with the test.
func made(t testing.TB, cfg Config) *Stack {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// configuration opens a netlink connection that ends with the test.
func configuration(t testing.TB, s *Stack) *rtnl.Conn {
	t.Helper()
	nl, err := s.RTNL()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	return nl
}

// pair opens the stacks 10.0.0.1, fc00::1:1 and 10.0.0.2, fc00::1:2 on a
// network of their own.
func pair(t testing.TB) (a, b *Stack) {
	t.Helper()
	vnl := "mem://" + t.Name()
	return open(t, vnl, "10.0.0.1/24", "fc00::1:1/64"), open(t, vnl, "10.0.0.2/24", "fc00::1:2/64")
}

// cookieOf returns the namespace of a socket.
func cookieOf(t testing.TB, c any) (cookie uint64) {
	t.Helper()
	sc, ok := c.(syscall.Conn)
	if !ok {
		t.Fatalf("%T is no syscall.Conn", c)
	}
	raw, err := sc.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// checkIn reports a socket that is not in the stack.
func checkIn(t testing.TB, s *Stack, c any) {
	t.Helper()
	f := testenv.Socket(t, s, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if got, want := cookieOf(t, c), cookieOf(t, f); got != want {
		t.Errorf("%T is in the namespace %d, the stack is %d", c, got, want)
	}
}

func TestOpen(t *testing.T) {
	netnstest.NoLeaks(t)
	lo := open(t, "")
	if got := len(lo.Stats().Interfaces); got != 0 {
		t.Errorf("a stack without network has %d interfaces", got)
	}
	ln := testenv.Listen(t, lo, "tcp", "127.0.0.1:0")
	c, err := lo.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestSetDefault(t *testing.T) {
	a := open(t, "")
	SetDefault(a)
	defer SetDefault(nil)
	if Default() != a {
		t.Fatal("SetDefault did not")
	}
	ln, err := Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	checkIn(t, a, ln)
	c, err := Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkIn(t, a, c)
	p, err := ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	checkIn(t, a, p)

	SetDefault(nil)
	host, err := ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if cookieOf(t, host) == cookieOf(t, ln) {
		t.Error("without a default stack the host is used")
	}
}

// TestSetDefaultClosed closes the default stack: the package functions do not reach
// the host, where there is a listener for them, until the program asks for that.
func TestSetDefaultClosed(t *testing.T) {
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	s, err := New(t.Context(), Config{Name: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	SetDefault(s)
	defer SetDefault(nil)
	s.Close()
	addr := host.Addr().String()
	conn := func(c io.Closer, err error) error {
		if err == nil {
			c.Close()
		}
		return err
	}
	functions := map[string]func() error{
		"Dial":                func() error { return conn(Dial("tcp", addr)) },
		"Dial, UDP":           func() error { return conn(Dial("udp", addr)) },
		"Dial, raw":           func() error { return conn(Dial("ip4:icmp", "127.0.0.1")) },
		"Dial, name":          func() error { return conn(Dial("tcp", "localhost:1")) },
		"DialContext":         func() error { return conn(DialContext(t.Context(), "tcp", addr)) },
		"Listen":              func() error { return conn(Listen("tcp", "127.0.0.1:0")) },
		"Listen, unix":        func() error { return conn(Listen("unix", "@"+t.Name())) },
		"ListenPacket":        func() error { return conn(ListenPacket("udp", "127.0.0.1:0")) },
		"ListenPacket, raw":   func() error { return conn(ListenPacket("ip4:icmp", "127.0.0.1")) },
		"ListenPacket, group": func() error { return conn(ListenPacket("udp", "224.0.0.9:0")) },
	}
	for name, f := range functions {
		if err := f(); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "lab") {
			t.Errorf("%s, the default stack is closed: %v, want net.ErrClosed and the name of the stack", name, err)
		}
	}
	if Default() != s {
		t.Error("the closed stack is not the default any more")
	}
	SetDefault(nil)
	if err := functions["Dial"](); err != nil {
		t.Errorf("after SetDefault(nil): %v", err)
	}
}
