// Package packet moves packets between the interfaces of stacks and plugs: several with one
// call, and as large as the kernel's TCP makes them.
//
// A plug that has only the methods of vdeplug.Conn, here [FrameConn], carries one frame with
// each call. A [Transport] gets packets as they come from an interface with offloads: it
// cuts them into frames where its network needs that, or carries them uncut to peers that
// understand them. [Of] makes a Transport of the one, and [NewConn] a FrameConn of the other.
package packet

import (
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A Packet is an Ethernet frame, or stands for several (GSO).
type Packet struct {
	// Offload says what remains to be done to make frames of Data. The zero
	// Header says that Data is a frame that is complete.
	Offload virtio.Header
	// Data may be changed by a function that gets the packet.
	Data []byte
	// Room is how many bytes before Data, in the same memory, may be changed too.
	Room int
}

// Prepend lets Data begin n bytes earlier. It reports false if there is no room.
func (p *Packet) Prepend(n int) bool {
	if n > p.Room {
		return false
	}
	p.Room -= n
	first := (*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p.Data)), -n))
	p.Data = unsafe.Slice(first, n+len(p.Data))
	return true
}

// RoomWait is how long a transport waits for room in a socket or a queue before it drops
// frames. A working peer needs much less; a hanging one delays each batch by this, and the
// interface drops what comes meanwhile.
const RoomWait = 10 * time.Millisecond

// A Transport moves batches of packets to and from a network. Its methods may be
// called from several goroutines at once, with buffers of their own.
type Transport interface {
	// RecvPackets waits until something arrives and returns b.Packets, in the memory of
	// b. Packets that stand for several frames come only from peers that send them.
	// After Close it returns [net.ErrClosed]; any other error is final and says why the
	// network is gone.
	RecvPackets(b *Buffer) ([]Packet, error)
	// SendPackets sends packets in order, and keeps nothing of them. If wait is true, it
	// may wait for RoomWait if the network is full; what the network does not take then
	// is dropped and counted. If wait is false, it does not wait, and does not change the
	// bytes of packets that are frames. Errors are as with RecvPackets.
	SendPackets(packets []Packet, wait bool) error
	// Close leaves the network and unblocks RecvPackets.
	Close() error
}
