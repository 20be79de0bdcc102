package vdeplug

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A memPort is a plug of the process on a fabric, or its uplink. Packets wait for
// its receiver in a queue, so that nobody waits for a slow one.
type memPort struct {
	dropCounter
	port
	fabric *fabric
	leave  func() error // leaves the fabric; called once
	drains bool         // what has arrived can be received after Close too

	sending sync.Mutex // guards the next two; held while packets are handed over
	route   *routing   // nil until something is sent
	single  [1]carrier.Packet

	mu      sync.Mutex // guards the fields below; held to copy packets, and to cut them
	arrived sync.Cond  // there is something in queue, or closed was set
	queue   frameQueue
	closed  bool
	cut     virtio.Segmenter
	frame   []byte

	// whole is set, with mu held, once packets are received: the port takes what
	// stands for several frames as it is.
	whole atomic.Bool

	closing  sync.Once
	closeErr error
}

var (
	_ Conn         = (*memPort)(nil)
	_ Dropper      = (*memPort)(nil)
	_ carrier.Conn = (*memPort)(nil)
)

// newMemPort joins a fabric. Its field leave is to be set.
func newMemPort(f *fabric) *memPort {
	p := &memPort{fabric: f}
	p.taker = p
	p.arrived.L = &p.mu
	f.join(&p.port)
	return p
}

func (p *memPort) Send(frame []byte) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.single[0].Data = frame
	err := p.send(p.single[:], false)
	p.single[0] = carrier.Packet{}
	return err
}

// SendPackets is that of [carrier.Conn].
func (p *memPort) SendPackets(packets []carrier.Packet) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	return p.send(packets, true)
}

func (p *memPort) send(packets []carrier.Packet, wait bool) error {
	if p.route == nil {
		p.route = newRouting()
	}
	bad, err := p.fabric.forward(p.route, &p.port, packets, wait)
	p.droppedSend.Add(uint64(bad))
	return err
}

// deliver queues packets.
func (p *memPort) deliver(packets []carrier.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for i := range packets {
		switch h, data := packets[i].Offload, packets[i].Data; {
		case len(data) < HeaderLen:
			p.droppedRecv.Add(1)
		case h == virtio.Header{} || p.whole.Load():
			p.push(h, data)
		default:
			p.pushFrames(h, data)
		}
	}
	p.arrived.Signal()
}

func (p *memPort) takesWhole() bool { return p.whole.Load() }

func (p *memPort) push(h virtio.Header, data []byte) {
	if !p.queue.push(h, data) {
		frames, _ := virtio.Count(h, data)
		p.droppedRecv.Add(uint64(frames))
	}
}

func (p *memPort) pushFrames(h virtio.Header, data []byte) {
	segments, err := p.cut.Split(h, data, 0)
	if err != nil {
		p.droppedRecv.Add(1)
	}
	for _, g := range segments {
		p.frame = append(append(p.frame[:0], g.Head...), g.Data...)
		p.push(virtio.Header{}, p.frame)
	}
}

func (p *memPort) Recv(frame []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.wait() {
		if h, n := p.queue.pop(frame); n <= len(frame) && h == (virtio.Header{}) {
			p.wakeNext()
			return n, nil
		}
		p.droppedRecv.Add(1)
	}
	return 0, net.ErrClosed
}

// wait waits until there is something in the queue; it reports false if the port
// is closed and nothing is left. p.mu is held.
func (p *memPort) wait() bool {
	for p.queue.empty() && !p.closed {
		p.arrived.Wait()
	}
	return !p.queue.empty()
}

// RecvPackets is that of [carrier.Conn]. Once it was called, Recv must not be.
func (p *memPort) RecvPackets(b *carrier.Buffer) ([]carrier.Packet, error) {
	b.Release()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole.Store(true)
	if !p.wait() {
		return nil, net.ErrClosed
	}
	mem := b.Bytes()
	for !p.queue.empty() && len(b.Packets) < fabricBatch && len(mem) >= virtio.MaxPacket {
		h, n := p.queue.pop(mem)
		if n <= len(mem) {
			b.Add(h, mem[:n:n])
			mem = mem[n:]
		}
	}
	p.wakeNext()
	return b.Packets, nil
}

// wakeNext wakes another receiver if something is left: however much arrives at
// once, deliver wakes one.
func (p *memPort) wakeNext() {
	if !p.queue.empty() {
		p.arrived.Signal()
	}
}

// Close leaves the fabric. What has arrived by then is lost, unless the port
// drains.
func (p *memPort) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.closed = true
		if !p.drains {
			p.queue = frameQueue{}
		}
		p.arrived.Broadcast()
		p.mu.Unlock()
		p.closeErr = p.leave()
	})
	return p.closeErr
}
