package vdeplug

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A nesting changes packets on their way between a plug and the network that it
// is nested on. Its methods may be called from several goroutines at once.
type nesting interface {
	// outward changes a packet of the plug and hands it to w.pass, or what it has
	// made of it. It returns how many frames it has refused.
	outward(w *nestedWork, p *packet.Packet) (dropped int)
	// inward changes a packet of the network in place. It returns what is to be
	// done with it.
	inward(p *packet.Packet) verdict
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
	packets []packet.Packet
	bytes   []byte
	one     packet.Packet // that is being changed
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
func (w *nestedWork) move(p *packet.Packet) {
	mem := w.take(nestedRoom + len(p.Data))
	copy(mem[nestedRoom:], p.Data)
	p.Data, p.Room = mem[nestedRoom:], nestedRoom
}

func (w *nestedWork) pass(p packet.Packet) { w.packets = append(w.packets, p) }

func (w *nestedWork) free() {
	clear(w.packets)
	w.one = packet.Packet{}
	w.packets, w.bytes = w.packets[:0], w.bytes[:0]
	nestedWorks.Put(w)
}

// A layer is what transports on another have in common.
type layer struct {
	packet.Counters
	inner packet.Transport
}

// Dropped returns the counts of the layer and of those below it.
func (l *layer) Dropped() (recv, send uint64) {
	recv, send = l.Counters.Dropped()
	r, s := packet.Dropped(l.inner)
	return recv + r, send + s
}

// Link returns that of the innermost network.
func (l *layer) Link() (link Link) {
	if inner, ok := l.inner.(Linker); ok {
		link = inner.Link()
	}
	return link
}

func (l *layer) below() packet.Transport { return l.inner }

// A nestedConn changes packets on their way to another transport.
type nestedConn struct {
	layer
	nesting nesting
	closing atomic.Bool
}

var _ packet.Transport = (*nestedConn)(nil)

// newNested takes over the inner plug.
func newNested(l Locator, inner Conn, n nesting) Conn {
	return newPlug(l.String(), &nestedConn{layer: layer{inner: transportOf(inner)}, nesting: n})
}

// RecvPackets implements [packet.Transport].
func (c *nestedConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		packets, err := c.inner.RecvPackets(b)
		if err != nil {
			return nil, err
		}
		b.Packets = packets[:0]
		for i := range packets {
			switch c.nesting.inward(&packets[i]) {
			case pass:
				b.Packets = append(b.Packets, packets[i])
			case dropped:
				c.DroppedRecv.Add(1)
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

// SendPackets implements [packet.Transport].
func (c *nestedConn) SendPackets(packets []packet.Packet, wait bool) error {
	w := nestedWorks.Get().(*nestedWork)
	defer w.free()
	for i := range packets {
		p := packets[i]
		if len(p.Data) < ether.HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame {
			c.DroppedSend.Add(1)
			continue
		}
		if !wait { // the bytes are the caller's
			w.move(&p)
		}
		w.one = p
		c.DroppedSend.Add(uint64(c.nesting.outward(w, &w.one)))
	}
	return c.inner.SendPackets(w.packets, wait)
}

func (c *nestedConn) Close() error {
	c.closing.Store(true)
	return c.inner.Close()
}
