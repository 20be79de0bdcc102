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

// The second end offers its half of a pair for whole packets along with a frame.
// That it was closed is the answer of other programs; an end that knows says
// hello through it.

// useDirect is switched off by tests.
var useDirect = true

// hello is the first message in both directions.
var hello = []byte("vdestack ptp packets 1\n")

// A direct is the pair of a PTP, if there is one.
type direct struct {
	c *PTP
	// offered says that the peer has had an offer.
	offered atomic.Bool
	// refused says that it does not take descriptors now: it has not seen yet that
	// the peer before is gone.
	refused atomic.Bool
	// pair is where packets are sent; nil: in datagrams.
	pair atomic.Pointer[sockio.PollFile]

	mu      sync.Mutex       // guards the fields below; held for a system call that does not block
	file    *sockio.PollFile // what is received from
	fd      int              // of file
	greeted bool             // the peer has said hello
}

// offer makes a pair and sends the other half along with a frame, unless the
// peer has had one. It returns what is left of packets.
func (d *direct) offer(packets []packet.Packet) []packet.Packet {
	if len(packets) == 0 || packets[0].Offload.GSOType != virtio.GSONone || !d.offered.CompareAndSwap(false, true) {
		return packets
	}
	pair, err := sockio.WholePair()
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
			d.refused.Store(true) // and once more a little later
		} else {
			d.offered.Store(false)
		}
		packets[0].Offload = virtio.Header{} // its checksum was made
		return packets
	}
	d.take(pair[0], false)
	return packets[1:]
}

// accept takes what may be the peer's offer.
func (d *direct) accept(fd int) {
	if sockio.AcceptWhole(fd) {
		d.take(fd, true)
	}
}

// take owns a half of a pair, in place of one that may be there, and says hello.
// The one that was offered it knows that the other understands.
func (d *direct) take(fd int, known bool) {
	sockio.GrowBuffers(fd, sockio.WholeBuffer)
	if unix.Send(fd, hello, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) != nil {
		unix.Close(fd)
		return
	}
	brief := sockio.RefuseRights(fd)
	f, err := sockio.NewPollFile(fd, "ptp pair")
	if err != nil {
		return
	}
	f.Brief = brief
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropLocked()
	if d.c.closing.Load() || d.c.watchFD(fd) != nil {
		f.Close()
		return
	}
	d.file, d.fd, d.greeted = &f, fd, false
	if known {
		d.pair.Store(&f)
		sockio.RefuseRights(d.c.sock) // it has come
	}
}

// drop gives the pair up: the peer has, or it was never one.
func (d *direct) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropLocked()
}

func (d *direct) dropLocked() {
	d.pair.Store(nil)
	if d.file != nil {
		d.file.Close() // which also takes it from the epoll descriptor
		d.file = nil
		if !d.c.role.second {
			sockio.ExpectRights(d.c.sock)
		}
	}
}

// receive receives packets from the pair, without blocking. EAGAIN says that
// there are none, or there is no pair.
func (d *direct) receive(b *packet.Buffer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return unix.EAGAIN
	}
	n, err := b.RecvMsgs(d.fd, sockio.WholeSize, packet.DataOnly)
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
				d.dropLocked() // the end of the pair, or of those who know another hello
				return nil
			}
			d.greeted = true
			d.pair.Store(d.file)
		case len(g.Data) == 0:
			d.dropLocked()
			return nil
		default:
			d.c.AddWhole(b, g)
		}
	}
	return nil
}

// Send sends packets through the pair. It reports false if the pair is no more.
func (d *direct) send(pair *sockio.PollFile, packets []packet.Packet, wait bool) bool {
	if d.c.SendWhole(pair, packets, d, wait) != nil {
		d.pair.CompareAndSwap(pair, nil)
		d.offered.Store(false)
		return false
	}
	return true
}

// Refused implements [packet.Sending].
func (d *direct) Refused(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	switch err {
	case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return frames, false, nil
	}
	return frames, false, os.NewSyscallError("sendmmsg", err)
}
