package sockio

import (
	"io"
	"sync"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// Between two processes of this package, packets need not be cut into frames, which is
// most of the work: GSO packets go through a connected pair of sockets, a virtio header and
// a packet in each message. The process that makes the pair sends the other half as a
// control message. Other programs ignore it, so that the kernel closes the descriptor.

// MaxGSOMessage is the length of the largest message.
const MaxGSOMessage = virtio.HeaderLen + virtio.MaxPacket

// GSOBuffer is the size of the buffers of a pair: a TCP connection has that much in
// flight, and packets without room are lost.
const GSOBuffer = 2 << 20

// gsoBatch is how many packets are sent at once.
const gsoBatch = 32

var gsoHeaders = sync.Pool{New: func() any { return new([gsoBatch][virtio.HeaderLen]byte) }}

// GSOPair makes a pair.
func GSOPair() (pair [2]int, err error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// AcceptGSO takes over a descriptor that a peer has sent. If it is not half of a pair, it
// closes it, which may take long, and returns false.
func AcceptGSO(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	typ, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || err2 != nil || domain != unix.AF_UNIX || typ != unix.SOCK_SEQPACKET || unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return false
	}
	RefuseRights(fd) // unless the peer has a copy, and changes that
	return true
}

// AddGSO adds the packet of a message, or counts an invalid one.
func (d *FrameCodec) AddGSO(b *packet.Buffer, g packet.Datagram) {
	var h virtio.Header
	if g.Truncated || h.Decode(g.Data) != nil || len(g.Data) < virtio.HeaderLen+ether.HeaderLen {
		d.DroppedRecv.Add(1)
		return
	}
	b.Add(h, g.Data[virtio.HeaderLen:])
}

// ReceiveData receives packets from a data socket of the vde protocol: GSO packets from a
// pair, else frames. The end of a pair is [io.EOF].
func (d *FrameCodec) ReceiveData(fd int, b *packet.Buffer, gso bool) error {
	if !gso {
		empty, err := d.ReceiveFrames(fd, b)
		d.DroppedRecv.Add(uint64(empty))
		return err
	}
	n, err := b.RecvMsgs(fd, MaxGSOMessage, packet.DataOnly)
	if err != nil {
		return err
	}
	for i := range n {
		g := b.Datagram(i)
		if len(g.Data) == 0 {
			if len(b.Packets) == 0 {
				return io.EOF
			}
			break // the next call finds the end again
		}
		d.AddGSO(b, g)
	}
	return nil
}

// SendData sends packets to a peer that uses ReceiveData.
func (d *FrameCodec) SendData(p PollFile, packets []packet.Packet, gso bool, sending packet.Sending, wait bool) error {
	if gso {
		return d.SendGSO(p, packets, sending, wait)
	}
	return d.SendFrames(p, packets, sending, wait)
}

// SendGSO sends packets through a pair, and counts those that are lost.
func (d *FrameCodec) SendGSO(p PollFile, packets []packet.Packet, sending packet.Sending, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	headers := gsoHeaders.Get().(*[gsoBatch][virtio.HeaderLen]byte)
	defer gsoHeaders.Put(headers)
	for len(packets) > 0 {
		n := min(len(packets), gsoBatch)
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
		if err := d.Flush(p, s, sending, wait); err != nil {
			return err
		}
	}
	return nil
}
