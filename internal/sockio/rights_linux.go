package sockio

import (
	"os"
	"sync/atomic"
	"syscall"

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

// Rights returns the descriptors in control messages.
func Rights(oob []byte) (all []int) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		all = append(all, fds...)
	}
	return all
}

// Peer returns the user and the process that made the other end of a local connection. A
// process that this one does not see has the number 0.
func Peer(c syscall.Conn) (peer *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	closed := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if closed != nil {
		return nil, closed
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return peer, nil
}
