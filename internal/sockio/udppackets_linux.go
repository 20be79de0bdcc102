package sockio

import (
	"iter"
	"math"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

const (
	// maxUDPSegments is UDP_MAX_SEGMENTS of the first kernels that cut datagrams.
	maxUDPSegments = 64
	// maxUDPBytes is how much is cut at once: the largest UDP packet of IPv4 and
	// IPv6, less room for IP options.
	maxUDPBytes = 65535 - 8 - 60
	// udpBuffer is what is asked for as the receive buffer of UDP sockets. The
	// kernel drops what it has no room for, and no sender is slowed down.
	udpBuffer = 4 << 20
)

// A UDPSender sends frames by UDP, several as one datagram which the kernel, or
// the network card, cuts (UDP_SEGMENT).
type UDPSender struct {
	*FrameCodec
	Sending packet.Sending
	// Limit is the size from which on the kernel refuses to cut: a datagram that
	// does not fit into a packet of the network below goes in fragments, alone.
	Limit atomic.Int64
}

// NewUDPSender returns a sender that counts with d. sending is asked about
// errors; nil means the sender itself.
func NewUDPSender(d *FrameCodec, sending packet.Sending) *UDPSender {
	u := &UDPSender{FrameCodec: d, Sending: sending}
	if sending == nil {
		u.Sending = u
	}
	u.Limit.Store(math.MaxInt64)
	return u
}

// Add adds the frames of a packet, each after header, for each of the receivers
// to; none is that of the socket. The packet must stay until they are sent: what
// there is no room for is flushed.
func (u *UDPSender) Add(p PollFile, s *packet.Sender, pkt *packet.Packet, header []byte, to []Sockaddr, wait bool) error {
	whole := pkt.Offload.GSOType == virtio.GSONone
	headroom := len(header)
	if whole {
		headroom = 0 // the header is not copied
	}
	segments, ok := u.Split(s, pkt, headroom)
	if !ok {
		return nil
	}
	if whole {
		segments[0].Head = header
	} else {
		for i := range segments {
			copy(segments[i].Head, header)
		}
	}
	size := len(segments[0].Head) + len(segments[0].Data)
	count, cut := min(maxUDPSegments, maxUDPBytes/size), size
	if whole || int64(size) >= u.Limit.Load() {
		count, cut = 1, 0
	}
	for i := range max(1, len(to)) {
		var addr *unix.RawSockaddrInet6
		if len(to) > 0 {
			addr = &to[i].Raw
		}
		for rest := segments; len(rest) > 0; {
			n := min(count, len(rest))
			if s.Add(rest[:n], cut, addr) {
				rest = rest[n:]
			} else if err := u.Flush(p, s, u.Sending, wait); err != nil {
				return err
			}
		}
	}
	if whole {
		return nil
	}
	// The headers of segments are where those of the next packet go.
	return u.Flush(p, s, u.Sending, wait)
}

// Refused sends one by one what the kernel did not want to cut. Whatever the
// error is otherwise (no route, no interface, a firewall), it is one of the
// network now; the next frame may pass.
func (u *UDPSender) Refused(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if size := s.Segment(); size != 0 && Uncut(err) {
		u.Limit.Store(min(u.Limit.Load(), int64(size)))
		return s.Separately(fd), false, nil
	}
	return frames, false, nil
}

// Uncut reports that an error can mean that the kernel does not cut a datagram.
func Uncut(err error) bool {
	switch err {
	case unix.EINVAL, unix.EMSGSIZE, unix.EIO, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// JoinUDP lets the kernel hand over datagrams that continue each other as one,
// and gives them room to wait.
func JoinUDP(fd int) {
	unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // Linux before 5.0 does not
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
}

// MaxDatagram is the largest datagram, or what the kernel has joined.
const MaxDatagram = 65535

// Datagrams returns the datagrams of which the kernel made one, and whether they
// are whole.
func Datagrams(g packet.Datagram) iter.Seq2[[]byte, bool] {
	return func(yield func([]byte, bool) bool) {
		size := g.Segment
		if size <= 0 {
			size = len(g.Data)
		}
		for rest := g.Data; len(rest) > 0; {
			n := min(size, len(rest))
			if !yield(rest[:n], n < len(rest) || !g.Truncated) {
				return
			}
			rest = rest[n:]
		}
	}
}
