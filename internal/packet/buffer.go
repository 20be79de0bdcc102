package packet

import (
	"sync"

	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// maxMsgs is how many datagrams one call receives. More would save little,
	// and make the next caller wait.
	maxMsgs = 64
	// maxPackets is how many packets a Buffer is made for: UDP_GRO joins up to 64
	// datagrams, of which nine fit.
	maxPackets = 9 * 64
	// Size is how many bytes a Buffer holds: any frame of a plug for each of
	// maxMsgs, or nine packets of the largest size.
	Size = maxMsgs * 9344
	// ManySlots is how many datagrams of any size a Buffer with Many holds.
	ManySlots = 32
	// Slot is room for the largest datagram, and some more: if all began at the same place
	// of their pages, they would take each other's place in the processor's cache.
	Slot = 1<<16 + 33*64
)

// A Buffer holds what was received. It has memory only while it holds something, so that
// an idle interface costs no memory. It serves one goroutine.
type Buffer struct {
	// Packets are what was received last.
	Packets []Packet
	// Brief makes calls that receive raw system calls. The runtime does not know of them,
	// so its monitor thread sleeps on in an idle process; but the whole process may wait
	// for such a call, which must not take longer than 0.1 ms. So it is only for sockets
	// to which no descriptors can be sent: the kernel destroys unclaimed descriptors in
	// the call that receives, which can take minutes.
	Brief bool
	// Many has the Buffer hold ManySlots times Slot bytes, for sockets whose datagrams may be
	// large, but rarely are: memory that none has needed is not backed.
	Many bool

	mem  *memory
	wait waiter
}

// memory is of a pool that the buffers of all interfaces share.
type memory struct {
	packets [maxPackets]Packet
	system
	bytes []byte
}

var memories, manyMemories = pool(Size), pool(ManySlots * Slot)

func pool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &memory{bytes: make([]byte, size)} }}
}

func (b *Buffer) pool() *sync.Pool {
	if b.Many {
		return manyMemories
	}
	return memories
}

// Bytes returns the memory of the buffer. What Packets held before is lost.
func (b *Buffer) Bytes() []byte {
	b.take()
	return b.mem.bytes
}

func (b *Buffer) take() {
	if b.mem == nil {
		b.mem = b.pool().Get().(*memory)
	}
	b.Packets = b.mem.packets[:0]
}

// Add adds a packet, which is in the memory of the buffer, to Packets.
func (b *Buffer) Add(h virtio.Header, data []byte) {
	b.AddRoom(h, data, 0)
}

// AddRoom is Add for a packet with room before its data.
func (b *Buffer) AddRoom(h virtio.Header, data []byte, room int) {
	b.Packets = append(b.Packets, Packet{h, data, room})
}

// Release gives the memory back. What Packets held is lost.
func (b *Buffer) Release() {
	if b.mem != nil {
		b.pool().Put(b.mem)
		b.mem, b.Packets = nil, nil
	}
}
