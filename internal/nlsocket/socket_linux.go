package nlsocket

import (
	"bytes"
	"context"
	"errors"
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
)

// A Socket is one of netlink to the kernel, or an end of a socket pair to a stack in user
// space. One goroutine at a time receives.
type Socket struct {
	// Strict takes messages of the kernel only (a privileged process may send to any
	// netlink socket), and drops what is left when some were lost.
	Strict bool

	s      *socket.Conn
	kernel bool
	buf    []byte
	closed atomic.Bool
	close  sync.Once
}

// New takes over a descriptor. kernel says that it is not of a socket pair: it gets an
// address then, and joins the groups of a bit mask. An error closes the descriptor.
func New(fd int, kernel bool, groups uint32) (*Socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	s, err := socket.New(fd, "netlink")
	if err != nil {
		return nil, err // fd belongs to an os.File inside already
	}
	t := &Socket{s: s, kernel: kernel, buf: make([]byte, firstSize)}
	if !kernel {
		return t, nil
	}
	if err := s.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		s.Close()
		return nil, err
	}
	return t, nil
}

// Close waits for another Close that runs, which that of package socket does not. It
// unblocks the other calls, which return [net.ErrClosed].
func (t *Socket) Close() (err error) {
	t.closed.Store(true)
	t.close.Do(func() { err = t.s.Close() })
	return err
}

// reason returns net.ErrClosed for the errors of operations that Close ended, which are
// EBADF, os.ErrClosed or an error of package poll, and other errors as they are.
func (t *Socket) reason(err error) error {
	if err != nil && t.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// SetDeadline sets that of Send and Recv.
func (t *Socket) SetDeadline(d time.Time) error { return t.reason(t.s.SetDeadline(d)) }

// SetReadBuffer sets how many bytes wait for Recv at most.
func (t *Socket) SetReadBuffer(bytes int) error { return t.reason(t.s.SetReadBuffer(bytes)) }

// SetOption sets an option of SOL_NETLINK.
func (t *Socket) SetOption(option, value int) error {
	return t.reason(t.s.SetsockoptInt(unix.SOL_NETLINK, option, value))
}

// Send sends a datagram.
func (t *Socket) Send(b []byte) error {
	var to unix.Sockaddr // nil for a pair
	if t.kernel {
		to = &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	}
	return t.reason(t.s.WriteFunc(context.Background(), "sendto", func(fd int) error {
		return again(func() error { return unix.Sendmsg(fd, b, nil, to, unix.MSG_NOSIGNAL) })
	}))
}

// Recv returns the next datagram, whatever its size; the caller owns it. ENOBUFS means that
// datagrams were lost; with Strict, those in the queue with them: the kernel silently drops
// new ones until the queue has been empty. At the end of a pair the error is [io.EOF].
func (t *Socket) Recv() ([]byte, error) {
	for {
		n, err := t.recvfrom(unix.MSG_PEEK | unix.MSG_TRUNC)
		if t.Strict && errors.Is(err, unix.ENOBUFS) {
			t.drain()
		}
		if err != nil {
			return nil, err
		}
		if n == 0 && !t.kernel {
			return nil, io.EOF
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

// recvfrom returns the length of the next datagram, 0 if Strict refuses it.
func (t *Socket) recvfrom(flags int) (n int, err error) {
	err = t.s.ReadFunc(context.Background(), "recvfrom", func(fd int) error {
		return again(func() error {
			var from unix.Sockaddr
			var err error
			n, from, err = unix.Recvfrom(fd, t.buf, flags)
			if sa, ok := from.(*unix.SockaddrNetlink); t.Strict && err == nil && (!ok || sa.Pid != 0) && flags == 0 {
				n = 0
			}
			return err
		})
	})
	return n, t.reason(err)
}

// drain empties the queue. The bound is for a kernel that fills it faster than that.
func (t *Socket) drain() {
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
