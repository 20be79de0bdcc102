package netem

import (
	mathrand "math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// batchSize is the number of packets sent or received at once.
	batchSize = 64
	// maxBatches is the number of batches that a call sends before it returns,
	// including packets of other callers.
	maxBatches = 16
	// readAhead is the number of bytes buffered for a slow receiver.
	readAhead = 256 << 10
	// headroom is the number of free bytes before received packets.
	headroom = 16
)

// A Transport impairs another one. A direction without impairment costs nothing.
type Transport struct {
	packet.Layer
	out, in pipe
	read    chan struct{} // closed when readAll ends

	mu   sync.Mutex // guards seed; held while settings change
	seed uint64
}

var _ packet.Transport = (*Transport)(nil)

// New takes over the inner transport. A seed of 0 stands for a random one.
func New(inner packet.Transport, s Settings) *Transport {
	t := &Transport{Layer: packet.Layer{Inner: inner}, read: make(chan struct{}), seed: s.Seed}
	for t.seed == 0 {
		t.seed = mathrand.Uint64()
	}
	start := time.Now()
	t.out.init(start, &t.DroppedSend)
	t.in.init(start, &t.DroppedRecv)
	t.in.incoming = true
	t.out.onTimer = func() { t.sendDue(true) }
	t.out.set(s.Out, true, t.seed, 1)
	t.in.set(s.In, true, t.seed, 2)
	return t
}

// Settings returns the settings, with the seed that is in use.
func (t *Transport) Settings() Settings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Settings{Out: t.out.impairment(), In: t.in.impairment(), Seed: t.seed}
}

// Set changes the settings. A seed that is neither 0 nor in use starts again. If it returns
// an error, nothing has changed.
func (t *Transport) Set(to Settings) error {
	if err := to.Check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	restart := to.Seed != 0 && to.Seed != t.seed
	if restart {
		t.seed = to.Seed
	}
	t.out.set(to.Out, restart, t.seed, 1)
	t.in.set(to.In, restart, t.seed, 2)
	return nil
}

// Counts returns the counters of both directions.
func (t *Transport) Counts() (out, in Counts) { return t.out.count(), t.in.count() }

// A batch is the memory for a batch of packets.
type batch struct {
	virtio.Segmenter
	packets []packet.Packet
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (b *batch) free() {
	clear(b.packets)
	b.packets = b.packets[:0]
	batches.Put(b)
}

// SendPackets implements [packet.Transport].
func (t *Transport) SendPackets(packets []packet.Packet, wait bool) error {
	p := &t.out
	if !p.active.Load() {
		return t.Inner.SendPackets(packets, wait)
	}
	b := batches.Get().(*batch)
	defer b.free()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return net.ErrClosed
	case p.err != nil:
		return p.err
	}
	now := p.now()
	for i := range packets {
		p.accept(&b.Segmenter, &packets[i], now)
	}
	t.sendDue(wait)
	return p.err
}

// sendDue sends the packets that are due, unless another goroutine does. out.mu is held, but
// released while it sends.
func (t *Transport) sendDue(wait bool) {
	p := &t.out
	if p.sending || p.err != nil {
		return
	}
	p.sending = true
	now := p.now()
	b := batches.Get().(*batch)
	defer b.free()
	for range maxBatches {
		var drained *chunk
		b.packets = b.packets[:0]
		for drained == nil && len(b.packets) < batchSize {
			r, first, ok := p.queue.peek()
			if !ok || r.due > now {
				break
			}
			b.packets = append(b.packets, first)
			drained = p.queue.pop()
		}
		if len(b.packets) == 0 || p.closed {
			drained.free()
			break
		}
		p.mu.Unlock()
		err := t.Inner.SendPackets(b.packets, wait)
		drained.free()
		p.mu.Lock()
		if err != nil {
			p.err = err
			break
		}
		now = p.now()
	}
	p.sending = false
	if p.closed || p.err != nil {
		p.queue.clear()
	}
	p.schedule(now)
}

// RecvPackets implements [packet.Transport].
func (t *Transport) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	p := &t.in
	for !p.active.Load() {
		packets, err := t.Inner.RecvPackets(b)
		if err != nil || !p.active.Load() {
			return packets, err
		}
		t.acceptAll(packets)
	}
	b.Release()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		now := p.now()
		switch {
		case p.closed:
			return nil, net.ErrClosed
		case p.isDue(now):
			t.receiveDue(b, now)
			return b.Packets, nil
		case p.readable(now):
			p.schedule(now) // wakes another receiver
			return nil, p.err
		case !p.reading:
			p.reading = true
			go t.readAll()
		}
		p.schedule(now)
		p.arrived.Wait()
	}
}

// receiveDue copies the packets that are due to b. in.mu is held.
func (t *Transport) receiveDue(b *packet.Buffer, now time.Duration) {
	p := &t.in
	mem := b.Bytes()
	for len(b.Packets) < batchSize && len(mem) >= headroom+virtio.MaxPacket {
		r, first, ok := p.queue.peek()
		if !ok || r.due > now {
			break
		}
		data := mem[headroom : headroom+r.n : headroom+r.n]
		copy(data, first.Data)
		b.AddRoom(r.header, data, headroom)
		mem = mem[headroom+r.n:]
		p.queue.pop().free()
	}
	p.schedule(now) // wakes another receiver
	p.room.Signal()
}

// readAll moves packets from the network to the queue.
func (t *Transport) readAll() {
	defer close(t.read)
	p := &t.in
	var b packet.Buffer
	defer b.Release()
	var turn packet.Turn
	for {
		p.mu.Lock()
		for !p.closed && p.queue.bytes > readAhead && p.isDue(p.now()) {
			p.room.Wait()
		}
		p.mu.Unlock()
		packets, err := t.Inner.RecvPackets(&b)
		if err != nil {
			p.mu.Lock()
			p.err = err
			p.schedule(p.now())
			p.mu.Unlock()
			return
		}
		turn.Begin()
		t.acceptAll(packets)
		turn.End()
	}
}

func (t *Transport) acceptAll(packets []packet.Packet) {
	p := &t.in
	b := batches.Get().(*batch)
	defer b.free()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	now := p.now()
	for i := range packets {
		p.accept(&b.Segmenter, &packets[i], now)
	}
	p.schedule(now)
}

// Close leaves the network. Packets in the queues are lost.
func (t *Transport) Close() error {
	t.out.close()
	t.in.close()
	err := t.Inner.Close()
	t.in.mu.Lock()
	reading := t.in.reading
	t.in.mu.Unlock()
	if reading {
		teardown.Within(func() { <-t.read })
	}
	return err
}
