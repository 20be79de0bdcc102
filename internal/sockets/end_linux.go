package sockets

import (
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ShutDown shuts down the stream sockets of the process that are in the namespace with
// the cookie: those of multipath TCP and unix sockets too, which nothing else ends. A
// descriptor is duplicated before it is looked at, so that another goroutine's Close
// cannot put a stranger in its place. The duplicate takes the place of the descriptor
// spare, -1 if there is none, for the limit of descriptors may be reached. spare is
// closed.
func ShutDown(cookie uint64, spare int) {
	for fd := range tableSize() {
		if c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil || c != cookie || fd == spare {
			continue
		}
		dup := spare
		var err error
		if dup >= 0 {
			err = unix.Dup3(fd, dup, unix.O_CLOEXEC)
		} else {
			dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		}
		if err != nil {
			continue
		}
		if c, err := unix.GetsockoptUint64(dup, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil && c == cookie && isStream(dup) {
			unix.Shutdown(dup, unix.SHUT_RDWR) // datagram sockets would return empty packets forever
		}
		if dup != spare {
			unix.Close(dup)
		}
	}
	if spare >= 0 {
		unix.Close(spare)
	}
}

// Close closes a connection or listener of package net. Child processes may have
// inherited the socket: it is shut down for them where [Destroy] does not reach it.
func Close(c io.Closer) error {
	dup := -1
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				proto, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
				if err == nil && proto != unix.IPPROTO_TCP && isStream(int(fd)) {
					dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
				}
			})
		}
	}
	err := c.Close() // first, so that calls that wait here return net.ErrClosed
	if dup >= 0 {
		unix.Shutdown(dup, unix.SHUT_RDWR)
		unix.Close(dup)
	}
	return err
}

// isStream reports whether a socket has connections.
func isStream(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && typ != unix.SOCK_DGRAM && typ != unix.SOCK_RAW
}

// tableSize returns a number above all descriptors of the process.
func tableSize() int {
	if text, err := os.ReadFile("/proc/thread-self/status"); err == nil {
		if n, ok := fdSize(string(text)); ok {
			return n
		}
	}
	const most = 1 << 16
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Max < most {
		return int(limit.Max)
	}
	return most
}

// fdSize reads the size of the descriptor table from proc_pid_status(5).
func fdSize(status string) (n int, ok bool) {
	_, rest, _ := strings.Cut(status, "\nFDSize:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	return n, err == nil && n > 0
}
