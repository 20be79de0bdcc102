package vdeplug

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A nesting changes packets on their way between a plug and the network that it
// is nested on. Its methods may be called from several goroutines at once.
type nesting interface {
	// outward changes a packet of the plug and hands it to w.pass, or what it has
	// made of it. It returns how many frames it has refused.
	outward(w *nestedWork, p *carrier.Packet) (dropped int)
	// inward changes a packet of the network in place. It returns what is to be
	// done with it.
	inward(p *carrier.Packet) verdict
}

// A verdict says what becomes of a packet.
type verdict int

const (
	pass    verdict = iota
	ignored         // it is not for this plug
	dropped         // it is, and cannot be had
)

// nestedRoom is how much is left before a frame that comes without room.
const nestedRoom = 16

// nestedWork is what sending takes.
type nestedWork struct {
	virtio.Segmenter
	packets []carrier.Packet
	bytes   []byte
	one     carrier.Packet // of Send
}

var nestedWorks = sync.Pool{New: func() any { return new(nestedWork) }}

// take returns n bytes that live until all is sent. There is nothing in them.
func (w *nestedWork) take(n int) []byte {
	if len(w.bytes)+n > cap(w.bytes) {
		w.bytes = make([]byte, 0, max(2*cap(w.bytes), n, 16<<10)) // what was taken stays
	}
	used := len(w.bytes)
	w.bytes = w.bytes[:used+n]
	return w.bytes[used : used+n : used+n]
}

// move gives a packet room before it.
func (w *nestedWork) move(p *carrier.Packet) {
	mem := w.take(nestedRoom + len(p.Data))
	copy(mem[nestedRoom:], p.Data)
	p.Data, p.Room = mem[nestedRoom:], nestedRoom
}

func (w *nestedWork) pass(p carrier.Packet) { w.packets = append(w.packets, p) }

func (w *nestedWork) free() {
	clear(w.packets)
	w.one = carrier.Packet{}
	w.packets, w.bytes = w.packets[:0], w.bytes[:0]
	nestedWorks.Put(w)
}

// A nestedConn is a plug on another.
type nestedConn struct {
	dropCounter
	vnl     string
	inner   Conn
	packets carrier.Conn // inner
	frames  *carrier.Frames
	nesting nesting
	one     oneByOne

	closing   atomic.Bool
	closeOnce sync.Once
}

var (
	_ Conn         = (*nestedConn)(nil)
	_ Dropper      = (*nestedConn)(nil)
	_ Linker       = (*nestedConn)(nil)
	_ carrier.Conn = (*nestedConn)(nil)
)

// newNested takes over the inner plug.
func newNested(l Locator, inner Conn, n nesting) *nestedConn {
	c := &nestedConn{vnl: l.String(), inner: inner, nesting: n}
	c.packets, c.frames = packetsOf(inner)
	return c
}

// packetsOf returns a plug as one that moves packets. If it is none, frames does
// that for it.
func packetsOf(inner Conn) (packets carrier.Conn, frames *carrier.Frames) {
	if packets, ok := inner.(carrier.Conn); ok {
		return packets, nil
	}
	frames = carrier.NewFrames(inner, MaxFrame)
	return frames, frames
}

func (c *nestedConn) unwrap() Conn { return c.inner }

// final says of an error which network it is of.
func (c *nestedConn) final(op string, err error) error { return finalError(op, c.vnl, err, &c.closing) }

func finalError(op, vnl string, err error, closing *atomic.Bool) error {
	if err == nil || closing.Load() {
		if err != nil {
			err = net.ErrClosed
		}
		return err
	}
	if e, ok := err.(*Error); ok {
		err = e.Err // what it is nested in is in the locator
	}
	return &Error{op, vnl, err}
}

func (c *nestedConn) Recv(frame []byte) (int, error) {
	return c.one.recv(c, &c.dropCounter, &c.closing, frame)
}

// RecvPackets is that of [carrier.Conn].
func (c *nestedConn) RecvPackets(b *carrier.Buffer) ([]carrier.Packet, error) {
	for {
		packets, err := c.packets.RecvPackets(b)
		if err != nil {
			return nil, c.final("recv", err)
		}
		b.Packets = packets[:0]
		for i := range packets {
			switch c.nesting.inward(&packets[i]) {
			case pass:
				b.Packets = append(b.Packets, packets[i])
			case dropped:
				c.droppedRecv.Add(1)
			}
		}
		if len(b.Packets) > 0 {
			return b.Packets, nil
		}
		if c.closing.Load() {
			return nil, net.ErrClosed // though the network goes on
		}
	}
}

// outward hands a packet to the nesting, unless it is none.
func (c *nestedConn) outward(w *nestedWork, p *carrier.Packet) {
	if len(p.Data) < HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > MaxFrame {
		c.droppedSend.Add(1)
		return
	}
	c.droppedSend.Add(uint64(c.nesting.outward(w, p)))
}

// SendPackets is that of [carrier.Conn].
func (c *nestedConn) SendPackets(packets []carrier.Packet) error {
	w := nestedWorks.Get().(*nestedWork)
	defer w.free()
	for i := range packets {
		c.outward(w, &packets[i])
	}
	return c.final("send", c.packets.SendPackets(w.packets))
}

// Send sends a frame that the caller keeps, and must not wait.
func (c *nestedConn) Send(frame []byte) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	w := nestedWorks.Get().(*nestedWork)
	defer w.free()
	w.one = carrier.Packet{Data: frame}
	if sendable(frame) {
		w.move(&w.one)
	}
	c.outward(w, &w.one)
	for _, p := range w.packets {
		if err := c.inner.Send(p.Data); err != nil {
			return c.final("send", err)
		}
	}
	return nil
}

// Drops returns the counts of the plug and of those that it is nested on.
func (c *nestedConn) Drops() Drops { return innerDrops(c.dropCounter.Drops(), c.inner, c.frames) }

func innerDrops(d Drops, inner Conn, frames *carrier.Frames) Drops {
	if inner, ok := inner.(Dropper); ok {
		more := inner.Drops()
		d.Recv += more.Recv
		d.Send += more.Send
	}
	if frames != nil {
		d.Send += frames.Bad.Load()
	}
	return d
}

// Link returns that of the network that the plug is nested on.
func (c *nestedConn) Link() (link Link) {
	if inner, ok := c.inner.(Linker); ok {
		link = inner.Link()
	}
	return link
}

func (c *nestedConn) Close() (err error) {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		err = c.inner.Close()
	})
	return err
}
