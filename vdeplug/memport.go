package vdeplug

import (
	"net"
	"sync"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A memPort is a plug of the process on a fabric, or its uplink. Packets wait for
// its receiver in a queue, so that nobody waits for a slow one.
type memPort struct {
	packet.Counters
	port
	fabric *fabric
	leave  func() error // leaves the fabric; called once
	drains bool         // what has arrived can be received after Close too

	sending sync.Mutex // guards route; held while packets are handed over
	route   *routing   // nil until something is sent

	mu      sync.Mutex // guards the fields below; held to copy packets
	arrived sync.Cond  // there is something in queue, or closed was set
	queue   ether.Queue
	closed  bool
}

var _ packet.Transport = (*memPort)(nil)

// newMemPort joins a fabric. Its field leave is to be set.
func newMemPort(f *fabric) *memPort {
	p := &memPort{fabric: f}
	p.taker = p
	p.arrived.L = &p.mu
	f.join(&p.port)
	return p
}

// SendPackets implements [packet.Transport].
func (p *memPort) SendPackets(packets []packet.Packet, wait bool) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.route == nil {
		p.route = newRouting()
	}
	bad, err := p.fabric.forward(p.route, &p.port, packets, wait)
	p.DroppedSend.Add(uint64(bad))
	return err
}

// deliver queues packets.
func (p *memPort) deliver(packets []packet.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for i := range packets {
		h, data := packets[i].Offload, packets[i].Data
		if len(data) < ether.HeaderLen {
			p.DroppedRecv.Add(1)
		} else if !p.queue.Push(h, data) {
			frames, _ := virtio.Count(h, data)
			p.DroppedRecv.Add(uint64(frames))
		}
	}
	p.arrived.Signal()
}

// takesWhole implements [taker]: what has to be cut is when it is received.
func (p *memPort) takesWhole() bool { return true }

// wait waits until there is something in the queue; it reports false if the port
// is closed and nothing is left. p.mu is held.
func (p *memPort) wait() bool {
	for p.queue.Empty() && !p.closed {
		p.arrived.Wait()
	}
	return !p.queue.Empty()
}

// RecvPackets implements [packet.Transport].
func (p *memPort) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	b.Release()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wait() {
		return nil, net.ErrClosed
	}
	mem := b.Bytes()
	for !p.queue.Empty() && len(b.Packets) < fabricBatch && len(mem) >= virtio.MaxPacket {
		h, n := p.queue.Pop(mem)
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
	if !p.queue.Empty() {
		p.arrived.Signal()
	}
}

// Close leaves the fabric. What has arrived by then is lost, unless the port
// drains.
func (p *memPort) Close() error {
	p.mu.Lock()
	p.closed = true
	if !p.drains {
		p.queue = ether.Queue{}
	}
	p.arrived.Broadcast()
	p.mu.Unlock()
	return p.leave()
}
