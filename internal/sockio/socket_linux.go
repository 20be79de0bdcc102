package sockio

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LocalSocket makes a local socket that does not block.
func LocalSocket(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}

// Bind binds a local socket to a path. The file inherits the mode of the socket, so that
// it never allows more.
func Bind(fd int, path string, mode int) error {
	if err := unix.Fchmod(fd, uint32(mode)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
}

// Transient reports whether an error is that of the network, for a packet sent earlier: it
// says nothing about the next one.
func Transient(err error) bool {
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENOPROTOOPT, unix.EPROTO, unix.EMSGSIZE, unix.EACCES:
		return true
	}
	return false
}

// InterfaceIndex returns the index of an interface in the namespace of a socket.
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

// SwitchOff switches an offload of an interface off by a command of ethtool. The socket
// fd says in which namespace.
func SwitchOff(fd int, name string, command uint32) error {
	// struct ethtool_value, and struct ifreq with a pointer to it.
	value := &struct{ cmd, data uint32 }{cmd: command}
	ifr := &struct {
		name [unix.IFNAMSIZ]byte
		data *struct{ cmd, data uint32 }
		_    [16]byte
	}{data: value}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(ifr))); errno != 0 {
		return os.NewSyscallError("ioctl SIOCETHTOOL "+name, errno)
	}
	return nil
}

// SocketBuffer is the size of the buffers of datagram sockets: it holds some hundred
// frames, as the queues of the kernel's interfaces.
const SocketBuffer = 1 << 20

// Disconnect disconnects a datagram socket from its peer.
func Disconnect(fd int) {
	addr := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
}

// GrowBuffers makes the buffers of a socket as large as size, or as large as the user may
// have them.
func GrowBuffers(fd, size int) {
	for _, option := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], size) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], size)
		}
	}
}

// UntilReset waits, after the end of a connection's data, until its peer resets it, and
// reports whether it did: nothing reads from it any more. A read deadline ends it.
func UntilReset(c syscall.Conn) (reset bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		reset = hasError(fd)
		return reset
	})
	return reset || err != nil && !os.IsTimeout(err)
}

// IsReset reports whether the peer of a connection has reset it.
func IsReset(c syscall.RawConn) (reset bool) {
	c.Control(func(fd uintptr) { reset = hasError(fd) })
	return reset
}

func hasError(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLERR != 0
}
