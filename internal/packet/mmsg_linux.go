package packet

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A message is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// system is the part of a Buffer's memory that system calls need.
type system struct {
	msgs    [maxMsgs]message
	vecs    [maxMsgs]unix.Iovec
	names   [maxMsgs]unix.RawSockaddrInet6
	control [maxMsgs]control

	// How the messages are prepared; the kernel has changed the first used ones.
	count, size, used, room int
}

// A control is a control message: of UDP_GRO, UDP_SEGMENT or SCM_RIGHTS with an int, or of
// PACKET_AUXDATA, perhaps after one of SO_TIMESTAMPNS; or one of UDP_GRO or UDP_SEGMENT, then
// of IPV6_PKTINFO, then of IP_PKTINFO.
type control struct {
	hdr   unix.Cmsghdr
	value [max(ControlStamped, ControlLocal) - unix.SizeofCmsghdr]byte
}

// A Datagram is what RecvMsgs received.
type Datagram struct {
	// Data are the bytes; Truncated says that there were more.
	Data      []byte
	Truncated bool
	// From is the sender, if it was asked for. Bytes that its family does not use are 0.
	From *unix.RawSockaddrInet6
	// Segment is the size of each datagram but the last, if the kernel has
	// joined several (UDP_GRO), else 0.
	Segment int
	// Local is from where an answer has to leave (IP_PKTINFO and IPV6_PKTINFO), if that was
	// asked for. The zero Local leaves it to the kernel.
	Local Local
	// Tag and TagType are the VLAN tag that the kernel has taken out of a frame
	// (PACKET_AUXDATA). TagType 0 means no tag.
	Tag, TagType uint16
	// Time is when the frame was at the interface (SO_TIMESTAMPNS), in ns since 1970; 0 if
	// it was not asked for.
	Time int64
	// Right is a descriptor that came with it (SCM_RIGHTS), or -1. It belongs to the
	// caller.
	Right int
}

// A Local is an address of this host, from where answers to datagrams leave.
type Local struct {
	Addr netip.Addr
	// Interface is the index of the interface, for a link-local address only: others are
	// reached by any.
	Interface uint32
}

// How much room for control messages a call of RecvMsgs gives the kernel.
const (
	// DataOnly has no room, and asks for no sender.
	DataOnly = 0
	// ControlInt is room for UDP_GRO, or for one descriptor: with the padding of
	// CMSG_SPACE, the kernel would pass two.
	ControlInt = unix.SizeofCmsghdr + 4
	// ControlLocal is room for UDP_GRO, IPV6_PKTINFO and IP_PKTINFO: a socket for both
	// families may have both.
	ControlLocal = (unix.SizeofCmsghdr+4+cmsgAlign)&^cmsgAlign +
		(unix.SizeofCmsghdr+unix.SizeofInet6Pktinfo+cmsgAlign)&^cmsgAlign +
		unix.SizeofCmsghdr + unix.SizeofInet4Pktinfo
	// ControlAux is room for PACKET_AUXDATA.
	ControlAux = unix.SizeofCmsghdr + 24
	// ControlStamped is room for SO_TIMESTAMPNS and PACKET_AUXDATA.
	ControlStamped = unix.SizeofCmsghdr + 16 + ControlAux
)

// cmsgAlign is what CMSG_ALIGN of the kernel rounds up with.
const cmsgAlign = unix.SizeofPtr - 1

// RecvMsgs receives datagrams into the memory of the buffer, without blocking: as many as
// there is room for, and at most size bytes of each. b.Datagram(i) returns them.
func (b *Buffer) RecvMsgs(fd, size, control int) (n int, err error) {
	b.take()
	m := b.mem
	m.prepare(size, control)
	flags := uintptr(unix.MSG_DONTWAIT)
	if control == ControlInt {
		flags |= unix.MSG_CMSG_CLOEXEC // which packet sockets refuse
	}
	for {
		n, errno := mmsg(unix.SYS_RECVMMSG, fd, m.msgs[:m.count], flags, b.Brief)
		switch errno {
		case 0:
			m.used = n
			return n, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// mmsg calls recvmmsg or sendmmsg. For brief, see Buffer.
func mmsg(call uintptr, fd int, msgs []message, flags uintptr, brief bool) (n int, errno unix.Errno) {
	var r uintptr
	if brief {
		r, _, errno = unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), flags, 0, 0)
	} else {
		r, _, errno = unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), flags, 0, 0)
	}
	return int(r), errno
}

