//go:build amd64 || arm64

package netns

import (
	"runtime"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
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
		fd := newSocket(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
		defer unix.Close(fd)
		if bound {
			testenv.Check(t, unix.Listen(fd, 1))
		}
		last, idle := n.CloseWith(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if last < 0 || idle == bound {
			t.Errorf("bound %v: idle %v, last socket %d", bound, idle, last)
		}
		unix.Close(last)
	}
}

// TestCloseWithKilled has a helper that is killed before, within and after the call
// that closes the namespace. Its descriptor, whose number may be that of another
// file by then, is never closed a second time.
func TestCloseWithKilled(t *testing.T) {
	for _, tt := range []struct {
		name     string
		calls    int  // that it makes: setns, and close
		results  int  // that it leaves
		resting  bool // it is in the namespace, and makes no setns
		wantOpen bool // the number is in use afterwards
	}{
		{name: "before setns"},
		{name: "within setns", calls: 1},
		{name: "before close", calls: 1, results: 1, wantOpen: true}, // it cannot be told from the next
		{name: "within close", calls: 2, results: 1, wantOpen: true},
		{name: "after close", calls: 2, results: 2, wantOpen: true},
		{name: "resting, within close", calls: 1, resting: true, wantOpen: true},
		{name: "resting, after close", calls: 1, results: 1, resting: true, wantOpen: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := testenv.Must(newSharedCalls(batchCalls))(t)
			defer b.free()
			b.state.Store(stateIdle)
			// What goes on beside the test takes the lowest number that is free.
			fd := testenv.Must(unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 500))(t)
			h := &helper{calls: b, pid: 1 << 30, base: -1} // no process has that number
			// The fake has the process's own limit.
			testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &h.nofile))
			n := &NS{h: h, fd: fd}
			if tt.resting {
				h.cur = n
			}
			other := -1 // the file that takes the number
			died := make(chan struct{})
			go func() {
				defer close(died)
				for b.state.Load() != stateRequest {
					runtime.Gosched()
				}
				for i := range b.list()[:tt.calls] {
					c := &b.list()[i]
					if c.nr == unix.SYS_CLOSE {
						unix.Close(fd)
						other, _ = unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, fd)
					}
					if i < tt.results {
						c.ret = 0
					}
				}
				b.state.Store(stateGone)
				unix.Syscall(unix.SYS_FUTEX, b.addr(), futexWake, 1)
			}()
			if last, idle := n.CloseWith(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); last >= 0 || idle {
				t.Errorf("got a socket %d, idle %t", last, idle)
			}
			<-died
			if other >= 0 && other != fd {
				t.Fatalf("another file has the number %d, want %d", other, fd)
			}
			if open := unix.Close(fd) == nil; open != tt.wantOpen {
				t.Errorf("the number is in use: %t, want %t", open, tt.wantOpen)
			}
		})
	}
}
