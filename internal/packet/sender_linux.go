package packet

import (
	"sync"
	"syscall"
	"unsafe"

	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

const (
	// sendMsgs is how many datagrams one system call sends at most.
	sendMsgs = 64
	// briefMsgs is how many a call that the runtime is not told of sends at most.
	briefMsgs = 2
	// sendVecs is how many pieces they may have together: two for each frame of
	// two packets of the largest size.
	sendVecs = 256
)

// A Sender sends datagrams, several with one system call. It is taken from a
// pool by NewSender and given back by Free, and serves one goroutine.
type Sender struct {
	// Segmenter cuts the packets to send.
	Segmenter virtio.Segmenter
	// Brief is like Brief of Buffer, for calls that send a datagram or two. Sending
	// destroys what a local socket has received, if its peer is gone.
	Brief bool

	msgs    [sendMsgs]message
	vecs    [sendVecs]unix.Iovec
	names   [sendMsgs]unix.RawSockaddrInet6
	control [sendMsgs]control
	frames  [sendMsgs]int // of each message
	cut     [sendMsgs]int // the size of its datagrams, if the kernel is to cut it
	added   int           // messages
	pieces  int           // of them
	sent    int           // messages that were sent or given up

	sending Sending
	tried   bool // once more
	lost    int  // frames
	taken   int  // frames that the kernel has sent
	bytes   int  // of them
	refused error
	err     error
	wait    func(fd uintptr) bool
	once    func(fd uintptr)
}

// A Sending decides what becomes of a datagram that could not be sent.
type Sending interface {
	// HandleError gets the error for a datagram, and how many frames it stands for. It returns
	// how many of them are lost; or again, to try once more; or an error that ends the
	// sending. It is not called if there is no room (EAGAIN), nor if the kernel has no
	// memory for the datagram or finds it too long: then it is lost.
	HandleError(fd int, s *Sender, frames int, err error) (lost int, again bool, final error)
}

var senders = sync.Pool{New: func() any {
	s := new(Sender)
	s.wait = func(fd uintptr) bool { return s.send(int(fd)) }
	s.once = func(fd uintptr) { s.send(int(fd)) }
	return s
}}

// NewSender returns a Sender without datagrams.
func NewSender() *Sender { return senders.Get().(*Sender) }

// Free gives the Sender back.
func (s *Sender) Free() {
	s.Reset()
	s.sending, s.Brief = nil, false
	senders.Put(s)
}

// Reset removes all datagrams.
func (s *Sender) Reset() {
	s.added, s.pieces, s.sent, s.tried, s.lost, s.taken, s.bytes, s.refused, s.err = 0, 0, 0, false, 0, 0, 0, nil, nil
}

// Empty reports whether there is no datagram.
func (s *Sender) Empty() bool { return s.added == 0 }

// Add adds a datagram that consists of the segments, in order, and stays in their memory. If
// size is not 0, the kernel cuts it into datagrams of size bytes (UDP_SEGMENT). to is the
// receiver; nil means the socket's peer. Add reports false if there is no room; an empty
// Sender has room for sendVecs/2 segments.
func (s *Sender) Add(segments []virtio.Segment, size int, to *unix.RawSockaddrInet6) bool {
	if s.added == sendMsgs || s.pieces+2*len(segments) > sendVecs {
		return false
	}
	first := s.pieces
	for i := range segments {
		s.piece(segments[i].Head)
		s.piece(segments[i].Data)
	}
	i, h := s.end(first, len(segments))
	if to != nil {
		s.names[i] = *to
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Namelen = unix.SizeofSockaddrInet6
		if to.Family == unix.AF_INET {
			h.Namelen = unix.SizeofSockaddrInet4
		}
	}
	if size != 0 {
		s.cut[i] = size
		c := &s.control[i]
		c.hdr = unix.Cmsghdr{Level: unix.SOL_UDP, Type: unix.UDP_SEGMENT}
		c.hdr.SetLen(unix.SizeofCmsghdr + 2)
		*(*uint16)(unsafe.Pointer(&c.value)) = uint16(size)
		h.Control = (*byte)(unsafe.Pointer(c))
		h.SetControllen(ControlInt) // without padding, which would be another message
	}
	return true
}

// afterSegment is where the control message after one of UDP_SEGMENT begins.
const afterSegment = (unix.SizeofCmsghdr + 2 + cmsgAlign) &^ cmsgAlign

// From sets where the datagram that was added last leaves from (IP_PKTINFO or
// IPV6_PKTINFO).
func (s *Sender) From(local Local) {
	i := s.added - 1
	h, c := &s.msgs[i].hdr, &s.control[i]
	at := 0
	if s.cut[i] != 0 {
		at = afterSegment
	}
	m := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
	value := unsafe.Add(unsafe.Pointer(m), unix.SizeofCmsghdr)
	size := unix.SizeofInet6Pktinfo
	if local.Addr.Is4() {
		size = unix.SizeofInet4Pktinfo
		m.Level, m.Type = unix.SOL_IP, unix.IP_PKTINFO
		*(*unix.Inet4Pktinfo)(value) = unix.Inet4Pktinfo{Spec_dst: local.Addr.As4()}
	} else {
		m.Level, m.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
		*(*unix.Inet6Pktinfo)(value) = unix.Inet6Pktinfo{Addr: local.Addr.As16(), Ifindex: local.Interface}
	}
	m.SetLen(unix.SizeofCmsghdr + size)
	h.Control = (*byte)(unsafe.Pointer(c))
	h.SetControllen(at + unix.SizeofCmsghdr + size)
}

// AddParts adds a datagram that consists of the parts and stands for that many frames. It
// reports false if there is no room; an empty Sender has room for sendVecs parts.
func (s *Sender) AddParts(parts [][]byte, frames int) bool {
	if s.added == sendMsgs || s.pieces+len(parts) > sendVecs {
		return false
	}
	first := s.pieces
	for _, p := range parts {
		s.piece(p)
	}
	s.end(first, frames)
	return true
}

func (s *Sender) piece(b []byte) {
	if len(b) > 0 {
		s.vecs[s.pieces].Base = &b[0]
		s.vecs[s.pieces].SetLen(len(b))
		s.pieces++
	}
}

// end makes the next message, number i, of the pieces from first on.
func (s *Sender) end(first, frames int) (i int, h *unix.Msghdr) {
	i = s.added
	s.added++
	s.frames[i], s.cut[i] = frames, 0
	h = &s.msgs[i].hdr
	*h = unix.Msghdr{Iov: &s.vecs[first]}
	h.SetIovlen(s.pieces - first)
	return i, h
}

// Send sends the datagrams, without blocking. It returns false if the socket
// has no room for the rest, which SendWait sends. closed is the error of the
// descriptor itself.
func (s *Sender) Send(raw syscall.RawConn, sending Sending) (all bool, err, closed error) {
	s.sending = sending
	closed = raw.Control(s.once)
	return s.sent == s.added || s.err != nil, s.err, closed
}

// SendWait is Send that waits until there is room, or until the write deadline of the
// descriptor.
func (s *Sender) SendWait(raw syscall.RawConn, sending Sending) (err, closed error) {
	s.sending = sending
	closed = raw.Write(s.wait)
	return s.err, closed
}

// Lost returns how many of the frames that were added were not sent.
func (s *Sender) Lost() int {
	lost := s.lost
	for _, n := range s.frames[s.sent:s.added] {
		lost += n
	}
	return lost
}

// Sent returns how many frames the kernel has taken, and their bytes.
func (s *Sender) Sent() (frames, bytes int) { return s.taken, s.bytes }

// Refused returns the last error for which frames were lost, or were tried once more.
func (s *Sender) Refused() error { return s.refused }

// send sends until all is sent or an error is final. It reports false if there is no more
// room.
func (s *Sender) send(fd int) bool {
	for s.sent < s.added {
		msgs := s.msgs[s.sent:s.added]
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, msgs, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, s.Brief && len(msgs) <= briefMsgs)
		switch errno {
		case 0:
			for i := range msgs[:n] {
				s.taken += s.frames[s.sent+i]
				s.bytes += int(msgs[i].n)
			}
			s.sent += n
			s.tried = false
			continue
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		var lost int
		var again bool
		var err error
		if errno == unix.ENOBUFS || errno == unix.ENOMEM || errno == unix.EMSGSIZE && s.Segment() == 0 {
			lost = s.frames[s.sent]
		} else {
			lost, again, err = s.sending.HandleError(fd, s, s.frames[s.sent], errno)
		}
		if err != nil {
			s.err = err
			return true
		}
		if lost > 0 || again {
			s.refused = errno
		}
		if again && !s.tried {
			s.tried = true
			continue
		}
		if again {
			lost = s.frames[s.sent]
		}
		s.lost += lost
		s.sent++
		s.tried = false
	}
	return true
}

// Separately sends the frames of the refused datagram, which was added with a size, in
// datagrams of their own. It returns how many are lost.
func (s *Sender) Separately(fd int) (lost int) {
	m := &s.msgs[s.sent].hdr
	size := s.Segment()
	vecs := unsafe.Slice(m.Iov, int(m.Iovlen))
	one := message{hdr: *m}
	one.hdr.Control = nil
	one.hdr.SetControllen(0)
	if rest := int(m.Controllen) - afterSegment; rest > 0 { // that of From
		one.hdr.Control = (*byte)(unsafe.Add(unsafe.Pointer(m.Control), afterSegment))
		one.hdr.SetControllen(rest)
	}
	for len(vecs) > 0 {
		n, bytes := 0, 0
		for n < len(vecs) && bytes < size {
			bytes += int(vecs[n].Len)
			n++
		}
		one.hdr.Iov = &vecs[0]
		one.hdr.SetIovlen(n)
		if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&one.hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); errno != 0 {
			lost++
		} else {
			s.taken++
			s.bytes += bytes
		}
		vecs = vecs[n:]
	}
	return lost
}

// Segment returns the size with which the refused datagram was added.
func (s *Sender) Segment() int { return s.cut[s.sent] }
