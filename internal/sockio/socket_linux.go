package sockio

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Transient reports errors that a socket passes on from the network, for
// packets long sent: they say nothing about the next one.
func Transient(err error) bool {
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENOPROTOOPT, unix.EPROTO, unix.EMSGSIZE, unix.EACCES:
		return true
	}
	return false
}

// InterfaceIndex asks a socket, not the thread's namespace.
func InterfaceIndex(fd int, name string) (uint32, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("a name of an interface has at most %d bytes", unix.IFNAMSIZ-1)
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	switch {
	case errors.Is(err, unix.ENODEV):
		return 0, fmt.Errorf("no such interface here: %w", err)
	case err != nil:
		return 0, os.NewSyscallError("ioctl", err)
	}
	return req.Uint32(), nil
}

// SocketBuffer is what is asked for as send and receive buffers of datagram
// sockets: some hundred frames, as the queues of the kernel's interfaces.
const SocketBuffer = 1 << 20

// Disconnect takes the peer from a datagram socket.
func Disconnect(fd int) {
	addr := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
}

// GrowBuffers asks for socket buffers as large as they should be, or as large
// as the user may have them.
func GrowBuffers(fd, size int) {
	for _, option := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], size) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], size)
		}
	}
}
