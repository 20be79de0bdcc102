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

// Of returns c as a Transport: c itself if it is one, otherwise a Transport that carries
// its frames, of at most max bytes, one by one. Drops is vdeplug.Drops, which this package
// cannot import: what the method Drops of c returns counts as dropped.
func Of[Drops ~struct{ Recv, Send uint64 }](c FrameConn, max int) Transport {
	if t, ok := c.(Transport); ok {
		return t
	}
	f := &frames{conn: c, max: max, recv: newWaitLock()}
	if d, ok := c.(interface{ Drops() Drops }); ok {
		f.drops = func() (recv, send uint64) {
			drops := struct{ Recv, Send uint64 }(d.Drops())
			return drops.Recv, drops.Send
		}
	}
	return f
}

// A frames is the Transport on a FrameConn. Its own counters are of packets that cannot
// be cut into frames.
type frames struct {
	Counters
	conn  FrameConn
	max   int
	drops func() (recv, send uint64) // of conn; nil if it does not count them

	recv waitLock // guards in; held while Recv waits
	in   []byte
}

// joined are the buffers for frames that were cut off a packet. Each call of Send has its
// own, as it takes as long as the FrameConn likes.
var joined = sync.Pool{New: func() any { return new([]byte) }}

var _ Transport = (*frames)(nil)

// RecvPackets implements [Transport].
func (f *frames) RecvPackets(b *Buffer) ([]Packet, error) {
	b.Release() // it may take long
	f.recv <- struct{}{}
	defer func() { <-f.recv }()
	if f.in == nil {
		f.in = make([]byte, f.max)
	}
	n, err := f.conn.Recv(f.in)
	if err != nil {
		return nil, err
	}
	frame := b.Bytes()[:n]
	copy(frame, f.in)
	b.Add(virtio.Header{}, frame)
	return b.Packets, nil
}

// SendPackets implements [Transport]. It never waits, as Send does not.
func (f *frames) SendPackets(packets []Packet, _ bool) error {
	return f.EachFrame(packets, func(head, data []byte) error {
		if len(head) == 0 {
			return f.conn.Send(data)
		}
		frame := joined.Get().(*[]byte)
		defer joined.Put(frame)
		*frame = append(append((*frame)[:0], head...), data...)
		return f.conn.Send(*frame)
	})
}

// Dropped returns the counts of both.
func (f *frames) Dropped() (recv, send uint64) {
	recv, send = f.Counters.Dropped()
	if f.drops != nil {
		r, s := f.drops()
		recv, send = recv+r, send+s
	}
	return recv, send
}

// Close closes the FrameConn.
func (f *frames) Close() error { return f.conn.Close() }
