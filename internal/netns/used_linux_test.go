//go:build amd64 || arm64

package netns

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoneInUse reads what Linux 6.18 and 6.1 say, and what no kernel does.
func TestNoneInUse(t *testing.T) {
	const head = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n"
	const quiet = head +
		"UNIX-STREAM 1152      0      -1   NI       0   yes  kernel      y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n" +
		"NETLINK   1096      3      -1   NI       0   no   kernel      n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n"
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{"none", quiet, true},
		{"TCP", quiet + "TCPv6     2432      1     194   no     192   yes  kernel      y  y\n", false},
		{"large", quiet + "TCP       2432 100000     194   no     192   yes  kernel      y  y\n", false},
		{"empty", "", false},
		{"other columns", "protocol sockets size\n" + quiet, false},
		{"cut", quiet + "TCP", false},
	} {
		if got := noneInUse(tt.text); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

// TestCloseWith looks whether sockets of this process are seen.
func TestCloseWith(t *testing.T) {
	for _, bound := range []bool{false, true} {
		n := newNS(t)
		fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll([]int{fd})
		if bound {
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
		}
		last, idle := n.CloseWith(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if last < 0 || idle == bound {
			t.Errorf("bound %v: idle %v, last socket %d", bound, idle, last)
		}
		closeAll([]int{last})
	}
}
