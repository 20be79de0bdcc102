package packet

import (
	"sync"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A FrameConn carries one frame with each call, as vdeplug.Conn says.
type FrameConn interface {
	Recv(frame []byte) (n int, err error)
	Send(frame []byte) error
	Close() error
}

// Frames is a [Transport] on a FrameConn. Its counters are of packets of which no
// frames could be made.
type Frames struct {
	Counters
	conn FrameConn

	mu waitLock // guards in; held while Recv waits
	in []byte
}

var _ Transport = (*Frames)(nil)

// NewFrames returns a Transport on c, whose frames have max bytes at most.
func NewFrames(c FrameConn, max int) *Frames {
	return &Frames{conn: c, in: make([]byte, max)}
}

// RecvPackets implements [Transport].
func (f *Frames) RecvPackets(b *Buffer) ([]Packet, error) {
	b.Release() // it may take long
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.conn.Recv(f.in)
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

// SendPackets implements [Transport]. It never waits, as Send does not.
func (f *Frames) SendPackets(packets []Packet, _ bool) error {
	c := cutters.Get().(*cutter)
	defer cutters.Put(c)
	for i := range packets {
		segments, err := c.Split(packets[i].Offload, packets[i].Data, 0)
		if err != nil {
			f.DroppedSend.Add(1)
			continue
		}
		for _, s := range segments {
			frame := s.Data
			if len(s.Head) > 0 {
				c.frame = append(append(c.frame[:0], s.Head...), s.Data...)
				frame = c.frame
			}
			if err := f.conn.Send(frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes the FrameConn.
func (f *Frames) Close() error { return f.conn.Close() }
