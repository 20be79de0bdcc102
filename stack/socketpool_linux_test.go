package stack_test

import (
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"golang.org/x/sys/unix"
)

// TestSettingOfSockets makes sockets as quickly as it can, so that some are pooled, and changes
// a setting with which they begin.
func TestSettingOfSockets(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	v6only := func() (v int) {
		t.Helper()
		for range 1000 {
			f, err := s.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			v = optionOf(t, f, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
			f.Close()
		}
		return v
	}
	for _, set := range []struct {
		how  string
		to   int
		call func() error
	}{
		{"Sysctl", 1, func() error { return s.Sysctl("net.ipv6.bindv6only", "1") }},
		{"Run", 0, func() error { return s.Run(t.Context(), "sysctl -q -w net.ipv6.bindv6only=0") }},
	} {
		v6only()
		if err := set.call(); err != nil {
			t.Fatal(err)
		}
		f, err := s.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := optionOf(t, f, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); got != set.to {
			t.Errorf("%s: the next socket has %d, want %d", set.how, got, set.to)
		}
		f.Close()
	}
}

func optionOf(t testing.TB, f *os.File, level, opt int) (v int) {
	t.Helper()
	rc, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), level, opt) })
	if err != nil {
		t.Fatal(err)
	}
	return v
}
