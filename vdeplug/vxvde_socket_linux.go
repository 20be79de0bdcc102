package vdeplug

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// vxvdeSockets are the descriptors of an endpoint, all made in the network
// namespace of the caller.
type vxvdeSockets struct {
	multi   int // receives what is sent to the group; -1: there is none
	uni     int // sends all, and receives what is sent to this endpoint
	group   sockio.Sockaddr
	all     []sockio.Sockaddr // the group, or the remotes in its place
	port    uint16            // of uni
	ifindex uint32
}

func openVXVDESockets(cfg vxvdeConfig) (s *vxvdeSockets, err error) {
	s = &vxvdeSockets{multi: -1, uni: -1}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	family := unix.AF_INET
	if cfg.to().Addr().Is6() {
		family = unix.AF_INET6
	}
	if s.uni, err = udpSocket(family); err != nil {
		return s, err
	}
	sockio.JoinUDP(s.uni)
	if cfg.ifname != "" {
		if s.ifindex, err = sockio.InterfaceIndex(s.uni, cfg.ifname); err != nil {
			return s, fmt.Errorf("option \"if=%s\": %w", cfg.ifname, err)
		}
	}
	for _, a := range cfg.remotes {
		s.all = append(s.all, sockio.MakeSockaddr(a, s.scope(a.Addr())))
	}
	if err := s.bind(cfg); err != nil || !cfg.group.IsValid() {
		return s, err
	}
	if s.multi, err = udpSocket(family); err != nil {
		return s, err
	}
	sockio.JoinUDP(s.multi)
	s.group = sockio.MakeSockaddr(cfg.group, s.ifindex)
	s.all = []sockio.Sockaddr{s.group}
	return s, s.join(cfg)
}

// scope returns the zone of an address, 0 if it has none.
func (s *vxvdeSockets) scope(a netip.Addr) uint32 {
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

// join binds multi to the group itself, so that it gets nothing else, and
// shares the port with the other endpoints of the host.
func (s *vxvdeSockets) join(cfg vxvdeConfig) error {
	group, port := cfg.group.Addr(), int(cfg.group.Port())
	if err := reuse(s.multi, 1); err != nil {
		return err
	}
	if cfg.vxlan {
		// uni has the same port, and shares it for this moment only: what is for
		// it would go to whoever takes the port last.
		if err := reuse(s.uni, 1); err != nil {
			return err
		}
		defer reuse(s.uni, 0)
	}
	var bound, joined error
	if group.Is4() {
		bound = unix.Bind(s.multi, &unix.SockaddrInet4{Addr: group.As4(), Port: port})
		joined = unix.SetsockoptIPMreqn(s.multi, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(s.ifindex)})
	} else {
		bound = unix.Bind(s.multi, &unix.SockaddrInet6{Addr: group.As16(), Port: port, ZoneId: s.ifindex})
		joined = unix.SetsockoptIPv6Mreq(s.multi, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: s.ifindex})
	}
	switch {
	case errors.Is(bound, unix.EADDRINUSE):
		return fmt.Errorf("port %d of group %s is taken by a program that does not share it: %w",
			port, group, os.NewSyscallError("bind", bound))
	case bound != nil:
		return fmt.Errorf("binding to group %s: %w", cfg.group, os.NewSyscallError("bind", bound))
	case errors.Is(joined, unix.ENODEV) && cfg.ifname == "":
		return fmt.Errorf("no route to the group %s: %s, or say the interface (if=NAME): %w",
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

// bind gives uni the port that is the endpoint's identity, or that of all.
func (s *vxvdeSockets) bind(cfg vxvdeConfig) error {
	set := func(level, option, value int, name string) error {
		return os.NewSyscallError("setsockopt "+name, unix.SetsockoptInt(s.uni, level, option, value))
	}
	port := 0
	if cfg.vxlan {
		port = int(cfg.to().Port())
	}
	var local unix.Sockaddr
	var err error
	if cfg.to().Addr().Is4() {
		sa := &unix.SockaddrInet4{Port: port}
		if cfg.bind.IsValid() {
			sa.Addr = cfg.bind.As4()
		}
		local = sa
		err = set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, cfg.ttl, "IP_MULTICAST_TTL")
		switch {
		case err != nil:
		case cfg.vxlan:
			err = set(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL")
		default:
			err = set(unix.IPPROTO_IP, unix.IP_TTL, cfg.ttl, "IP_TTL")
		}
		if err == nil && s.ifindex != 0 {
			err = os.NewSyscallError("setsockopt IP_MULTICAST_IF", unix.SetsockoptIPMreqn(s.uni,
				unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(s.ifindex)}))
		}
	} else {
		sa := &unix.SockaddrInet6{Port: port, ZoneId: s.scope(cfg.bind)}
		if cfg.bind.IsValid() {
			sa.Addr = cfg.bind.As16()
		}
		local = sa
		// Endpoints of an IPv6 network have IPv6 addresses: what comes from
		// IPv4 is none.
		err = errors.Join(
			set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, cfg.ttl, "IPV6_MULTICAST_HOPS"))
		if err == nil && s.ifindex != 0 {
			err = set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, int(s.ifindex), "IPV6_MULTICAST_IF")
		}
		if err == nil && cfg.vxlan {
			err = errors.Join(
				set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL"),
				// RFC 7348, section 4.1: a zero checksum must be accepted.
				set(unix.SOL_UDP, udpNoCheck6RX, 1, "UDP_NO_CHECK6_RX"))
		}
	}
	if err == nil && cfg.rcvbuf != 0 {
		err = set(unix.SOL_SOCKET, unix.SO_RCVBUF, cfg.rcvbuf, "SO_RCVBUF")
	}
	if err != nil {
		return err
	}
	switch err := os.NewSyscallError("bind", unix.Bind(s.uni, local)); {
	case err == nil:
	case cfg.vxlan && errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %d is in use by a vxlan interface, another plug or another program: one can have it, or one for each address of the host (bind=ADDRESS): %w", port, err)
	case cfg.bind.IsValid():
		return fmt.Errorf("option \"bind=%s\": not an address of this host: %w", cfg.bind, err)
	default:
		return err
	}
	name, err := unix.Getsockname(s.uni)
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

// epoll returns a descriptor that is readable when one of the sockets is: what
// the runtime's poller waits for in their place.
func (s *vxvdeSockets) epoll() (int, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("epoll_create1", err)
	}
	for _, fd := range []int{s.uni, s.multi} {
		if fd < 0 {
			continue
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(ep, true) // or the poller does not take it
	}
	if err != nil {
		unix.Close(ep)
		return -1, os.NewSyscallError("epoll_ctl", err)
	}
	return ep, nil
}

// receiver returns the socket that gets what is sent to the group, or to the
// endpoint.
func (s *vxvdeSockets) receiver(multicast bool) int {
	if multicast {
		return s.multi
	}
	return s.uni
}

func (s *vxvdeSockets) close() {
	for _, fd := range []int{s.uni, s.multi} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
