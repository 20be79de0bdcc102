package wireguard

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketMTU returns the MTU of the path of a connected socket, as far as the kernel knows it.
func socketMTU(c syscall.Conn, is6 bool) (mtu int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if is6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	cerr := raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) })
	if cerr != nil {
		return 0, cerr
	}
	return mtu, os.NewSyscallError("getsockopt", err)
}
