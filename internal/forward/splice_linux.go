package forward

import (
	"cmp"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

const (
	// pipeSize is how much the kernel moves at once, if the user may have such pipes.
	pipeSize = 1 << 20
	// maxPipes is how many unused pipes are kept.
	maxPipes = 16
	// bufferSize is for connections that the kernel cannot splice, and for when there is
	// no descriptor for a pipe.
	bufferSize = 64 << 10
	// nearBuffer is the send buffer of a connection whose peer has answered within nearTime
	// at best (µs), such as one on the same machine. What waits there is still in the
	// processor's cache when the peer reads it. Within that time, more is never on its way
	// at 20 Gbit/s.
	nearBuffer = 128 << 10
	nearTime   = 100
	// stallTime is how often a write that waits looks whether the other connection, from
	// which nobody reads meanwhile, was reset.
	stallTime = time.Second
)

// A pipe is what splice(2) needs between two sockets.
type pipe struct{ r, w int }

// pipes are the pipes that are not in use, and empty. io.Copy would hold one for each
// direction of each connection, the silent ones too: six descriptors instead of two.
type pipes struct {
	mu   sync.Mutex // guards free
	free []pipe
}

func (ps *pipes) get() (pipe, bool) {
	ps.mu.Lock()
	if n := len(ps.free); n > 0 {
		p := ps.free[n-1]
		ps.free = ps.free[:n-1]
		ps.mu.Unlock()
		return p, true
	}
	ps.mu.Unlock()
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return pipe{}, false
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // or the usual size
	return pipe{fds[0], fds[1]}, true
}

func (ps *pipes) put(p pipe) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.free) < maxPipes {
		ps.free = append(ps.free, p)
		return
	}
	p.close()
}

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

func (ps *pipes) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.free {
		p.close()
	}
	ps.free = nil
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// carry copies from src to dst until the end of src, and counts the bytes. It waits with
// neither a pipe nor a buffer.
func (ps *pipes) carry(dst, src net.Conn, n *atomic.Uint64) error {
	from, err := src.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	raw, err := dst.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	to := sink{dst, raw, from}
	dst.SetWriteDeadline(time.Now().Add(stallTime))
	limited := false
	for spliced := true; ; {
		var got int
		if spliced {
			got, err = ps.splice(to, from)
			spliced = err != unix.EINVAL // such as multipath TCP
		}
		if !spliced || err == unix.EMFILE {
			got, err = copyOnce(to, from)
		}
		n.Add(uint64(got))
		if got == 0 || err != nil {
			return err
		}
		if got >= nearBuffer && !limited {
			limited = limitNear(raw)
		}
	}
}

// limitNear limits the send buffer of a connection whose peer is near. The kernel makes
// others as large as they need.
func limitNear(c syscall.RawConn) (near bool) {
	c.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		near = err == nil && info.Min_rtt < nearTime
		if near {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, nearBuffer)
		}
	})
	return near
}

// A sink is where carry writes.
type sink struct {
	conn net.Conn
	raw  syscall.RawConn // of conn
	from syscall.RawConn
}

// write calls f until it returns no EAGAIN. It ends too when from is reset.
func (s sink) write(f func(fd uintptr) error) error {
	for {
		var err error
		closed := s.raw.Write(func(fd uintptr) bool {
			err = f(fd)
			return err != unix.EAGAIN
		})
		switch {
		case closed == nil:
			return err
		case !os.IsTimeout(closed):
			return closed
		case sockio.IsReset(s.from):
			return unix.ECONNRESET
		}
		s.conn.SetWriteDeadline(time.Now().Add(stallTime))
	}
}

// splice moves what there is to read, as soon as there is something. 0 is the end.
func (ps *pipes) splice(to sink, from syscall.RawConn) (int, error) {
	var (
		p    pipe
		have bool
		got  int
		err  error
	)
	closed := from.Read(func(fd uintptr) bool {
		if p, have = ps.get(); !have {
			err = unix.EMFILE
			return true
		}
		got, err = retry(func() (int, error) {
			n, err := unix.Splice(int(fd), nil, p.w, nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			return int(n), err
		})
		if err == unix.EAGAIN {
			ps.put(p)
			have = false
			return false
		}
		return true
	})
	if closed != nil {
		return 0, closed
	}
	for left := got; left > 0 && err == nil; {
		var moved int
		err = to.write(func(fd uintptr) (err error) {
			moved, err = retry(func() (int, error) {
				n, err := unix.Splice(p.r, nil, int(fd), nil, left, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
				return int(n), err
			})
			return err
		})
		left -= moved
		if err != nil || left > 0 && moved == 0 {
			p.close() // it is not empty
			return got - left, cmp.Or[error](err, unix.EIO)
		}
	}
	if have {
		ps.put(p)
	}
	return got, err
}

// copyOnce is splice by a buffer.
func copyOnce(to sink, from syscall.RawConn) (sent int, err error) {
	var (
		b   *[bufferSize]byte
		got int
	)
	closed := from.Read(func(fd uintptr) bool {
		b = buffers.Get().(*[bufferSize]byte)
		got, err = retry(func() (int, error) { return unix.Read(int(fd), b[:]) })
		if err == unix.EAGAIN {
			buffers.Put(b)
			b = nil
			return false
		}
		return true
	})
	if b == nil {
		return 0, closed
	}
	defer buffers.Put(b)
	for left := b[:got]; len(left) > 0 && err == nil; {
		var moved int
		err = to.write(func(fd uintptr) (err error) {
			moved, err = retry(func() (int, error) {
				return unix.SendmsgN(int(fd), left, nil, nil, unix.MSG_NOSIGNAL)
			})
			return err
		})
		left = left[moved:]
		sent += moved
	}
	return sent, cmp.Or(err, closed)
}

func untilReset(c net.Conn) bool { return sockio.UntilReset(c.(syscall.Conn)) }

// retry calls f again when a signal has interrupted it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
