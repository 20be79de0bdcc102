package vdeplug

import (
	"net"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	headroom = 16
	// emuBatch is how many packets are sent or received at once.
	emuBatch = 64
	// emuTurns is how many batches somebody sends who came for one.
	emuTurns = 16
	// emuBehind is how much who receives may leave unread before no more is taken
	// from the network.
	emuBehind = 256 << 10
)

// An emuConn is a plug on a network that is impaired. While there is no
// impairment of a direction, nothing happens in it.
type emuConn struct {
	packet.Layer
	emu  *Emulator
	read chan struct{} // closed at the end of who reads
}

var _ packet.Transport = (*emuConn)(nil)

// newEmuConn takes over the inner plug.
func newEmuConn(inner Conn, e Emulation) *emuConn {
	c := &emuConn{Layer: packet.Layer{Inner: transportOf(inner)}, emu: newEmulator(e), read: make(chan struct{})}
	c.emu.out.dropped, c.emu.in.dropped = &c.DroppedSend, &c.DroppedRecv
	c.emu.in.inward = true
	c.emu.out.expired = func() { c.sendDue(true) }
	return c
}

// emuWork is what a batch takes.
type emuWork struct {
	virtio.Segmenter
	packets []packet.Packet
}

var emuWorks = sync.Pool{New: func() any { return new(emuWork) }}

func (w *emuWork) free() {
	clear(w.packets)
	w.packets = w.packets[:0]
	emuWorks.Put(w)
}

// SendPackets implements [packet.Transport].
func (c *emuConn) SendPackets(packets []packet.Packet, wait bool) error {
	l := &c.emu.out
	if !l.on.Load() {
		return c.Inner.SendPackets(packets, wait)
	}
	w := emuWorks.Get().(*emuWork)
	defer w.free()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return net.ErrClosed
	case l.err != nil:
		return l.err
	}
	now := l.now()
	for i := range packets {
		l.put(&w.Segmenter, &packets[i], now)
	}
	c.sendDue(wait)
	return l.err
}

// sendDue sends what has arrived at the other end, unless somebody does. out.mu
// is held, but not while it sends.
func (c *emuConn) sendDue(wait bool) {
	l := &c.emu.out
	if l.sending || l.err != nil {
		return
	}
	l.sending = true
	now := l.now()
	w := emuWorks.Get().(*emuWork)
	defer w.free()
	for range emuTurns {
		var drained *emuChunk
		w.packets = w.packets[:0]
		for drained == nil && len(w.packets) < emuBatch {
			r, p, ok := l.queue.first()
			if !ok || r.due > now {
				break
			}
			w.packets = append(w.packets, p)
			drained = l.queue.Pop()
		}
		if len(w.packets) == 0 || l.closed {
			drained.free()
			break
		}
		l.mu.Unlock()
		err := c.Inner.SendPackets(w.packets, wait)
		drained.free()
		l.mu.Lock()
		if err != nil {
			l.err = err
			break
		}
		now = l.now()
	}
	l.sending = false
	if l.closed || l.err != nil {
		l.queue.clear()
	}
	l.arm(now)
}

// RecvPackets implements [packet.Transport].
func (c *emuConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	l := &c.emu.in
	for !l.on.Load() {
		packets, err := c.Inner.RecvPackets(b)
		if err != nil || !l.on.Load() {
			return packets, err
		}
		c.putArrived(packets)
	}
	b.Release()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		now := l.now()
		switch {
		case l.closed:
			return nil, net.ErrClosed
		case l.isDue(now):
			c.take(b, now)
			return b.Packets, nil
		case l.ready(now):
			l.arm(now) // for another one
			return nil, l.err
		case !l.reading:
			l.reading = true
			go c.readAll()
		}
		l.arm(now)
		l.arrived.Wait()
	}
}

// take copies what has arrived to b. in.mu is held.
func (c *emuConn) take(b *packet.Buffer, now time.Duration) {
	l := &c.emu.in
	mem := b.Bytes()
	for len(b.Packets) < emuBatch && len(mem) >= headroom+virtio.MaxPacket {
		r, p, ok := l.queue.first()
		if !ok || r.due > now {
			break
		}
		data := mem[headroom : headroom+r.n : headroom+r.n]
		copy(data, p.Data)
		b.AddRoom(r.header, data, headroom)
		mem = mem[headroom+r.n:]
		l.queue.Pop().free()
	}
	l.arm(now) // for another one
	l.room.Signal()
}

// readAll puts what the network sends into the queue.
func (c *emuConn) readAll() {
	defer close(c.read)
	l := &c.emu.in
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		l.mu.Lock()
		for !l.closed && l.queue.bytes > emuBehind && l.isDue(l.now()) {
			l.room.Wait()
		}
		l.mu.Unlock()
		packets, err := c.Inner.RecvPackets(&b)
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.arm(l.now())
			l.mu.Unlock()
			return
		}
		turn.Begin()
		c.putArrived(packets)
		turn.End()
	}
}

func (c *emuConn) putArrived(packets []packet.Packet) {
	l := &c.emu.in
	w := emuWorks.Get().(*emuWork)
	defer w.free()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := l.now()
	for i := range packets {
		l.put(&w.Segmenter, &packets[i], now)
	}
	l.arm(now)
}

// Close leaves the network. What is on its way is lost.
func (c *emuConn) Close() error {
	c.emu.out.close()
	c.emu.in.close()
	err := c.Inner.Close()
	c.emu.in.mu.Lock()
	reading := c.emu.in.reading
	c.emu.in.mu.Unlock()
	if reading {
		teardown.Within(func() { <-c.read })
	}
	return err
}
