package sockio

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Sockaddr is an IPv4 or IPv6 socket address in the kernel's form. Fields that its
// family does not use are zero, so that == compares addresses.
type Sockaddr struct{ Raw unix.RawSockaddrInet6 }

// MakeSockaddr makes a Sockaddr; scope is the index of the interface, for IPv6.
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

func (s *Sockaddr) inet4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(s))
}

// port returns the port in network byte order, which both families have at one place.
func (s *Sockaddr) port() []byte { return (*[2]byte)(unsafe.Pointer(&s.Raw.Port))[:] }

func (s *Sockaddr) Port() uint16        { return binary.BigEndian.Uint16(s.port()) }
func (s *Sockaddr) SetPort(port uint16) { binary.BigEndian.PutUint16(s.port(), port) }

// Addr returns the address without its zone.
func (s *Sockaddr) Addr() netip.Addr {
	if s.Raw.Family == unix.AF_INET {
		return netip.AddrFrom4(s.inet4().Addr)
	}
	return netip.AddrFrom16(s.Raw.Addr)
}

// Normalize replaces the source 0.0.0.0, which the kernel reports for senders on this host
// that use a group over loopback, by 127.0.0.1.
func (s *Sockaddr) Normalize() {
	if s.Raw.Family == unix.AF_INET && s.inet4().Addr == [4]byte{} {
		s.inet4().Addr = [4]byte{127, 0, 0, 1}
	}
}
