// Package plugtest is shared by tests of networks: frames that differ from all others, plugs
// with a goroutine that receives, and a check of what every plug promises. Tests of an
// engine make a plug of its transport with [NewConn].
package plugtest

import (
	"net"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/packet"
)

// A Conn is a plug, as vdeplug.Conn says.
type Conn = packet.FrameConn

// NewConn returns the plug on a transport. It is a [packet.Transport] too, and reports
// errors as they are.
func NewConn(t packet.Transport) Conn { return packet.NewConn(t, nil) }

// An EndingConn is a plug whose network ends with Err after some frames.
type EndingConn struct {
	frames atomic.Int64
	err    error
}

// NewEndingConn returns a plug on a network that ends with err after some frames.
func NewEndingConn(frames int, err error) *EndingConn {
	c := &EndingConn{err: err}
	c.frames.Store(int64(frames))
	return c
}

// Recv implements [Conn].
func (c *EndingConn) Recv(frame []byte) (int, error) {
	if c.frames.Add(-1) < 0 {
		return 0, c.err
	}
	return copy(frame, TestFrame(Station(2), Station(1), 60)), nil
}

// Send implements [Conn].
func (c *EndingConn) Send([]byte) error { return net.ErrClosed }

// Close implements [Conn].
func (c *EndingConn) Close() error { return nil }
