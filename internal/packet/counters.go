package packet

import (
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/virtio"
)

// Counters count the frames that a transport drops.
type Counters struct {
	DroppedRecv atomic.Uint64 // that arrived and were not delivered
	DroppedSend atomic.Uint64 // that were not sent
}

// Dropped returns both counts. It is a method of each [Transport] that drops frames.
func (c *Counters) Dropped() (recv, send uint64) {
	return c.DroppedRecv.Load(), c.DroppedSend.Load()
}

// Dropped returns the counts of a transport; they are zero if it has none.
func Dropped(t Transport) (recv, send uint64) {
	if c, ok := t.(interface{ Dropped() (recv, send uint64) }); ok {
		return c.Dropped()
	}
	return 0, 0
}

// DropPackets counts packets that were not sent.
func (c *Counters) DropPackets(packets []Packet) {
	for i := range packets {
		frames, _ := virtio.Count(packets[i].Offload, packets[i].Data)
		c.DroppedSend.Add(uint64(frames))
	}
}
