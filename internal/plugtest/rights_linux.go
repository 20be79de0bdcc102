package plugtest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// EachKernel runs a test with SO_PASSRIGHTS, if the kernel has it, and without, as on Linux
// before 6.16.
func EachKernel(t *testing.T, test func(t *testing.T, refuses bool)) {
	t.Run("new", func(t *testing.T) {
		pair := SocketPair(t, unix.SOCK_DGRAM)
		if !sockio.RefuseRights(pair[0]) {
			t.Skip("needs SO_PASSRIGHTS (Linux 6.16)")
		}
		test(t, true)
	})
	t.Run("old", func(t *testing.T) {
		sockio.WithoutPassRights.Store(true)
		t.Cleanup(func() { sockio.WithoutPassRights.Store(false) })
		test(t, false)
	})
}

// SocketPair returns two connected local sockets, which end with the test.
func SocketPair(t testing.TB, kind int) [2]int {
	t.Helper()
	a, b := OpenPair(t, kind)
	t.Cleanup(func() {
		unix.Close(a)
		unix.Close(b)
	})
	return [2]int{a, b}
}

// OpenPair returns two connected local sockets, which the caller closes.
func OpenPair(t testing.TB, kind int) (a, b int) {
	t.Helper()
	pair := testenv.Must(unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0))(t)
	return pair[0], pair[1]
}

// DevNull opens a descriptor.
func DevNull(t *testing.T) int {
	t.Helper()
	fd := testenv.Must(unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0))(t)
	return fd
}

// Received waits until all that a socket has sent is received.
func Received(t *testing.T, fd int) {
	t.Helper()
	testenv.Eventually(t, "all that was sent to be received", func() bool {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err != nil || n == 0
	})
}
