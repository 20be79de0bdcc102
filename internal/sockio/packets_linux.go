package sockio

import (
	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A FrameCodec turns datagrams into packets and packets into datagrams, and counts those
// that are invalid.
type FrameCodec struct{ packet.Counters }

// ReceiveFrames receives datagrams with a frame in each. empty is how many were empty.
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

// AddFrame adds the frame of a datagram, and ignores an empty one.
func (d *FrameCodec) AddFrame(b *packet.Buffer, g packet.Datagram) {
	switch {
	case len(g.Data) == 0:
	case len(g.Data) < ether.HeaderLen || len(g.Data) > ether.MaxFrame || g.Truncated:
		d.DroppedRecv.Add(1)
	default:
		b.Add(virtio.Header{}, g.Data)
	}
}

// SendFrames sends packets with a frame in each datagram.
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
		// The next packet reuses the memory of these headers.
		if packets[i].Offload.GSOType != virtio.GSONone {
			if err := d.Flush(p, s, sending, wait); err != nil {
				return err
			}
		}
	}
	return d.Flush(p, s, sending, wait)
}

// Flush sends the datagrams of s, and counts the frames that are lost.
func (d *FrameCodec) Flush(p PollFile, s *packet.Sender, sending packet.Sending, wait bool) error {
	if s.Empty() {
		return nil
	}
	lost, err := p.SendMsgs(s, sending, wait)
	if err == nil { // an error tells the caller
		d.DroppedSend.Add(uint64(lost))
	}
	return err
}

// Split cuts a packet into frames, with headroom before each. It counts what it drops:
// packets that cannot be cut, and frames of a wrong length.
func (d *FrameCodec) Split(s *packet.Sender, p *packet.Packet, headroom int) ([]virtio.Segment, bool) {
	segments, err := s.Segmenter.Split(p.Offload, p.Data, headroom)
	if err != nil || len(segments) == 0 {
		d.DroppedSend.Add(1)
		return nil, false
	}
	// The first frame is the longest, and even the last has headers.
	if n := len(segments[0].Head) - headroom + len(segments[0].Data); n < ether.HeaderLen || n > ether.MaxFrame {
		d.DroppedSend.Add(uint64(len(segments)))
		return nil, false
	}
	return segments, true
}
