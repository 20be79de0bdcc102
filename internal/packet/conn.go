package packet

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A Conn is the [FrameConn] on a [Transport], and a Transport itself. It cuts packets
// into frames for Recv, and closes the Transport once.
type Conn struct {
	Layer
	explain func(op string, err error) error

	receiving waitLock // guards the fields below; held while Recv waits
	buf       Buffer
	next      int // packet of buf
	cut       virtio.Segmenter
	frames    []virtio.Segment // of the packet before next, still to be returned

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

// A waitLock is full while somebody has the lock, perhaps for long. Unlike with [sync.Mutex],
// a goroutine that waits for it is durably blocked in the sense of testing/synctest.
type waitLock chan struct{}

func newWaitLock() waitLock { return make(chan struct{}, 1) }

var (
	_ FrameConn = (*Conn)(nil)
	_ Transport = (*Conn)(nil)
)

// NewConn takes over a transport. explain returns the error to report for an error of the
// transport; op is "recv" or "send". With nil, errors are reported as they are.
func NewConn(t Transport, explain func(op string, err error) error) *Conn {
	return &Conn{Layer: Layer{Inner: t}, explain: explain, receiving: newWaitLock()}
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
	packets, err := c.Inner.RecvPackets(b)
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
	return c.final("send", c.Inner.SendPackets(packets, wait))
}

// Recv implements [FrameConn]. Larger frames, and packets that cannot be cut into frames, are
// dropped and counted.
func (c *Conn) Recv(frame []byte) (int, error) {
	c.receiving <- struct{}{}
	defer func() { <-c.receiving }()
	for {
		if c.closing.Load() {
			c.frames, c.next = nil, 0
			c.buf.Release()
			return 0, net.ErrClosed
		}
		for len(c.frames) > 0 || c.next < len(c.buf.Packets) {
			if len(c.frames) == 0 {
				p := c.buf.Packets[c.next]
				c.next++
				var err error
				if c.frames, err = c.cut.Split(p.Offload, p.Data, 0); err != nil {
					c.DroppedRecv.Add(1)
					continue
				}
			}
			s := c.frames[0]
			c.frames = c.frames[1:]
			if len(s.Head)+len(s.Data) <= len(frame) {
				n := copy(frame, s.Head)
				return n + copy(frame[n:], s.Data), nil
			}
			c.DroppedRecv.Add(1)
		}
		c.next = 0
		if _, err := c.RecvPackets(&c.buf); err != nil {
			c.buf.Release()
			return 0, err
		}
	}
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

// Close closes the transport, and always returns the error of that.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.closeErr = c.Inner.Close()
	})
	return c.closeErr
}
