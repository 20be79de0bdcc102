package sockio

import (
	"io"
	"sync"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// Two processes of this package do not send each other every frame in a
// datagram of its own, which is most of the work, but whole packets through a
// connected pair of sockets: a virtio header and a packet in each message.
// The maker of the pair hands the other half over as a control message, which
// no other program looks at: there the kernel closes the descriptor.

// WholeSize is the largest message.
const WholeSize = virtio.HeaderLen + virtio.MaxPacket

// WholeBuffer is what is asked for as buffers of a pair: a connection has as much on
// its way, and what finds no room is lost.
const WholeBuffer = 2 << 20

// wholeBatch is how many packets are sent at once.
const wholeBatch = 32

var wholeHeaders = sync.Pool{New: func() any { return new([wholeBatch][virtio.HeaderLen]byte) }}

// WholePair makes a pair.
func WholePair() (pair [2]int, err error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// AcceptWhole takes over what may be half of a pair. It is closed, which may take
// long, and false returned, if it is none.
func AcceptWhole(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	typ, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || err2 != nil || domain != unix.AF_UNIX || typ != unix.SOCK_SEQPACKET || unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return false
	}
	RefuseRights(fd) // unless its maker has a copy, and lets it take them again
	return true
}

// AddWhole adds the packet of a message.
func (d *FrameCodec) AddWhole(b *packet.Buffer, g packet.Datagram) {
	var h virtio.Header
	if g.Truncated || h.Decode(g.Data) != nil || len(g.Data) < virtio.HeaderLen+ether.HeaderLen {
		d.DroppedRecv.Add(1)
		return
	}
	b.Add(h, g.Data[virtio.HeaderLen:])
}

// ReceiveData receives what a data socket of the vde protocol has: whole
// packets from a pair, else frames. The end of a pair is [io.EOF].
func (d *FrameCodec) ReceiveData(fd int, b *packet.Buffer, whole bool) error {
	if !whole {
		empty, err := d.ReceiveFrames(fd, b)
		d.DroppedRecv.Add(uint64(empty))
		return err
	}
	n, err := b.RecvMsgs(fd, WholeSize, packet.DataOnly)
	if err != nil {
		return err
	}
	for i := range n {
		g := b.Datagram(i)
		if len(g.Data) == 0 {
			if len(b.Packets) == 0 {
				return io.EOF
			}
			break // and once more at the next call
		}
		d.AddWhole(b, g)
	}
	return nil
}

// SendData sends packets to where receiveData receives them.
func (d *FrameCodec) SendData(p *PollFile, packets []packet.Packet, whole bool, sending packet.Sending, wait bool) error {
	if whole {
		return d.SendWhole(p, packets, sending, wait)
	}
	return d.SendFrames(*p, packets, sending, wait)
}

// SendWhole sends packets through a pair, and counts what is lost.
func (d *FrameCodec) SendWhole(p *PollFile, packets []packet.Packet, sending packet.Sending, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	headers := wholeHeaders.Get().(*[wholeBatch][virtio.HeaderLen]byte)
	defer wholeHeaders.Put(headers)
	for len(packets) > 0 {
		n := min(len(packets), wholeBatch)
		for i := range packets[:n] {
			p := &packets[i]
			if len(p.Data) < ether.HeaderLen || len(p.Data) > virtio.MaxPacket ||
				p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame {
				d.DroppedSend.Add(1)
				continue
			}
			p.Offload.Encode(headers[i][:])
			frames, _ := virtio.Count(p.Offload, p.Data)
			s.AddParts([][]byte{headers[i][:], p.Data}, frames)
		}
		packets = packets[n:]
		if err := d.Flush(*p, s, sending, wait); err != nil {
			return err
		}
	}
	return nil
}
