package stack_test

import (
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
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
			f := testenv.Must(s.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0))(t)
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
		testenv.Check(t, set.call())
		f := testenv.Must(s.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0))(t)
		if got := optionOf(t, f, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); got != set.to {
			t.Errorf("%s: the next socket has %d, want %d", set.how, got, set.to)
		}
		f.Close()
	}
}

func optionOf(t testing.TB, f *os.File, level, opt int) int {
	t.Helper()
	return testenv.Must(unix.GetsockoptInt(int(f.Fd()), level, opt))(t)
}
