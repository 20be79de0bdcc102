// Package transform changes packets between a plug and the network below it: it puts them
// into a VLAN, or encrypts them.
package transform

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A Transform changes packets. Its methods may be called from several goroutines at once.
type Transform interface {
	// Encap transforms a packet for the network, and adds the results to the batch. It
	// may change p and its bytes. It returns the number of frames dropped.
	Encap(b *Batch, p *packet.Packet) (dropped int)
	// Decap restores a packet from the network in place.
	Decap(p *packet.Packet) Action
}

// An Action says what to do with a packet from the network.
type Action int

const (
	Pass   Action = iota
	Ignore        // it is not for this plug
	Drop          // it is for this plug, but damaged or too old
)

// headroom is the number of bytes that copyOut keeps free before a packet.
const headroom = 16

// A Batch collects packets for the network, and has their memory until they are sent.
type Batch struct {
	virtio.Segmenter
	Packets []packet.Packet
	bytes   []byte
	current packet.Packet
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// alloc returns n bytes, with any content.
func (b *Batch) alloc(n int) []byte {
	if len(b.bytes)+n > cap(b.bytes) {
		b.bytes = make([]byte, 0, max(2*cap(b.bytes), n, 16<<10)) // packets refer to the old memory
	}
	used := len(b.bytes)
	b.bytes = b.bytes[:used+n]
	return b.bytes[used : used+n : used+n]
}

// copyOut moves a packet to memory of the batch, with headroom.
func (b *Batch) copyOut(p *packet.Packet) {
	mem := b.alloc(headroom + len(p.Data))
	copy(mem[headroom:], p.Data)
	p.Data, p.Room = mem[headroom:], headroom
}

func (b *Batch) add(p packet.Packet) { b.Packets = append(b.Packets, p) }

func (b *Batch) free() {
	clear(b.Packets)
	b.current = packet.Packet{}
	b.Packets, b.bytes = b.Packets[:0], b.bytes[:0]
	batches.Put(b)
}

// A Transport applies a transform to another transport.
type Transport struct {
	packet.Layer
	transform Transform
	closing   atomic.Bool
}

var _ packet.Transport = (*Transport)(nil)

// New takes over the inner transport.
func New(inner packet.Transport, t Transform) *Transport {
	return &Transport{Layer: packet.Layer{Inner: inner}, transform: t}
}

// RecvPackets implements [packet.Transport].
func (t *Transport) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		packets, err := t.Inner.RecvPackets(b)
		if err != nil {
			return nil, err
		}
		b.Packets = packets[:0]
		for i := range packets {
			switch t.transform.Decap(&packets[i]) {
			case Pass:
				b.Packets = append(b.Packets, packets[i])
			case Drop:
				t.DroppedRecv.Add(1)
			}
		}
		if len(b.Packets) > 0 {
			return b.Packets, nil
		}
		if t.closing.Load() { // a flood of packets for others must not delay Close
			return nil, net.ErrClosed
		}
	}
}

// SendPackets implements [packet.Transport].
func (t *Transport) SendPackets(packets []packet.Packet, wait bool) error {
	b := batches.Get().(*Batch)
	defer b.free()
	for i := range packets {
		p := packets[i]
		if len(p.Data) < ether.HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame {
			t.DroppedSend.Add(1)
			continue
		}
		if !wait { // the bytes belong to the caller
			b.copyOut(&p)
		}
		b.current = p // so that p is not allocated
		t.DroppedSend.Add(uint64(t.transform.Encap(b, &b.current)))
	}
	return t.Inner.SendPackets(b.Packets, wait)
}

func (t *Transport) Close() error {
	t.closing.Store(true)
	return t.Inner.Close()
}
