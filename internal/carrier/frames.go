package carrier

import (
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A FrameConn is a plug that carries one frame with each call, as vdeplug.Conn
// has it.
type FrameConn interface {
	Recv(frame []byte) (n int, err error)
	Send(frame []byte) error
}

// Frames is a Conn on a plug that is none.
type Frames struct {
	plug FrameConn
	// Bad counts packets of which no frames could be made.
	Bad atomic.Uint64

	mu sync.Mutex // guards in; held while Recv waits
	in []byte
}

var _ Conn = (*Frames)(nil)

// NewFrames returns a Conn on a plug with frames of max bytes at most.
func NewFrames(plug FrameConn, max int) *Frames {
	return &Frames{plug: plug, in: make([]byte, max)}
}

// RecvPackets is that of [Conn].
func (f *Frames) RecvPackets(b *Buffer) ([]Packet, error) {
	b.Release() // it may take long
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.plug.Recv(f.in)
	if err != nil {
		return nil, err
	}
	frame := b.Bytes()[:n]
	copy(frame, f.in)
	b.Add(virtio.Header{}, frame)
	return b.Packets, nil
}

// A cutter makes frames in one piece.
type cutter struct {
	virtio.Segmenter
	frame []byte
}

var cutters = sync.Pool{New: func() any { return new(cutter) }}

// SendPackets is that of [Conn].
func (f *Frames) SendPackets(packets []Packet) error {
	c := cutters.Get().(*cutter)
	defer cutters.Put(c)
	for i := range packets {
		segments, err := c.Split(packets[i].Offload, packets[i].Data, 0)
		if err != nil {
			f.Bad.Add(1)
			continue
		}
		for _, s := range segments {
			frame := s.Data
			if len(s.Head) > 0 {
				c.frame = append(append(c.frame[:0], s.Head...), s.Data...)
				frame = c.frame
			}
			if err := f.plug.Send(frame); err != nil {
				return err
			}
		}
	}
	return nil
}
