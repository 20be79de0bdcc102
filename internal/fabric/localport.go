package fabric

import (
	"net"
	"sync"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A LocalPort is a port of the process: a transport that sends to a fabric and
// receives from it. Packets wait in a queue; those without room are dropped.
type LocalPort struct {
	packet.Counters
	port   Port
	fabric *Fabric
	left   func() // called by Close; may be nil
	drains bool   // packets can be received after Close

	sending sync.Mutex // guards routes; held while packets are delivered
	routes  *Routes    // nil until something is sent

	mu      sync.Mutex // guards the fields below; held to copy packets
	arrived sync.Cond  // queue has packets, or closed was set
	queue   ether.Queue
	closed  bool
}

var _ packet.Transport = (*LocalPort)(nil)

// NewLocalPort returns a port that has joined a fabric. Close calls left last, unless it is
// nil.
func NewLocalPort(f *Fabric, left func()) *LocalPort {
	p := &LocalPort{fabric: f, left: left}
	p.port.Receiver = p
	p.arrived.L = &p.mu
	f.Join(&p.port)
	return p
}

// NewDrainingPort is like [NewLocalPort], but RecvPackets of the port goes on after
// Close to return the packets that had arrived by then.
func NewDrainingPort(f *Fabric) *LocalPort {
	p := NewLocalPort(f, nil)
	p.drains = true
	return p
}

// SendPackets implements [packet.Transport].
func (p *LocalPort) SendPackets(packets []packet.Packet, wait bool) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.routes == nil {
		p.routes = NewRoutes()
	}
	bad, err := p.fabric.Forward(p.routes, &p.port, packets, wait)
	p.DroppedSend.Add(uint64(bad))
	return err
}

// Deliver implements [Receiver].
func (p *LocalPort) Deliver(packets []packet.Packet) {
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

// TakesGSO implements [Receiver]. The caller of RecvPackets cuts packets if it needs frames.
func (p *LocalPort) TakesGSO() bool { return true }

// RecvPackets implements [packet.Transport].
func (p *LocalPort) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	b.Release()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.Empty() && !p.closed {
		p.arrived.Wait()
	}
	if p.queue.Empty() {
		return nil, net.ErrClosed
	}
	mem := b.Bytes()
	for !p.queue.Empty() && len(b.Packets) < batchSize && len(mem) >= virtio.MaxPacket {
		h, n := p.queue.Pop(mem)
		if n <= len(mem) {
			b.Add(h, mem[:n:n])
			mem = mem[n:]
		}
	}
	if !p.queue.Empty() { // Deliver wakes one receiver, however many packets arrive
		p.arrived.Signal()
	}
	return b.Packets, nil
}

// Close leaves the fabric. It must be called once. Packets in the queue are lost, except with
// [NewDrainingPort].
func (p *LocalPort) Close() error {
	p.mu.Lock()
	p.closed = true
	if !p.drains {
		p.queue = ether.Queue{}
	}
	p.arrived.Broadcast()
	p.mu.Unlock()
	p.fabric.Leave(&p.port)
	if p.left != nil {
		p.left()
	}
	return nil
}
