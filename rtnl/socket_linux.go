package rtnl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

const (
	// recvSize is the largest datagram of a dump: the kernel makes them as large as
	// the largest buffer that it has seen.
	recvSize = 32 << 10
	// firstSize is enough for everything but dumps.
	firstSize = 4 << 10
	// watchBuffer holds some thousands of changes.
	watchBuffer = 1 << 20
)

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
// the other end of a socket pair. One goroutine at a time receives.
type netlinkSocket struct {
	s      *socket.Conn
	kernel bool
	buf    []byte
	closed atomic.Bool
	close  sync.Once
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
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	s, err := socket.New(fd, "netlink")
	if err != nil {
		return nil, err // fd belongs to an os.File inside already
	}
	t := &netlinkSocket{s: s, kernel: kernel, buf: make([]byte, firstSize)}
	if !kernel {
		return t, nil
	}
	if err := s.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		s.Close()
		return nil, err
	}
	if groups != 0 {
		s.SetReadBuffer(watchBuffer) // a smaller one works too
	}
	// Without extended acknowledgments errors only lack their text.
	s.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return t, nil
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

// Close waits for another Close that runs, which that of package socket does not.
func (t *netlinkSocket) Close() (err error) {
	t.closed.Store(true)
	t.close.Do(func() { err = t.s.Close() })
	return err
}

// reason returns net.ErrClosed for the errors of operations that Close ended, which are
// EBADF, os.ErrClosed or an error of package poll, and other errors as they are.
func (t *netlinkSocket) reason(err error) error {
	if err != nil && t.closed.Load() {
		return net.ErrClosed
	}
	return err
}

func (t *netlinkSocket) setDeadline(d time.Time) error { return t.reason(t.s.SetDeadline(d)) }

func (t *netlinkSocket) send(b []byte) error {
	var to unix.Sockaddr // nil for a pair
	if t.kernel {
		to = &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	}
	return t.reason(t.s.WriteFunc(context.Background(), "sendto", func(fd int) error {
		return again(func() error { return unix.Sendmsg(fd, b, nil, to, unix.MSG_NOSIGNAL) })
	}))
}

// recv returns the next datagram of the kernel, whatever its size. ENOBUFS means that
// datagrams were lost, and those in the queue with them: the kernel silently drops new
// ones until the queue has been empty.
func (t *netlinkSocket) recv() ([]byte, error) {
	for {
		n, err := t.recvfrom(unix.MSG_PEEK | unix.MSG_TRUNC)
		if errors.Is(err, unix.ENOBUFS) {
			t.drain()
		}
		if err != nil {
			return nil, err
		}
		if n == 0 && !t.kernel {
			return nil, invalid(io.ErrUnexpectedEOF, "the stack has closed its end")
		}
		if n > len(t.buf) || n > firstSize/2 && len(t.buf) < recvSize {
			t.buf = make([]byte, max(n, recvSize))
		}
		if n, err = t.recvfrom(0); err != nil {
			return nil, err
		}
		if n > 0 {
			return bytes.Clone(t.buf[:n]), nil
		}
	}
}

// recvfrom returns the length of the next datagram, 0 if another process sent it: a
// privileged one may send to any netlink socket.
func (t *netlinkSocket) recvfrom(flags int) (n int, err error) {
	err = t.s.ReadFunc(context.Background(), "recvfrom", func(fd int) error {
		return again(func() error {
			var from unix.Sockaddr
			var err error
			n, from, err = unix.Recvfrom(fd, t.buf, flags)
			if sa, ok := from.(*unix.SockaddrNetlink); t.kernel && err == nil && (!ok || sa.Pid != 0) && flags == 0 {
				n = 0
			}
			return err
		})
	})
	return n, t.reason(err)
}

// drain empties the queue. The bound is for a kernel that fills it faster than that.
func (t *netlinkSocket) drain() {
	t.s.ReadFunc(context.Background(), "recvfrom", func(fd int) error {
		for range 1 << 16 {
			if _, _, err := unix.Recvfrom(fd, t.buf, unix.MSG_DONTWAIT); err == unix.EAGAIN {
				break
			}
		}
		return nil
	})
}

// again repeats a call that a signal interrupted. Package socket would wait until the
// descriptor becomes ready, which it may be already.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
