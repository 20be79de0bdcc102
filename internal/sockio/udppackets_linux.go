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
	// MaxUDPSegments is UDP_MAX_SEGMENTS of the first kernels with UDP_SEGMENT.
	MaxUDPSegments = 64
	// MaxUDPBytes is the most that the kernel cuts at once: the largest UDP packet of
	// IPv4 and IPv6, minus room for IP options.
	MaxUDPBytes = 65535 - 8 - 60
	// udpBuffer is the size of the receive buffer of UDP sockets. The kernel drops
	// packets without room, and slows no sender down.
	udpBuffer = 4 << 20
)

// A UDPSender sends frames over UDP, several in one datagram that the kernel or the
// network card cuts (UDP_SEGMENT).
type UDPSender struct {
	*FrameCodec
	Sending packet.Sending
	// Limit is the size of frames from which on the kernel refuses to cut: those that
	// do not fit into a packet of the network below are sent one by one, in fragments.
	Limit atomic.Int64
}

// NewUDPSender returns a sender that counts with d. sending decides about errors; nil
// means the sender itself.
func NewUDPSender(d *FrameCodec, sending packet.Sending) *UDPSender {
	u := &UDPSender{FrameCodec: d, Sending: sending}
	if sending == nil {
		u.Sending = u
	}
	u.Limit.Store(math.MaxInt64)
	return u
}

// Add adds the frames of a packet, each after header, for each of the receivers; without
// receivers, for the peer of the socket. It flushes s when s is full. The packet must not
// change until all frames are sent.
func (u *UDPSender) Add(p PollFile, s *packet.Sender, pkt *packet.Packet, header []byte, to []Sockaddr, wait bool) error {
	single := pkt.Offload.GSOType == virtio.GSONone
	headroom := len(header)
	if single {
		headroom = 0 // the header is a piece of its own
	}
	segments, ok := u.Split(s, pkt, headroom)
	if !ok {
		return nil
	}
	if single {
		segments[0].Head = header
	} else {
		for i := range segments {
			copy(segments[i].Head, header)
		}
	}
	size := len(segments[0].Head) + len(segments[0].Data)
	count, cut := min(MaxUDPSegments, MaxUDPBytes/size), size
	if single || int64(size) >= u.Limit.Load() {
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
	if single {
		return nil
	}
	// The next packet reuses the memory of these headers.
	return u.Flush(p, s, u.Sending, wait)
}

// HandleError implements [packet.Sending]. It sends one by one the frames that the kernel did
// not cut. Any other error (no route, no interface, a firewall) is that of the network at
// this moment; the next frame may pass.
func (u *UDPSender) HandleError(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if size := s.Segment(); size != 0 && Uncut(err) {
		u.Limit.Store(min(u.Limit.Load(), int64(size)))
		return s.Separately(fd), false, nil
	}
	return frames, false, nil
}

// Uncut reports whether an error can mean that the kernel does not cut a datagram.
func Uncut(err error) bool {
	switch err {
	case unix.EINVAL, unix.EMSGSIZE, unix.EIO, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// JoinUDP lets the kernel join the datagrams of a flow (UDP_GRO), and enlarges the buffer
// in which they wait.
func JoinUDP(fd int) {
	unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // Linux before 5.0 does not
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
}

// MaxDatagram is the size of the largest datagram, also of joined ones.
const MaxDatagram = 65535

// Datagrams returns the datagrams that the kernel has joined, and whether each is
// complete.
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