// Full reports whether the last RecvMsgs received as much as there was room for,
// so that there may be more.
func (b *Buffer) Full() bool { return b.mem != nil && b.mem.used == b.mem.count }

// prepare fills in the messages, or what the last call has changed of them.
func (m *memory) prepare(size, room int) {
	changed := m.used
	m.used = 0
	if m.size != size || m.room != room {
		m.size, m.room = size, room
		m.count = min(maxMsgs, len(m.bytes)/size)
		changed = m.count
	}
	for i := range changed {
		m.vecs[i].Base = &m.bytes[i*size]
		m.vecs[i].SetLen(size)
		h := &m.msgs[i].hdr
		*h = unix.Msghdr{Iov: &m.vecs[i]}
		h.SetIovlen(1)
		if room != DataOnly {
			m.names[i] = unix.RawSockaddrInet6{}
			h.Name = (*byte)(unsafe.Pointer(&m.names[i]))
			h.Namelen = unix.SizeofSockaddrInet6
			h.Control = (*byte)(unsafe.Pointer(&m.control[i]))
			h.SetControllen(room)
		}
	}
}

// Datagram returns datagram i of the last RecvMsgs.
func (b *Buffer) Datagram(i int) Datagram {
	m := &b.mem.msgs[i]
	d := Datagram{
		Data:      unsafe.Slice(b.mem.vecs[i].Base, min(int(m.n), b.mem.size)),
		Truncated: m.hdr.Flags&unix.MSG_TRUNC != 0,
		From:      &b.mem.names[i],
		Right:     -1,
	}
	if b.mem.room == DataOnly {
		return d
	}
	c := unsafe.Slice((*byte)(unsafe.Pointer(&b.mem.control[i])), unsafe.Sizeof(control{}))[:m.hdr.Controllen]
	for len(c) >= unix.SizeofCmsghdr+4 {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		value := unsafe.Pointer(&c[unix.SizeofCmsghdr])
		switch [2]int32{h.Level, h.Type} {
		case [2]int32{unix.SOL_UDP, unix.UDP_GRO}:
			d.Segment = int(*(*int32)(value))
		case [2]int32{unix.SOL_SOCKET, unix.SCM_RIGHTS}:
			d.Right = int(*(*int32)(value))
		case [2]int32{unix.SOL_IP, unix.IP_PKTINFO}:
			d.Local = Local{Addr: netip.AddrFrom4((*unix.Inet4Pktinfo)(value).Spec_dst)}
		case [2]int32{unix.SOL_IPV6, unix.IPV6_PKTINFO}:
			info := (*unix.Inet6Pktinfo)(value)
			switch asked := netip.AddrFrom16(info.Addr); {
			case asked.IsMulticast(): // nobody's address
			case asked.IsLinkLocalUnicast():
				d.Local = Local{asked, info.Ifindex}
			default:
				d.Local = Local{Addr: asked}
			}
		case [2]int32{unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS}:
			d.Time = (*unix.Timespec)(value).Nano()
		case [2]int32{unix.SOL_PACKET, unix.PACKET_AUXDATA}:
			aux := (*unix.TpacketAuxdata)(value)
			if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
				d.Tag, d.TagType = aux.Vlan_tci, unix.ETH_P_8021Q
				if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
					d.TagType = aux.Vlan_tpid
				}
			}
		}
		c = c[min(len(c), (int(h.Len)+cmsgAlign)&^cmsgAlign):]
	}
	return d
}
