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
)

// A Buffer takes what is received. It has memory only while it holds something,
// so that an interface on which nothing happens costs none. It serves one
// goroutine.
type Buffer struct {
	// Packets are what was received last.
	Packets []Packet
	// Brief says that the runtime is not told of calls that receive: that would wake
	// its monitor thread, where nothing else goes on in the process. They must take
	// no longer than 0.1 ms, as the whole process may wait for them. So it is for
	// sockets that no descriptors can be sent to: the kernel destroys those that
	// nobody takes in the call that receives, which has taken minutes.
	Brief bool

	mem  *memory
	wait waiter
}

// memory is what the buffers of all interfaces share.
type memory struct {
	packets [maxPackets]Packet
	system
	bytes [Size]byte
}

var memories = sync.Pool{New: func() any { return new(memory) }}

// Bytes returns the memory of the buffer. What Packets held before is lost.
func (b *Buffer) Bytes() []byte {
	b.take()
	return b.mem.bytes[:]
}

func (b *Buffer) take() {
	if b.mem == nil {
		b.mem = memories.Get().(*memory)
	}
	b.Packets = b.mem.packets[:0]
}

// Add adds a packet, which is in the memory of the buffer, to Packets.
func (b *Buffer) Add(h virtio.Header, data []byte) {
	b.AddRoom(h, data, 0)
}

// AddRoom is Add for a packet with room before it.
func (b *Buffer) AddRoom(h virtio.Header, data []byte, room int) {
	b.Packets = append(b.Packets, Packet{h, data, room})
}

// Release gives the memory back. What Packets held is lost.
func (b *Buffer) Release() {
	if b.mem != nil {
		memories.Put(b.mem)
		b.mem, b.Packets = nil, nil
	}
}
