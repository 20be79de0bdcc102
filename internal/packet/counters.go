package packet

import (
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/virtio"
)

// Counters count the frames that a transport drops.
type Counters struct {
	DroppedRecv atomic.Uint64 // that arrived and were not delivered
	DroppedSend atomic.Uint64 // that were not sent
}

// Dropped returns both counts. Each [Transport] that drops frames has this method.
func (c *Counters) Dropped() (recv, send uint64) {
	return c.DroppedRecv.Load(), c.DroppedSend.Load()
}

// Dropped returns the counts of a transport; zeros if it does not count.
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

// EachFrame calls send with each frame of packets, in two pieces, until it returns an
// error. Packets that cannot be cut into frames are counted as not sent.
func (c *Counters) EachFrame(packets []Packet, send func(head, data []byte) error) error {
	cut := segmenters.Get().(*virtio.Segmenter)
	defer segmenters.Put(cut)
	for i := range packets {
		frames, err := cut.Split(packets[i].Offload, packets[i].Data, 0)
		if err != nil {
			c.DroppedSend.Add(1)
		}
		for _, f := range frames {
			if err := send(f.Head, f.Data); err != nil {
				return err
			}
		}
	}
	return nil
}

var segmenters = sync.Pool{New: func() any { return new(virtio.Segmenter) }}
