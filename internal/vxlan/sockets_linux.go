package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// sockets are the descriptors of an endpoint, in the network namespace of its opener.
type sockets struct {
	multicast int // receives packets to the group; -1: no group
	unicast   int // sends all packets, and receives those to this endpoint
	group     sockio.Sockaddr
	port      uint16 // of the unicast socket
	ifindex   uint32
}

func openSockets(cfg Config) (s *sockets, err error) {
	s = &sockets{multicast: -1, unicast: -1}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	family := unix.AF_INET
	if cfg.family().Addr().Is6() {
		family = unix.AF_INET6
	}
	if s.unicast, err = udpSocket(family); err != nil {
		return s, err
	}
	sockio.JoinUDP(s.unicast)
	if cfg.Interface != "" {
		if s.ifindex, err = sockio.InterfaceIndex(s.unicast, cfg.Interface); err != nil {
			return s, fmt.Errorf("option \"if=%s\": %w", cfg.Interface, err)
		}
	}
	if err := s.bind(cfg); err != nil || !cfg.Group.IsValid() {
		return s, err
	}
	if s.multicast, err = udpSocket(family); err != nil {
		return s, err
	}
	sockio.JoinUDP(s.multicast)
	s.group = sockio.MakeSockaddr(cfg.Group, s.ifindex)
	return s, s.join(cfg)
}

// scope returns the zone of an address, or 0.
func (s *sockets) scope(a netip.Addr) uint32 {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return s.ifindex
	}
	return 0
}

func udpSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6 {
		return -1, fmt.Errorf("this system has no IPv6: %w", os.NewSyscallError("socket", err))
	}
	return fd, os.NewSyscallError("socket", err)
}

// join binds the multicast socket to the group, so that it receives nothing else. It shares
// the port with the other endpoints of the host.
func (s *sockets) join(cfg Config) error {
	group, port := cfg.Group.Addr(), int(cfg.Group.Port())
	if err := reuse(s.multicast, 1); err != nil {
		return err
	}
	if cfg.VXLAN {
		// The unicast socket has the same port. It shares it only for this moment, as
		// its packets would go to the socket that was bound last.
		if err := reuse(s.unicast, 1); err != nil {
			return err
		}
		defer reuse(s.unicast, 0)
	}
	var bound, joined error
	if group.Is4() {
		bound = unix.Bind(s.multicast, &unix.SockaddrInet4{Addr: group.As4(), Port: port})
		joined = unix.SetsockoptIPMreqn(s.multicast, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(s.ifindex)})
	} else {
		bound = unix.Bind(s.multicast, &unix.SockaddrInet6{Addr: group.As16(), Port: port, ZoneId: s.ifindex})
		joined = unix.SetsockoptIPv6Mreq(s.multicast, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: s.ifindex})
	}
	switch {
	case errors.Is(bound, unix.EADDRINUSE):
		return fmt.Errorf("port %d of group %s is taken by a program that does not share it: %w",
			port, group, os.NewSyscallError("bind", bound))
	case bound != nil:
		return fmt.Errorf("binding to group %s: %w", cfg.Group, os.NewSyscallError("bind", bound))
	case errors.Is(joined, unix.ENODEV) && cfg.Interface == "":
		return fmt.Errorf("no route to the group %s: %s, or name the interface (if=NAME): %w",
			group, routeHint(group), os.NewSyscallError("setsockopt", joined))
	case joined != nil:
		return fmt.Errorf("joining group %s: %w", group, os.NewSyscallError("setsockopt", joined))
	}
	return nil
}

func reuse(fd, value int) error {
	return os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value))
}

func routeHint(group netip.Addr) string {
	if group.Is4() {
		return "add one (ip route add 224.0.0.0/4 dev NAME)"
	}
	return "bring up an interface that has IPv6"
}

// udpNoCheck6RX is UDP_NO_CHECK6_RX of linux/udp.h.
const udpNoCheck6RX = 102

// bind binds the unicast socket to a port of its own, or to the port of all endpoints.
func (s *sockets) bind(cfg Config) error {
	var err error
	set := func(level, option, value int, name string) {
		if err == nil {
			err = os.NewSyscallError("setsockopt "+name, unix.SetsockoptInt(s.unicast, level, option, value))
		}
	}
	port := 0
	if cfg.VXLAN {
		port = int(cfg.family().Port())
	}
	var local unix.Sockaddr
	if cfg.family().Addr().Is4() {
		sa := &unix.SockaddrInet4{Port: port}
		if cfg.Bind.IsValid() {
			sa.Addr = cfg.Bind.As4()
		}
		local = sa
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, cfg.TTL, "IP_MULTICAST_TTL")
		if cfg.VXLAN {
			set(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL")
		} else {
			set(unix.IPPROTO_IP, unix.IP_TTL, cfg.TTL, "IP_TTL")
		}
		if err == nil && s.ifindex != 0 {
			err = os.NewSyscallError("setsockopt IP_MULTICAST_IF", unix.SetsockoptIPMreqn(s.unicast,
				unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(s.ifindex)}))
		}
	} else {
		sa := &unix.SockaddrInet6{Port: port, ZoneId: s.scope(cfg.Bind)}
		if cfg.Bind.IsValid() {
			sa.Addr = cfg.Bind.As16()
		}
		local = sa
		// All endpoints of an IPv6 network have IPv6 addresses.
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY")
		set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, cfg.TTL, "IPV6_MULTICAST_HOPS")
		if s.ifindex != 0 {
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, int(s.ifindex), "IPV6_MULTICAST_IF")
		}
		if cfg.VXLAN {
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL")
			// RFC 7348, section 4.1: a zero checksum must be accepted.
			set(unix.SOL_UDP, udpNoCheck6RX, 1, "UDP_NO_CHECK6_RX")
		}
	}
	if cfg.RecvBuffer != 0 {
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, cfg.RecvBuffer, "SO_RCVBUF")
	}
	if err != nil {
		return err
	}
	switch err := os.NewSyscallError("bind", unix.Bind(s.unicast, local)); {
	case err == nil:
	case cfg.VXLAN && errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %d is in use by a vxlan interface, another plug or another program: one can have it, or one for each address of the host (bind=ADDRESS): %w", port, err)
	case cfg.Bind.IsValid():
		return fmt.Errorf("option \"bind=%s\": not an address of this host: %w", cfg.Bind, err)
	default:
		return err
	}
	name, err := unix.Getsockname(s.unicast)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		s.port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		s.port = uint16(sa.Port)
	}
	return nil
}

// receiver returns the multicast or the unicast socket.
func (s *sockets) receiver(multicast bool) int {
	if multicast {
		return s.multicast
	}
	return s.unicast
}

func (s *sockets) close() {
	for _, fd := range []int{s.unicast, s.multicast} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
