package rtnl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/nlsocket"
	"golang.org/x/sys/unix"
)

// watchBuffer holds some thousands of changes.
const watchBuffer = 1 << 20

// linkEcho reports whether the stack behind t can send a new link back.
func linkEcho(t transport) bool { return t.(*netlinkSocket).kernel && kernelEcho() }

// kernelEcho reports it for the kernel. Linux can since 6.2; short of making a link, only
// the version tells.
var kernelEcho = sync.OnceValue(func() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 2
})

// host makes sockets in the stack of the process, for Dial(nil).
type host struct{}

func (host) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// A netlinkSocket is the transport to the kernel, or to a stack in user space at
// the other end of a socket pair.
type netlinkSocket struct {
	*nlsocket.Socket
	kernel bool
}

func (t *netlinkSocket) setDeadline(d time.Time) error { return t.SetDeadline(d) }
func (t *netlinkSocket) send(b []byte) error           { return t.Send(b) }

func (t *netlinkSocket) recv() ([]byte, error) {
	b, err := t.Recv()
	if err == io.EOF {
		err = invalid(io.ErrUnexpectedEOF, "the stack has closed its end")
	}
	return b, err
}

// openSocket makes a socket in the maker's stack and joins the multicast groups of a
// bit mask.
func openSocket(m SocketMaker, groups uint32) (transport, error) {
	if m == nil {
		m = host{}
	}
	f, err := m.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, kernel, err := dup(f)
	if err != nil {
		return nil, err
	}
	if !kernel && groups != 0 {
		unix.Close(fd)
		return nil, invalid(errors.ErrUnsupported, "a socket pair joins no multicast groups")
	}
	s, err := nlsocket.New(fd, kernel, groups)
	if err != nil {
		return nil, err
	}
	if kernel {
		s.Strict = true
		if groups != 0 {
			s.SetReadBuffer(watchBuffer) // a smaller one works too
		}
		// Without extended acknowledgments errors only lack their text.
		s.SetOption(unix.NETLINK_EXT_ACK, 1)
	}
	return &netlinkSocket{s, kernel}, nil
}

// dup returns a new descriptor of the file's socket, after checking that it is one for
// rtnetlink: the kernel's, or one end of a pair whose other end a stack has. The file
// itself, which may be blocking or in the poller, is not changed.
func dup(f *os.File) (fd int, kernel bool, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, false, err
	}
	cerr := rc.Control(func(sysfd uintptr) {
		option := func(o int) int {
			v, err := unix.GetsockoptInt(int(sysfd), unix.SOL_SOCKET, o)
			if err != nil {
				return -1
			}
			return v
		}
		typ := option(unix.SO_TYPE)
		switch domain := option(unix.SO_DOMAIN); {
		case domain == unix.AF_NETLINK && option(unix.SO_PROTOCOL) == unix.NETLINK_ROUTE:
			kernel = true
		case domain == unix.AF_UNIX && (typ == unix.SOCK_SEQPACKET || typ == unix.SOCK_DGRAM):
		default:
			err = errors.New("the SocketMaker made neither a NETLINK_ROUTE socket nor a Unix one that keeps datagrams (SOCK_SEQPACKET, SOCK_DGRAM)")
			return
		}
		fd, err = unix.FcntlInt(sysfd, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	})
	if cerr != nil {
		return -1, false, cerr
	}
	return fd, kernel, err
}
