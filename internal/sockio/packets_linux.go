package sockio

import (
	"net"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// Receive waits until r has received something.
func (p PollFile) Receive(b *packet.Buffer, r packet.Receiver) error {
	err, closed := b.Receive(p.Raw, r)
	if closed != nil {
		return net.ErrClosed
	}
	return err
}

// SendMsgs sends what was added to s, and takes it away. If wait is true, it
// waits a moment for room.
func (p PollFile) SendMsgs(s *packet.Sender, sending packet.Sending, wait bool) (lost int, err error) {
	defer s.Reset()
	s.Brief = p.Brief
	all, err, closed := s.Send(p.Raw, sending)
	if !all && closed == nil && wait {
		p.File.SetWriteDeadline(time.Now().Add(packet.RoomWait))
		err, closed = s.SendWait(p.Raw, sending)
		if closed != nil && !p.Closed() {
			closed = nil // it took too long
		}
	}
	if closed != nil {
		err = net.ErrClosed
	}
	return s.Lost(), err
}

func (p PollFile) Closed() bool { return p.Raw.Control(func(uintptr) {}) != nil }

// A FrameCodec makes packets of datagrams and datagrams of packets, and counts what
// is neither.
type FrameCodec struct{ packet.Counters }

// ReceiveFrames receives datagrams that are frames each, from a socket without
// more to say. empty is how many had no byte.
func (d *FrameCodec) ReceiveFrames(fd int, b *packet.Buffer) (empty int, err error) {
	n, err := b.RecvMsgs(fd, ether.MaxFrame+1, packet.DataOnly)
	if err != nil {
		return 0, err
	}
	for i := range n {
		g := b.Datagram(i)
		if len(g.Data) == 0 {
			empty++
		}
		d.AddFrame(b, g)
	}
	return empty, nil
}

// AddFrame adds a datagram that is a frame.
func (d *FrameCodec) AddFrame(b *packet.Buffer, g packet.Datagram) {
	switch {
	case len(g.Data) == 0:
	case len(g.Data) < ether.HeaderLen || len(g.Data) > ether.MaxFrame || g.Truncated:
		d.DroppedRecv.Add(1)
	default:
		b.Add(virtio.Header{}, g.Data)
	}
}

// SendFrames sends the frames of packets, a frame in each datagram.
func (d *FrameCodec) SendFrames(p PollFile, packets []packet.Packet, sending packet.Sending, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		segments, ok := d.Split(s, &packets[i], 0)
		if !ok {
			continue
		}
		for len(segments) > 0 {
			if s.Add(segments[:1], 0, nil) {
				segments = segments[1:]
			} else if err := d.Flush(p, s, sending, wait); err != nil {
				return err
			}
		}
		// The headers of segments are where those of the next packet go.
		if packets[i].Offload.GSOType != virtio.GSONone {
			if err := d.Flush(p, s, sending, wait); err != nil {
				return err
			}
		}
	}
	return d.Flush(p, s, sending, wait)
}

// Flush sends what was added to s, and counts what is lost.
func (d *FrameCodec) Flush(p PollFile, s *packet.Sender, sending packet.Sending, wait bool) error {
	if s.Empty() {
		return nil
	}
	lost, err := p.SendMsgs(s, sending, wait)
	if err == nil { // which otherwise says it
		d.DroppedSend.Add(uint64(lost))
	}
	return err
}

// Split returns the frames of a packet, with room before them. What cannot be
// sent is counted.
func (d *FrameCodec) Split(s *packet.Sender, p *packet.Packet, headroom int) ([]virtio.Segment, bool) {
	segments, err := s.Segmenter.Split(p.Offload, p.Data, headroom)
	if err != nil || len(segments) == 0 {
		d.DroppedSend.Add(1)
		return nil, false
	}
	// The first is the longest; the last may be shorter, but has headers.
	if n := len(segments[0].Head) - headroom + len(segments[0].Data); n < ether.HeaderLen || n > ether.MaxFrame {
		d.DroppedSend.Add(uint64(len(segments)))
		return nil, false
	}
	return segments, true
}
