// Package packet is how packets travel between the interfaces of stacks and
// plugs: several with one call, and as large as the kernel's TCP makes them.
//
// A plug that has only the methods of vdeplug.Conn carries one frame with each
// call. One that is a [Transport] too is handed packets as they come from an
// interface with offloads: it cuts them into frames where its network needs that,
// or carries them whole to peers that understand them.
package packet

import (
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A Packet is an Ethernet frame, or what stands for several.
type Packet struct {
	// Offload says what remains to be done to make frames of Data. The zero
	// Header says that Data is a frame that is complete.
	Offload virtio.Header
	// Data may be changed by the function that is given the packet.
	Data []byte
	// Room is how many bytes before Data, in the same memory, may be too.
	Room int
}

// Prepend moves the beginning of Data n bytes towards the front. It reports false
// if there is no room.
func (p *Packet) Prepend(n int) bool {
	if n > p.Room {
		return false
	}
	p.Room -= n
	first := (*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p.Data)), -n))
	p.Data = unsafe.Slice(first, n+len(p.Data))
	return true
}

// RoomWait is how long a transport waits for room in a socket or a queue before it
// drops frames. A peer that works needs much less; one that hangs takes this from
// each batch, and the interface drops what comes meanwhile.
const RoomWait = 10 * time.Millisecond

// A Transport moves batches of packets to and from a network. Its methods may be
// called from several goroutines at once, with buffers of their own.
type Transport interface {
	// RecvPackets waits until something arrives and returns it: b.Packets, in
	// the memory of b. Packets that stand for several frames come only from
	// peers that send such packets. After Close it returns [net.ErrClosed]; any
	// other error is final and says why the network is gone.
	RecvPackets(b *Buffer) ([]Packet, error)
	// SendPackets hands packets to the network, in order, and keeps nothing of
	// them. If wait is true, a network that is full may make it wait for a
	// moment; what the network does not take then is dropped and counted. If
	// wait is false, it does not wait, and the bytes of packets that are frames
	// already belong to the caller: it does not change them. Its errors are those
	// of RecvPackets.
	SendPackets(packets []Packet, wait bool) error
	// Close leaves the network and unblocks RecvPackets.
	Close() error
}
