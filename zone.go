package vdestack

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vdestack/vdestack/internal/netns"
)

// zoneIndex returns the address with the number of the stack's interface as its zone,
// which package net would look up on the host.
func (s *Stack) zoneIndex(ip netip.Addr) (netip.Addr, error) {
	if ip.Zone() == "" {
		return ip, nil
	}
	if n, err := strconv.Atoi(ip.Zone()); err == nil && n > 0 {
		return ip, nil
	}
	nl, err := s.st.RTNL()
	if err != nil {
		return netip.Addr{}, err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex(ip.Zone())
	if err != nil {
		return netip.Addr{}, &net.AddrError{Err: fmt.Sprintf("zone %q is no interface of the stack", ip.Zone()), Addr: ip.String()}
	}
	return ip.WithZone(strconv.Itoa(index)), nil
}

// remoteZone is zoneIndex for an address to connect to. The kernel ignores the zone of an
// address that is not link-local, and might send to another network if there are several.
func (s *Stack) remoteZone(ip netip.Addr) (netip.Addr, error) {
	counts := ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() || ip.IsLoopback()
	if ip.Zone() != "" && !counts && len(s.Stats().Interfaces) > 1 {
		return netip.Addr{}, &net.AddrError{Err: "it has a zone, which only link-local addresses have: routes decide where it is", Addr: ip.String()}
	}
	return s.zoneIndex(ip)
}

// zoneOf is zoneIndex for the local address of a Dialer, of which it returns a copy.
func (s *Stack) zoneOf(addr net.Addr) (_ net.Addr, err error) {
	switch a := addr.(type) {
	case *net.TCPAddr:
		if a != nil {
			b := *a
			b.Zone, err = s.zoneText(b.IP, b.Zone)
			return &b, err
		}
	case *net.UDPAddr:
		if a != nil {
			b := *a
			b.Zone, err = s.zoneText(b.IP, b.Zone)
			return &b, err
		}
	}
	return addr, nil
}

// zoneText is zoneIndex for the zone of an address of package net, which reports invalid
// addresses, and ignores the zone of IPv4.
func (s *Stack) zoneText(ip net.IP, zone string) (string, error) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || zone == "" || a.Unmap().Is4() {
		return zone, nil
	}
	a, err := s.zoneIndex(a.WithZone(zone))
	return a.Zone(), err
}

// nameZones puts the names of the stack's interfaces into the zones of the addresses of
// a new connection, before it is handed out. Package net has numbers there, as the host
// has no such interfaces.
func (s *Stack) nameZones(addrs ...net.Addr) {
	for _, a := range addrs {
		var zone *string
		switch a := a.(type) {
		case *net.TCPAddr:
			zone = &a.Zone
		case *net.UDPAddr:
			zone = &a.Zone
		case *net.IPAddr:
			zone = &a.Zone
		}
		if zone == nil || *zone == "" {
			continue
		}
		index, err := strconv.Atoi(*zone)
		if err != nil {
			continue
		}
		nl, err := s.st.RTNL()
		if err != nil {
			return
		}
		link, err := nl.Link(index)
		nl.Close()
		if err == nil {
			*zone = link.Name
		}
	}
}

// maxUnixPath is the longest path in a socket address.
const maxUnixPath = 107

// explain explains an error of an address that the kernel only calls invalid or
// unreachable, of a port that is not allowed or not to be had, and of a limit.
func (s *Stack) explain(err error, network, address string) error {
	op, ok := err.(*net.OpError)
	if !ok {
		return err
	}
	if call, ok := errors.AsType[*os.SyscallError](op.Err); ok && call.Syscall == "bind" && errors.Is(call, fs.ErrPermission) {
		if text := netns.GivenUp(); text != "" {
			op.Err = &RefusedError{Reason: text, Err: fmt.Errorf("%w (%s)", op.Err, text)}
			return err
		}
	}
	op.Err = netns.Limited(op.Err) // of package net's own socket: the stack explains its errors
	invalid, unreachable := errors.Is(op.Err, syscall.EINVAL), errors.Is(op.Err, syscall.ENETUNREACH)
	noPort := op.Op == "dial" && op.Source == nil && errors.Is(op.Err, syscall.EADDRNOTAVAIL)
	if !invalid && !unreachable && !noPort {
		return err
	}
	host := address
	if !isIP(network) {
		host, _, _ = net.SplitHostPort(address)
	}
	ip, _ := netip.ParseAddr(host)
	if a := ipOf(op.Addr); a.IsValid() { // of a name
		ip = a
	}
	text := ""
	switch {
	case unreachable && ip.IsMulticast() && ip.Is4() && !strings.HasPrefix(network, "tcp"):
		text = "no route says from which interface: ip route add 224.0.0.0/4 dev vde0, or a gateway, or an address of the stack as LocalAddr"
	case unreachable && ip.IsMulticast() && !strings.HasPrefix(network, "tcp"):
		text = "no interface is up that has IPv6, and is the zone if there is one"
	case unreachable && ip.IsGlobalUnicast() && !s.routed(network, ip):
		text = "no route of the stack leads there: give an interface a gateway, or ip route add"
	case noPort && ip.Is4(): // of IPv6 there may be no address either
		text = "each port is in use, or was in the last minute: net.ipv4.tcp_tw_reuse 1 makes that a second, net.ipv4.ip_local_port_range has more"
	case unreachable, noPort:
		return err
	case strings.HasPrefix(network, "unix") && len(address) > maxUnixPath:
		text = fmt.Sprintf("a socket address has room for %d bytes, this path has %d", maxUnixPath, len(address))
	case ip.Zone() == "" && (ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()) && ip.Is6():
		text = "a link-local address needs a zone, the name of an interface: " + ip.String() + "%vde0"
	default:
		return err
	}
	op.Err = fmt.Errorf("%w (%s)", op.Err, text)
	return err
}

// routed reports whether the stack has a route to an address that could not be reached. A
// router may say so of a connection of TCP; other sockets ask the stack alone.
func (s *Stack) routed(network string, ip netip.Addr) bool {
	if !strings.HasPrefix(network, "tcp") {
		return false
	}
	_, ok := s.source(ip)
	return ok
}
