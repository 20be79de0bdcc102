package vdeplug

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sockaddr is an IPv4 or IPv6 socket address as the kernel writes it. What a
// family does not use is zero, so that == compares addresses.
type sockaddr struct{ raw unix.RawSockaddrInet6 }

func makeSockaddr(ap netip.AddrPort, scope uint32) (s sockaddr) {
	s.raw.Family = unix.AF_INET6
	s.raw.Addr = ap.Addr().As16()
	s.raw.Scope_id = scope
	if ap.Addr().Is4() {
		s = sockaddr{}
		s.raw.Family = unix.AF_INET
		s.inet4().Addr = ap.Addr().As4()
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.raw.Port))[:], ap.Port())
	return s
}

func (s *sockaddr) inet4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(s))
}

func (s *sockaddr) port() uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.raw.Port))[:])
}

// addr returns the address without its zone.
func (s *sockaddr) addr() netip.Addr {
	if s.raw.Family == unix.AF_INET {
		return netip.AddrFrom4(s.inet4().Addr)
	}
	return netip.AddrFrom16(s.raw.Addr)
}

func (s *sockaddr) len() uint32 {
	if s.raw.Family == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}

// normalize gives a sender on this host that the kernel knows as 0.0.0.0 when
// it sends to a group over loopback the address that it has otherwise.
func (s *sockaddr) normalize() {
	if s.raw.Family == unix.AF_INET && s.inet4().Addr == [4]byte{} {
		s.inet4().Addr = [4]byte{127, 0, 0, 1}
	}
}

// A message is a datagram of a header and a frame, with the memory of the
// system call that moves it. It must be on the heap.
type message struct {
	header [vxvdeHeaderLen]byte
	peer   sockaddr // source or destination
	iov    [2]unix.Iovec
	hdr    unix.Msghdr
}

// recv receives a datagram without blocking; the frame comes to lie in frame.
// The length n is that of the datagram, header included, or more than fits if
// it was cut.
func (m *message) recv(fd int, frame []byte) (n int, err error) {
	m.peer = sockaddr{}
	for {
		m.prepare(frame, unix.SizeofSockaddrInet6)
		n, err = m.call(unix.SYS_RECVMSG, fd)
		if err != unix.EINTR {
			break
		}
	}
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		n = len(m.header) + len(frame) + 1
	}
	return n, err
}

// send sends header and frame to m.peer without blocking.
func (m *message) send(fd int, frame []byte) error {
	m.prepare(frame, m.peer.len())
	for {
		if _, err := m.call(unix.SYS_SENDMSG, fd); err != unix.EINTR {
			return err
		}
	}
}

func (m *message) prepare(frame []byte, namelen uint32) {
	m.iov[0].Base = &m.header[0]
	m.iov[0].SetLen(len(m.header))
	m.iov[1].Base = unsafe.SliceData(frame)
	m.iov[1].SetLen(len(frame))
	m.hdr = unix.Msghdr{
		Name:    (*byte)(unsafe.Pointer(&m.peer)),
		Namelen: namelen,
		Iov:     &m.iov[0],
	}
	m.hdr.SetIovlen(len(m.iov))
}

func (m *message) call(trap uintptr, fd int) (int, error) {
	n, _, errno := unix.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// release forgets the frame, so that the message does not keep it alive.
func (m *message) release() { m.iov[1].Base = nil }
