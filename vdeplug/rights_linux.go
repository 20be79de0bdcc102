package vdeplug

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Whoever can send to a local socket can send descriptors along. The kernel destroys
// those that nobody takes in the call that receives the message, or that closes the
// socket, and what they are decides how long that takes: 20 ms for each TUN device,
// an hour for a TCP connection that lingers. So sockets refuse them (SO_PASSRIGHTS,
// Linux 6.16), but for the moments in which they expect one.

// withoutPassRights is set by tests, which so have the kernels before.
var withoutPassRights atomic.Bool

// refuseRights has a local socket take no descriptors, and with it those that it
// accepts: who sends one gets EPERM. It reports whether the kernel can do that.
// What the socket has received already stays.
func refuseRights(fd int) bool {
	return !withoutPassRights.Load() && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) == nil
}

// expectRights has a local socket take descriptors.
func expectRights(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1) }
