package sockio

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The peer of a local socket can send it descriptors. The kernel destroys those that
// nobody takes, in the call that receives the message or closes the socket, and that can
// take long: 20 ms for each TUN device, an hour for a TCP connection that lingers. So
// sockets refuse descriptors (SO_PASSRIGHTS, Linux 6.16), except while they expect one.

// WithoutPassRights is set by tests, to behave as on kernels without SO_PASSRIGHTS.
var WithoutPassRights atomic.Bool

// RefuseRights makes a local socket, and those that it accepts, refuse descriptors: the
// sender gets EPERM. It reports whether the kernel can do that. Descriptors that have
// arrived already stay.
func RefuseRights(fd int) bool {
	return !WithoutPassRights.Load() && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) == nil
}

// ExpectRights makes a local socket take descriptors again.
func ExpectRights(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1) }
