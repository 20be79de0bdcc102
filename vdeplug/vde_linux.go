package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
)

// wholeVDE is switched off by tests.
var wholeVDE = true

// vdeConn is a connection to a switch: a pair of connected datagram sockets
// for frames, or of sockets for whole packets, and a stream that is silent as
// long as the switch is there.
type vdeConn struct {
	sockio.FrameCodec
	dir   string // of the switch
	ctl   *os.File
	data  sockio.PollFile
	whole bool

	gone    atomic.Pointer[error] // why the switch is no longer there
	closing atomic.Bool
	watched chan struct{} // closed when watch has ended
}

var _ packet.Transport = (*vdeConn)(nil)

// newVDEConn takes over the sockets after the handshake.
func newVDEConn(dir string, ctl *os.File, data sockio.PollFile, whole bool) *vdeConn {
	c := &vdeConn{dir: dir, ctl: ctl, data: data, whole: whole, watched: make(chan struct{})}
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
	c.data.Wake()
}

// final returns the error of an operation on a network that is closed or gone.
func (c *vdeConn) final() error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	if err := c.gone.Load(); err != nil {
		return *err
	}
	return nil
}

// RecvPackets implements [packet.Transport].
func (c *vdeConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.data.Receive(b, c)
	if err != nil {
		if final := c.final(); final != nil {
			err = final
		}
	}
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *vdeConn) Receive(fd int, b *packet.Buffer) (bool, error) {
	for c.final() == nil {
		err := c.ReceiveData(fd, b, c.whole)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == io.EOF:
			c.end(switchClosed(err))
			return true, err
		case err != nil:
			c.end(switchClosed(os.NewSyscallError("recvmmsg", err)))
			return true, err
		case len(b.Packets) > 0:
			return true, nil
		}
	}
	return true, net.ErrClosed
}

// SendPackets implements [packet.Transport].
func (c *vdeConn) SendPackets(packets []packet.Packet, wait bool) error {
	if err := c.final(); err != nil {
		return err
	}
	err := c.SendData(&c.data, packets, c.whole, c, wait)
	if final := c.final(); final != nil {
		err = final
	}
	return err
}

// Refused implements [packet.Sending].
func (c *vdeConn) Refused(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	switch err {
	case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return frames, false, nil
	}
	err = switchClosed(os.NewSyscallError("sendmmsg", err))
	c.end(err)
	return frames, false, err
}

// Close also ends the port of the switch. While others come to the switch or
// leave it, and if it does not run, the sockets and the port end later: after
// turnWait and leaveWait at most.
func (c *vdeConn) Close() error {
	c.closing.Store(true)
	c.data.Wake()
	left := make(chan struct{})
	go func() {
		defer close(left)
		var t turn
		select {
		case <-c.watched: // the switch has gone first
		default:
			if !c.whole { // that is a switch of this package, and needs none
				t = takeTurn(context.Background(), c.dir)
			}
		}
		c.leave(t)
	}()
	select {
	case <-left:
	case <-time.After(closeWait):
	}
	return nil
}

// leave ends the sockets, and the turn.
func (c *vdeConn) leave(t turn) {
	t.leave(c.ctl)
	<-c.watched
	c.data.Close()
}
