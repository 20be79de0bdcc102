package vdeplug

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// vdeConn is a connection to a switch: a pair of connected datagram sockets
// for frames, and a stream that is silent as long as the switch is there.
type vdeConn struct {
	dropCounter
	vnl  string
	ctl  *os.File
	data pollFile

	gone      atomic.Pointer[error] // why the switch is no longer there
	closing   atomic.Bool
	closeOnce sync.Once
	watched   chan struct{} // closed when watch has ended
}

var (
	_ Conn    = (*vdeConn)(nil)
	_ Dropper = (*vdeConn)(nil)
)

// newVDEConn takes over the sockets after the handshake.
func newVDEConn(l Locator, ctl *os.File, data pollFile) *vdeConn {
	c := &vdeConn{vnl: l.String(), ctl: ctl, data: data, watched: make(chan struct{})}
	go c.watch()
	return c
}

// watch waits for the end of the control connection.
func (c *vdeConn) watch() {
	defer close(c.watched)
	switch n, err := c.ctl.Read(make([]byte, 1)); {
	case c.closing.Load():
	case n > 0:
		c.end(errors.New("the switch broke the protocol: it wrote to the control connection"))
	case err == io.EOF:
		c.end(switchClosed(io.EOF))
	default:
		c.end(switchClosed(err))
	}
}

func switchClosed(err error) error {
	return fmt.Errorf("the switch closed the connection: %w", err)
}

// end makes err the reason why the network is gone, unless there is one, and
// wakes Recv.
func (c *vdeConn) end(err error) {
	c.gone.CompareAndSwap(nil, &err)
	c.data.wake()
}

// final returns the error of an operation on a network that is closed or gone.
func (c *vdeConn) final(op string) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	if err := c.gone.Load(); err != nil {
		return &Error{op, c.vnl, *err}
	}
	return nil
}

func (c *vdeConn) Recv(frame []byte) (int, error) {
	n, err := c.data.recv(c, frame)
	if err == nil {
		return n, nil
	}
	if final := c.final("recv"); final != nil {
		err = final
	}
	return 0, err
}

func (c *vdeConn) tryRecv(fd int, t *transfer) bool {
	for c.final("recv") == nil {
		n, err := t.read(fd)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			t.err = err
			c.end(switchClosed(os.NewSyscallError("recv", err)))
			return true
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

func (c *vdeConn) Send(frame []byte) error {
	if err := c.final("send"); err != nil {
		return err
	}
	err := c.data.send(c, frame)
	if final := c.final("send"); final != nil {
		err = final
	}
	return err
}

func (c *vdeConn) trySend(fd int, t *transfer) {
	// An empty datagram would mean the end to vde_switch.
	if len(t.frame) < HeaderLen || len(t.frame) > MaxFrame {
		c.droppedSend.Add(1)
		return
	}
	switch err := t.write(fd); err {
	case nil:
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		c.droppedSend.Add(1)
	default:
		c.end(switchClosed(os.NewSyscallError("send", err)))
	}
}

// Close also ends the port of the switch.
func (c *vdeConn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.ctl.Close()
		<-c.watched
		c.data.close()
	})
	return nil
}
