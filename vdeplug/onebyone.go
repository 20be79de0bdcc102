package vdeplug

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/virtio"
)

// oneByOne gives a plug that moves packets the methods of [Conn].
type oneByOne struct {
	mu     sync.Mutex // guards the fields below; held while recv waits
	buf    carrier.Buffer
	next   int // packet of buf
	cut    virtio.Segmenter
	frames []virtio.Segment // of the packet before next, still to be returned
}

// A packetSender sends packets, and waits for room only if it may.
type packetSender interface {
	sendPackets(packets []carrier.Packet, wait bool) error
}

func (o *oneByOne) recv(c carrier.Conn, d *dropCounter, closing *atomic.Bool, frame []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if closing.Load() {
			o.frames, o.next = nil, 0
			o.buf.Release()
			return 0, net.ErrClosed
		}
		for len(o.frames) > 0 || o.next < len(o.buf.Packets) {
			if len(o.frames) == 0 {
				p := o.buf.Packets[o.next]
				o.next++
				var err error
				if o.frames, err = o.cut.Split(p.Offload, p.Data, 0); err != nil {
					d.droppedRecv.Add(1)
					continue
				}
			}
			s := o.frames[0]
			o.frames = o.frames[1:]
			if len(s.Head)+len(s.Data) <= len(frame) {
				n := copy(frame, s.Head)
				return n + copy(frame[n:], s.Data), nil
			}
			d.droppedRecv.Add(1)
		}
		o.next = 0
		if _, err := c.RecvPackets(&o.buf); err != nil {
			o.buf.Release()
			return 0, err
		}
	}
}

func (o *oneByOne) send(c packetSender, frame []byte) error {
	p := singles.Get().(*[1]carrier.Packet)
	p[0] = carrier.Packet{Data: frame}
	err := c.sendPackets(p[:], false)
	p[0] = carrier.Packet{}
	singles.Put(p)
	return err
}

var singles = sync.Pool{New: func() any { return new([1]carrier.Packet) }}
