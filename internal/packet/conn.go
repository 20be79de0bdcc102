package packet

import (
	"net"
	"sync"
	"sync/atomic"
)

// A Conn is the [FrameConn] on a [Transport], and a Transport itself. It cuts packets
// into frames for Recv, and closes the Transport once.
type Conn struct {
	transport Transport
	explain   func(op string, err error) error
	reader    FrameReader
	counters  Counters // of frames that Recv does not return

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

var (
	_ FrameConn = (*Conn)(nil)
	_ Transport = (*Conn)(nil)
)

// NewConn takes over a transport. explain returns the error to report for an error of the
// transport; op is "recv" or "send". With nil, errors are reported as they are.
func NewConn(t Transport, explain func(op string, err error) error) *Conn {
	return &Conn{transport: t, explain: explain}
}

// final returns what a call reports for an error of the transport.
func (c *Conn) final(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case err == net.ErrClosed, c.closing.Load():
		return net.ErrClosed
	case c.explain != nil:
		return c.explain(op, err)
	}
	return err
}

// RecvPackets implements [Transport].
func (c *Conn) RecvPackets(b *Buffer) ([]Packet, error) {
	packets, err := c.transport.RecvPackets(b)
	if err != nil {
		return nil, c.final("recv", err)
	}
	return packets, nil
}

// SendPackets implements [Transport].
func (c *Conn) SendPackets(packets []Packet, wait bool) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	return c.final("send", c.transport.SendPackets(packets, wait))
}

// Recv implements [FrameConn].
func (c *Conn) Recv(frame []byte) (int, error) {
	return c.reader.Recv(c, &c.counters, &c.closing, frame)
}

// Send implements [FrameConn].
func (c *Conn) Send(frame []byte) error {
	single := singles.Get().(*[1]Packet)
	single[0] = Packet{Data: frame}
	err := c.SendPackets(single[:], false)
	single[0] = Packet{}
	singles.Put(single)
	return err
}

// singles are the batches of Send.
var singles = sync.Pool{New: func() any { return new([1]Packet) }}

// Dropped returns the counts of the Conn and of the transports below it.
func (c *Conn) Dropped() (recv, send uint64) {
	recv, send = c.counters.Dropped()
	r, s := Dropped(c.transport)
	return recv + r, send + s
}

// Below returns the transport, for [Find].
func (c *Conn) Below() Transport { return c.transport }

// Close closes the transport, and always returns the error of that.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.closeErr = c.transport.Close()
	})
	return c.closeErr
}
