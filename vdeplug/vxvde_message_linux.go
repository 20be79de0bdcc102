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
	s.setPort(ap.Port())
	return s
}

func (s *sockaddr) setPort(port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.raw.Port))[:], port)
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

// normalize gives a sender on this host that the kernel knows as 0.0.0.0 when
// it sends to a group over loopback the address that it has otherwise.
func (s *sockaddr) normalize() {
	if s.raw.Family == unix.AF_INET && s.inet4().Addr == [4]byte{} {
		s.inet4().Addr = [4]byte{127, 0, 0, 1}
	}
}
