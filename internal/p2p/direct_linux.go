package p2p

import (
	"bytes"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
)

// The second end of a pair makes a connected pair of sockets for GSO packets, and offers
// one of them to the first end, as a control message of a frame. Other programs close it
// unseen; an end of this package answers with a hello.

// useDirect lets second ends make offers; tests switch it off.
var useDirect = true

// hello is the first message in both directions.
var hello = []byte("vdestack ptp packets 1\n")

// A direct is the pair of sockets for GSO packets of a PTP, if there is one.
type direct struct {
	c *PTP
	// offered is set once the peer has had an offer.
	offered atomic.Bool
	// refused is set while the peer takes no descriptors: it has not noticed yet that
	// its last peer is gone.
	refused atomic.Bool
	// pair is for sending; if nil, packets go through the datagram socket.
	pair atomic.Pointer[sockio.PollFile]

	mu      sync.Mutex       // guards the fields below; held for a system call that does not block
	file    *sockio.PollFile // for receiving; nil: no pair
	fd      int              // of file
	greeted bool             // the peer has said hello
}

// offer makes a pair and sends one socket of it along with the first frame, unless the
// peer has had an offer. It returns the packets that are left to send.
func (d *direct) offer(packets []packet.Packet) []packet.Packet {
	if len(packets) == 0 || packets[0].Offload.GSOType != virtio.GSONone || !d.offered.CompareAndSwap(false, true) {
		return packets
	}
	pair, err := sockio.GSOPair()
	if err != nil {
		return packets
	}
	defer unix.Close(pair[1])
	s := packet.NewSender()
	defer s.Free()
	frame, ok := d.c.Split(s, &packets[0], 0)
	if !ok {
		err = unix.EINVAL
	} else if d.c.file.Raw.Control(func(fd uintptr) {
		err = unix.Sendmsg(int(fd), frame[0].Data, unix.UnixRights(pair[1]), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}) != nil {
		err = net.ErrClosed
	}
	if err != nil {
		unix.Close(pair[0])
		if err == unix.EPERM {
			d.refused.Store(true) // watch allows another offer a little later
		} else {
			d.offered.Store(false)
		}
		packets[0].Offload = virtio.Header{} // its checksum is complete by now
		return packets
	}
	d.take(pair[0], false)
	return packets[1:]
}

// accept takes a descriptor that the peer has sent, if it is an offer.
func (d *direct) accept(fd int) {
	if sockio.AcceptGSO(fd) {
		d.take(fd, true)
	}
}

// take takes over half of a new pair in place of the old one, and sends hello. known says
// that the peer understands the pair, as it has made the offer.
func (d *direct) take(fd int, known bool) {
	sockio.GrowBuffers(fd, sockio.GSOBuffer)
	if unix.Send(fd, hello, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) != nil {
		unix.Close(fd)
		return
	}
	f, err := sockio.NewLocalFile(fd, "ptp pair")
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropLocked()
	if d.c.closing.Load() || d.c.both.Add(fd, unix.EPOLLIN) != nil {
		f.Close()
		return
	}
	d.file, d.fd, d.greeted = &f, fd, false
	if known {
		d.pair.Store(&f)
		sockio.RefuseRights(d.c.sock) // no other offer is expected
	}
}

// drop closes the pair.
func (d *direct) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropLocked()
}

func (d *direct) dropLocked() {
	d.pair.Store(nil)
	if d.file != nil {
		d.file.Close() // also removes it from the Epoll
		d.file = nil
		if !d.c.role.second {
			sockio.ExpectRights(d.c.sock)
		}
	}
}

// receive receives packets from the pair, without blocking. Without packets, or without a
// pair, it returns EAGAIN.
func (d *direct) receive(b *packet.Buffer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return unix.EAGAIN
	}
	n, err := b.RecvMsgs(d.fd, sockio.MaxGSOMessage, packet.DataOnly)
	if err == unix.EAGAIN {
		return err
	}
	if err != nil {
		d.dropLocked()
		return unix.EAGAIN
	}
	for i := range n {
		g := b.Datagram(i)
		switch {
		case !d.greeted:
			if !bytes.Equal(g.Data, hello) {
				d.dropLocked() // the peer has closed it, or knows another hello
				return nil
			}
			d.greeted = true
			d.pair.Store(d.file)
		case len(g.Data) == 0:
			d.dropLocked()
			return nil
		default:
			d.c.AddGSO(b, g)
		}
	}
	return nil
}

// send sends packets through the pair. It reports false if the pair has ended.
func (d *direct) send(pair *sockio.PollFile, packets []packet.Packet, wait bool) bool {
	if d.c.SendGSO(*pair, packets, d, wait) != nil {
		d.pair.CompareAndSwap(pair, nil)
		d.offered.Store(false)
		return false
	}
	return true
}

// HandleError implements [packet.Sending].
func (d *direct) HandleError(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	return frames, false, os.NewSyscallError("sendmmsg", err)
}
