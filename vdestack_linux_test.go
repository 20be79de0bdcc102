package vdestack

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// open opens a stack for the length of the test.
func open(t testing.TB, vnl string, prefixes ...string) *Stack {
	t.Helper()
	return testenv.Opened(Open(vnl, prefixes...))(t)
}

// made returns a stack that ends with the test.
func made(t testing.TB, cfg Config) *Stack {
	t.Helper()
	return testenv.Opened(New(t.Context(), cfg))(t)
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
	raw := testenv.Must(sc.SyscallConn())(t)
	var err error
	testenv.Check(t, raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}))
	if err != nil {
		t.Error(err)
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

func TestSetDefault(t *testing.T) {
	a := open(t, "")
	SetDefault(a)
	defer SetDefault(nil)
	if Default() != a {
		t.Fatal("SetDefault did not")
	}
	ln := testenv.Opened(Listen("tcp", "localhost:0"))(t)
	checkIn(t, a, ln)
	checkIn(t, a, testenv.Opened(Dial("tcp", ln.Addr().String()))(t))
	checkIn(t, a, testenv.Opened(ListenPacket("udp", ":0"))(t))

	SetDefault(nil)
	host := testenv.Opened(ListenPacket("udp", "127.0.0.1:0"))(t)
	if cookieOf(t, host) == cookieOf(t, ln) {
		t.Error("without a default stack the host is used")
	}
}

// TestSetDefaultClosed closes the default stack: the package functions do not reach
// the host, where there is a listener for them, until the program asks for that.
func TestSetDefaultClosed(t *testing.T) {
	host := testenv.Opened(net.Listen("tcp", "127.0.0.1:0"))(t)
	s := testenv.Must(New(t.Context(), Config{Name: "lab"}))(t)
	SetDefault(s)
	defer SetDefault(nil)
	s.Close()
	addr := host.Addr().String()
	functions := map[string]func() error{
		"Dial":                func() error { return testenv.Closing(Dial("tcp", addr)) },
		"Dial, UDP":           func() error { return testenv.Closing(Dial("udp", addr)) },
		"Dial, raw":           func() error { return testenv.Closing(Dial("ip4:icmp", "127.0.0.1")) },
		"Dial, name":          func() error { return testenv.Closing(Dial("tcp", "localhost:1")) },
		"DialContext":         func() error { return testenv.Closing(DialContext(t.Context(), "tcp", addr)) },
		"Listen":              func() error { return testenv.Closing(Listen("tcp", "127.0.0.1:0")) },
		"Listen, unix":        func() error { return testenv.Closing(Listen("unix", "@"+t.Name())) },
		"ListenPacket":        func() error { return testenv.Closing(ListenPacket("udp", "127.0.0.1:0")) },
		"ListenPacket, raw":   func() error { return testenv.Closing(ListenPacket("ip4:icmp", "127.0.0.1")) },
		"ListenPacket, group": func() error { return testenv.Closing(ListenPacket("udp", "224.0.0.9:0")) },
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
