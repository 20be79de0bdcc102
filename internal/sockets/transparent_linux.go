package sockets

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Transparent lets a socket have an address that is not its stack's, which others may use
// at the same time.
func Transparent(c syscall.RawConn, ipv6 bool) error {
	return onSocket(c, func(fd int) error {
		level, opt := unix.SOL_IP, unix.IP_TRANSPARENT
		if ipv6 {
			level, opt = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
			return os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	})
}
