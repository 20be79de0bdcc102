package vdeproto

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

// WithoutGSO is set by tests: like those in C, clients and switches do without socket
// pairs for GSO packets.
var WithoutGSO atomic.Bool

// A Conn is a client's connection to a switch: a control connection, which is silent as
// long as the switch is there, and a data socket, connected to that of the switch. It
// carries frames, or GSO packets if both ends are of this package.
type Conn struct {
	sockio.FrameCodec
	dir  string // of the switch
	ctl  *os.File
	data sockio.PollFile
	gso  bool

	gone    atomic.Pointer[error] // why the switch is gone; nil: it is there
	closing atomic.Bool
	watched chan struct{} // closed when watch has ended
}

var _ packet.Transport = (*Conn)(nil)

// newConn takes over the sockets of a handshake.
func newConn(dir string, ctl *os.File, data sockio.PollFile, gso bool) *Conn {
	c := &Conn{dir: dir, ctl: ctl, data: data, gso: gso, watched: make(chan struct{})}
	go c.watch()
	return c
}

// watch waits for the end of the control connection.
func (c *Conn) watch() {
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

// end records why the network is gone, unless that is known, and wakes receivers.
func (c *Conn) end(err error) {
	c.gone.CompareAndSwap(nil, &err)
	c.data.Wake()
}

// final returns the error of an operation on a network that is closed or gone.
func (c *Conn) final() error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	if err := c.gone.Load(); err != nil {
		return *err
	}
	return nil
}

// RecvPackets implements [packet.Transport].
func (c *Conn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.data.Receive(b, c)
	if final := c.final(); err != nil && final != nil {
		err = final
	}
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *Conn) Receive(fd int, b *packet.Buffer) (bool, error) {
	for c.final() == nil {
		err := c.ReceiveData(fd, b, c.gso)
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
func (c *Conn) SendPackets(packets []packet.Packet, wait bool) error {
	if err := c.final(); err != nil {
		return err
	}
	err := c.SendData(c.data, packets, c.gso, c, wait)
	if final := c.final(); final != nil {
		err = final
	}
	return err
}

// HandleError implements [packet.Sending].
func (c *Conn) HandleError(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	err = switchClosed(os.NewSyscallError("sendmmsg", err))
	c.end(err)
	return frames, false, err
}

// Close leaves the switch. The port and the sockets may end up to lockWait and leaveWait
// later: while other clients connect or leave, or if the switch is stopped.
func (c *Conn) Close() error {
	c.closing.Store(true)
	c.data.Wake()
	left := make(chan struct{})
	go func() {
		defer close(left)
		var l handshakeLock
		select {
		case <-c.watched: // the switch is gone
		default:
			if !c.gso { // a switch with GSO needs no lock
				l = lockHandshake(context.Background(), c.dir)
			}
		}
		c.leave(l)
	}()
	select {
	case <-left:
	case <-time.After(closeWait):
	}
	return nil
}

// leave closes the sockets, and releases the lock.
func (c *Conn) leave(l handshakeLock) {
	l.leave(c.ctl)
	<-c.watched
	c.data.Close()
}
