//go:build amd64 || arm64

package netns

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// pingSetting reads the setting without what ReadSysctl does before.
func pingSetting(t *testing.T, n *NS) string {
	t.Helper()
	const path = "/proc/sys/net/ipv4/ping_group_range"
	fd := testenv.Must(n.Open(path, unix.O_RDONLY))(t)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return strings.Join(strings.Fields(string(testenv.Must(io.ReadAll(f))(t))), " ")
}

// TestAllowPing has ping sockets allowed before the first of what could need it, and
// not with the namespace, as the kernel's own setting shows. A value of the program's
// stays.
func TestAllowPing(t *testing.T) {
	set := newNS(t)
	kernels := pingSetting(t, set)
	testenv.Check(t, set.WriteSysctl("net/ipv4/ping_group_range", pingRange()))
	unix.Close(newSocket(t, set, unix.AF_INET, unix.SOCK_DGRAM, 0))
	if got := pingSetting(t, set); got != pingRange() {
		t.Errorf("the program's setting is %q now", got)
	}
	if kernels == pingRange() {
		return // this group has the number of those that are not mapped
	}
	for name, first := range map[string]func(n *NS){
		"ping socket": func(n *NS) { unix.Close(newSocket(t, n, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)) },
		"IPv6 ping socket": func(n *NS) {
			unix.Close(newSocket(t, n, unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6))
		},
		"setting": func(n *NS) { testenv.Must(n.ReadSysctl("net/ipv4/ip_forward"))(t) },
		"command": func(n *NS) {
			e := &Exec{Path: "/bin/true", Args: []string{"true"}}
			pid := testenv.Must(n.Start(t.Context(), e))(t)
			unix.Wait4(pid, nil, 0, nil)
			e.Ended()
		},
	} {
		n := newNS(t)
		unix.Close(newSocket(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0))
		if got := pingSetting(t, n); got != kernels {
			t.Errorf("%s: before, the setting is %q", name, got)
		}
		first(n)
		if got := pingSetting(t, n); got == kernels {
			t.Errorf("%s: the setting is %q", name, got)
		}
	}
}
