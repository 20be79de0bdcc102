//go:build amd64 || arm64

package stack

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	diagRequestLen = 56 // inet_diag_req_v2
	diagMessageLen = 72 // inet_diag_msg
	diagSockID     = 8  // inet_diag_req_v2.id
	diagMsgSockID  = 4  // inet_diag_msg.id
	sockIDLen      = 48 // inet_diag_sockid
)

// destroySockets aborts every TCP and UDP socket of the namespace of the
// netlink socket diag, in whichever process it is: peers get a reset, and calls
// that wait return an error. It does what it can: a kernel without
// CONFIG_INET_DIAG_DESTROY does nothing.
func destroySockets(diag int) {
	unix.SetsockoptTimeval(diag, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			req := make([]byte, diagRequestLen)
			req[0], req[1] = family, proto
			binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // all states
			for _, id := range dumpSockets(diag, req) {
				copy(req[diagSockID:], id)
				sendDiag(diag, sockDestroy, unix.NLM_F_REQUEST, req)
			}
		}
	}
}

// dumpSockets returns the identities of the sockets that a request is about.
func dumpSockets(diag int, req []byte) (ids [][]byte) {
	if sendDiag(diag, sockDiagByFamily, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, req) != nil {
		return nil
	}
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(diag, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return ids
		}
		more, end := decodeDump(buf[:n])
		ids = append(ids, more...)
		if end {
			return ids
		}
	}
}

// decodeDump returns the identities in a datagram of a dump, and whether it is
// the last one.
func decodeDump(b []byte) (ids [][]byte, end bool) {
	for len(b) >= unix.NLMSG_HDRLEN {
		l := int(binary.NativeEndian.Uint32(b))
		typ := binary.NativeEndian.Uint16(b[4:])
		if l < unix.NLMSG_HDRLEN || l > len(b) || typ == unix.NLMSG_DONE {
			return ids, true
		}
		if typ == unix.NLMSG_ERROR && binary.NativeEndian.Uint32(b[8:]) == dumpSeq {
			return ids, true
		}
		if msg := b[unix.NLMSG_HDRLEN:l]; typ == sockDiagByFamily && len(msg) >= diagMessageLen {
			ids = append(ids, append([]byte(nil), msg[diagMsgSockID:diagMsgSockID+sockIDLen]...))
		}
		b = b[min((l+3)&^3, len(b)):]
	}
	return ids, false
}

// dumpSeq is the sequence number of dumps; errors of other requests, which are
// not waited for, have another.
const dumpSeq = 1

func sendDiag(diag int, typ, flags uint16, body []byte) error {
	msg := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(cap(msg)))
	binary.NativeEndian.PutUint16(msg[4:], typ)
	binary.NativeEndian.PutUint16(msg[6:], flags)
	if typ == sockDiagByFamily {
		binary.NativeEndian.PutUint32(msg[8:], dumpSeq)
	}
	return unix.Sendto(diag, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// shutDown shuts down the stream sockets of the process that are in the
// namespace with the cookie, multipath TCP and unix sockets too, which nothing
// else ends. A descriptor is duplicated before it is looked at, so that another
// goroutine's Close cannot put a stranger in its place; the duplicate takes the
// place of the descriptor spare, -1 if there is none, for the limit of
// descriptors may be reached. spare is closed.
func shutDown(cookie uint64, spare int) {
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
		if c, err := unix.GetsockoptUint64(dup, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil && c == cookie {
			// Shut down, datagram sockets would return empty packets for ever.
			if typ, err := unix.GetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && typ != unix.SOCK_DGRAM && typ != unix.SOCK_RAW {
				unix.Shutdown(dup, unix.SHUT_RDWR)
			}
		}
		if dup != spare {
			unix.Close(dup)
		}
	}
	if spare >= 0 {
		unix.Close(spare)
	}
}

// CloseSocket closes a connection or listener of package net, and ends its socket
// for child processes that have inherited it, where nothing else does: those of
// TCP and UDP are destroyed.
func CloseSocket(c io.Closer) error {
	dup := -1
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				if isStream(int(fd)) {
					dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
				}
			})
		}
	}
	err := c.Close() // first, so that whoever waits on it here sees that
	if dup >= 0 {
		unix.Shutdown(dup, unix.SHUT_RDWR)
		unix.Close(dup)
	}
	return err
}

// isStream reports a stream socket that sock_diag does not destroy, such as one
// of multipath TCP.
func isStream(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || typ == unix.SOCK_DGRAM || typ == unix.SOCK_RAW {
		return false
	}
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err == nil && proto != unix.IPPROTO_TCP
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
