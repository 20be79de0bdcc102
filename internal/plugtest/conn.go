// Package plugtest has what tests of networks share: frames that differ from all others,
// plugs that are received from all the time, and a check of what every plug promises.
// Tests of an engine make a plug of its transport with [NewConn].
package plugtest

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/packet"
)

// A Conn is a plug, as vdeplug.Conn says.
type Conn interface {
	Recv(frame []byte) (n int, err error)
	Send(frame []byte) error
	Close() error
}

// NewConn returns the plug on a transport. It is a [packet.Transport] too, and does not
// change errors.
func NewConn(t packet.Transport) Conn { return &conn{Transport: t} }

var _ packet.Transport = (*conn)(nil)

type conn struct {
	packet.Transport
	reader   packet.FrameReader
	counters packet.Counters // of frames that Recv does not return

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

func (c *conn) Recv(frame []byte) (int, error) {
	n, err := c.reader.Recv(c.Transport, &c.counters, &c.closing, frame)
	return n, c.final(err)
}

func (c *conn) Send(frame []byte) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	single := singles.Get().(*[1]packet.Packet)
	defer singles.Put(single)
	single[0] = packet.Packet{Data: frame}
	return c.final(c.Transport.SendPackets(single[:], false))
}

// singles are the batches of Send, which allocates nothing.
var singles = sync.Pool{New: func() any { return new([1]packet.Packet) }}

// final makes one error of all that a transport has once it is closed.
func (c *conn) final(err error) error {
	if err != nil && c.closing.Load() {
		return net.ErrClosed
	}
	return err
}

// Dropped returns the counts of the plug and its transport.
func (c *conn) Dropped() (recv, send uint64) {
	recv, send = c.counters.Dropped()
	r, s := packet.Dropped(c.Transport)
	return recv + r, send + s
}

func (c *conn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.closeErr = c.Transport.Close()
	})
	return c.closeErr
}

// An EndingConn is a plug whose network ends with Err after some frames.
type EndingConn struct {
	Frames int
	Err    error
}

// Recv implements [Conn].
func (c *EndingConn) Recv(frame []byte) (int, error) {
	if c.Frames--; c.Frames < 0 {
		return 0, c.Err
	}
	return copy(frame, TestFrame(Station(2), Station(1), 60)), nil
}

// Send implements [Conn].
func (c *EndingConn) Send([]byte) error { return net.ErrClosed }

// Close implements [Conn].
func (c *EndingConn) Close() error { return nil }
