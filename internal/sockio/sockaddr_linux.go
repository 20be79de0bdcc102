package sockio

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Sockaddr is an IPv4 or IPv6 socket address as the kernel writes it. What a
// family does not use is zero, so that == compares addresses.
type Sockaddr struct{ Raw unix.RawSockaddrInet6 }

func MakeSockaddr(ap netip.AddrPort, scope uint32) (s Sockaddr) {
	s.Raw.Family = unix.AF_INET6
	s.Raw.Addr = ap.Addr().As16()
	s.Raw.Scope_id = scope
	if ap.Addr().Is4() {
		s = Sockaddr{}
		s.Raw.Family = unix.AF_INET
		s.inet4().Addr = ap.Addr().As4()
	}
	s.SetPort(ap.Port())
	return s
}

func (s *Sockaddr) SetPort(port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.Raw.Port))[:], port)
}

func (s *Sockaddr) inet4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(s))
}

func (s *Sockaddr) Port() uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.Raw.Port))[:])
}

// Addr returns the address without its zone.
func (s *Sockaddr) Addr() netip.Addr {
	if s.Raw.Family == unix.AF_INET {
		return netip.AddrFrom4(s.inet4().Addr)
	}
	return netip.AddrFrom16(s.Raw.Addr)
}

// Normalize gives a sender on this host that the kernel knows as 0.0.0.0 when
// it sends to a group over loopback the address that it has otherwise.
func (s *Sockaddr) Normalize() {
	if s.Raw.Family == unix.AF_INET && s.inet4().Addr == [4]byte{} {
		s.inet4().Addr = [4]byte{127, 0, 0, 1}
	}
}
