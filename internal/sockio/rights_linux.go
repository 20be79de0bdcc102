package sockio

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A peer that can send to a local socket can send descriptors along. The kernel destroys
// those that nobody takes in the call that receives the message, or that closes the
// socket, and what they are decides how long that takes: 20 ms for each TUN device,
// an hour for a TCP connection that lingers. So sockets refuse them (SO_PASSRIGHTS,
// Linux 6.16), but for the moments in which they expect one.

// WithoutPassRights is set by tests, which so have the kernels before.
var WithoutPassRights atomic.Bool

// RefuseRights has a local socket take no descriptors, and with it those that it
// accepts: their sender gets EPERM. It reports whether the kernel can do that.
// What the socket has received already stays.
func RefuseRights(fd int) bool {
	return !WithoutPassRights.Load() && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) == nil
}

// ExpectRights has a local socket take descriptors.
func ExpectRights(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1) }
