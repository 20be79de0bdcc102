package packet

import (
	"net"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A FrameReader returns the frames of a [Transport] one by one.
type FrameReader struct {
	mu     waitLock // guards the fields below; held while Recv waits
	buf    Buffer
	next   int // packet of buf
	cut    virtio.Segmenter
	frames []virtio.Segment // of the packet before next, still to be returned
}

// Recv waits for a frame of t and copies it to frame. Larger frames, and packets that cannot
// be cut into frames, are dropped and counted. Once closing is set it returns
// [net.ErrClosed], whatever is left.
func (r *FrameReader) Recv(t interface {
	RecvPackets(*Buffer) ([]Packet, error)
}, c *Counters, closing *atomic.Bool, frame []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if closing.Load() {
			r.frames, r.next = nil, 0
			r.buf.Release()
			return 0, net.ErrClosed
		}
		for len(r.frames) > 0 || r.next < len(r.buf.Packets) {
			if len(r.frames) == 0 {
				p := r.buf.Packets[r.next]
				r.next++
				var err error
				if r.frames, err = r.cut.Split(p.Offload, p.Data, 0); err != nil {
					c.DroppedRecv.Add(1)
					continue
				}
			}
			s := r.frames[0]
			r.frames = r.frames[1:]
			if len(s.Head)+len(s.Data) <= len(frame) {
				n := copy(frame, s.Head)
				return n + copy(frame[n:], s.Data), nil
			}
			c.DroppedRecv.Add(1)
		}
		r.next = 0
		if _, err := t.RecvPackets(&r.buf); err != nil {
			r.buf.Release()
			return 0, err
		}
	}
}
