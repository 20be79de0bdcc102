package vdeplug

import (
	"sync"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// Two processes of this package do not send each other every frame in a
// datagram of its own, which is most of the work, but whole packets through a
// connected pair of sockets: a virtio header and a packet in each message.
// Whoever makes the pair hands the other half over as a control message, which
// no other program looks at: there the kernel closes the descriptor.

// wholeSize is the largest message.
const wholeSize = virtio.HeaderLen + virtio.MaxPacket

// wholeBatch is how many packets are sent at once.
const wholeBatch = 32

var wholeHeaders = sync.Pool{New: func() any { return new([wholeBatch][virtio.HeaderLen]byte) }}

// wholePair makes a pair.
func wholePair() (pair [2]int, err error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// acceptWhole takes over what may be half of a pair. It is closed, and false
// returned, if it is none.
func acceptWhole(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	typ, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || err2 != nil || domain != unix.AF_UNIX || typ != unix.SOCK_SEQPACKET || unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return false
	}
	return true
}

// addWhole adds the packet of a message.
func (d *dropCounter) addWhole(b *carrier.Buffer, g carrier.Datagram) {
	var h virtio.Header
	if g.Truncated || h.Decode(g.Data) != nil || len(g.Data) < virtio.HeaderLen+HeaderLen {
		d.droppedRecv.Add(1)
		return
	}
	b.Add(h, g.Data[virtio.HeaderLen:])
}

// sendWhole sends packets through a pair, and counts what is lost.
func (d *dropCounter) sendWhole(p *pollFile, packets []carrier.Packet, sending carrier.Sending, wait bool) error {
	s := carrier.NewSender()
	defer s.Free()
	headers := wholeHeaders.Get().(*[wholeBatch][virtio.HeaderLen]byte)
	defer wholeHeaders.Put(headers)
	for len(packets) > 0 {
		n := min(len(packets), wholeBatch)
		for i := range packets[:n] {
			p := &packets[i]
			if len(p.Data) < HeaderLen || len(p.Data) > virtio.MaxPacket {
				d.droppedSend.Add(1)
				continue
			}
			p.Offload.Encode(headers[i][:])
			s.Add([]virtio.Segment{{Head: headers[i][:], Data: p.Data}}, 0, nil)
		}
		packets = packets[n:]
		lost, err := p.sendMsgs(s, sending, wait)
		d.droppedSend.Add(uint64(lost))
		if err != nil {
			return err
		}
	}
	return nil
}
