package vdeplug

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer is what is asked for as send and receive buffers of datagram
// sockets: some hundred frames, as the queues of the kernel's interfaces.
const socketBuffer = 1 << 20

// A datagramConn is a plug on a connected datagram socket, a frame in each
// datagram. Its peer may come, go and come back.
type datagramConn struct {
	dropCounter
	vnl  string
	file pollFile
	peer datagramPeer

	closing   atomic.Bool
	closeOnce sync.Once
}

// A datagramPeer is the other end of a datagramConn. Its methods may be called
// from several goroutines at once, and do not block.
type datagramPeer interface {
	// reconnect connects the socket to the peer again, after sending has
	// failed. It returns whether another attempt makes sense.
	reconnect(fd int, err error) bool
	// empty is told of a datagram without a byte.
	empty(fd int)
}

func (c *datagramConn) Recv(frame []byte) (int, error) {
	n, err := c.file.recv(c, frame)
	return n, c.final("recv", err)
}

func (c *datagramConn) Send(frame []byte) error {
	return c.final("send", c.file.send(c, frame))
}

func (c *datagramConn) final(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closing.Load():
		return net.ErrClosed
	}
	return &Error{op, c.vnl, err}
}

func (c *datagramConn) tryRecv(fd int, t *transfer) bool {
	// A flood of bad datagrams must not keep Close from ending the call.
	for !c.closing.Load() {
		n, err := t.read(fd)
		switch {
		case err == unix.EAGAIN:
			return false
		case err == unix.ECONNRESET || transient(err):
			// The peer went, or a router said something about a datagram
			// long sent. Each is reported once.
		case err != nil:
			t.err = os.NewSyscallError("read", err)
			return true
		case n == 0:
			c.peer.empty(fd)
		case n < HeaderLen || n > len(t.frame) || n > MaxFrame:
			c.droppedRecv.Add(1)
		default:
			t.n = n
			return true
		}
	}
	t.err = net.ErrClosed
	return true
}

func (c *datagramConn) trySend(fd int, t *transfer) {
	if !sendable(t.frame) {
		c.droppedSend.Add(1)
		return
	}
	err := t.write(fd)
	switch err {
	case nil:
		return
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
	default:
		if c.peer.reconnect(fd, err) && t.write(fd) == nil {
			return
		}
	}
	c.droppedSend.Add(1)
}

// disconnect takes the peer from a datagram socket.
func disconnect(fd int) {
	addr := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
}

// growBuffers asks for socket buffers as large as they should be, or as large
// as the user may have them.
func growBuffers(fd int) {
	for _, option := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], socketBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], socketBuffer)
		}
	}
}
