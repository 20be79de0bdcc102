//go:build amd64 || arm64

package stack

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A ControlFunc is called with a new socket before it is bound or connected.
type ControlFunc = func(network, address string, c syscall.RawConn) error

// IPConn makes a raw IP socket in the stack: network is "ip4" or "ip6". It is
// bound to local and connected to remote where these are valid. Package net
// would make it on the host first, which needs privilege there.
func (s *Stack) IPConn(network string, proto int, local, remote netip.Addr, control ControlFunc) (*net.IPConn, error) {
	domain, address := unix.AF_INET, local
	if network == "ip6" {
		domain = unix.AF_INET6
	}
	f, err := s.Socket(domain, unix.SOCK_RAW|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if control != nil {
		if remote.IsValid() {
			address = remote
		}
		text := ""
		if address.IsValid() {
			text = address.String()
		}
		if err := control(network, text, raw); err != nil {
			return nil, err
		}
	}
	cerr := raw.Control(func(fd uintptr) {
		if local.IsValid() {
			if err = os.NewSyscallError("bind", unix.Bind(int(fd), sockaddr(local, 0))); err != nil {
				return
			}
		}
		if remote.IsValid() {
			err = os.NewSyscallError("connect", unix.Connect(int(fd), sockaddr(remote, peerPort)))
		}
	})
	if cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	if remote.IsValid() {
		c, err := net.FileConn(f)
		if err != nil {
			return nil, err
		}
		return c.(*net.IPConn), nil
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.IPConn), nil
}

// peerPort is no port, for a raw socket has none: with 0 the kernel would not
// tell package net that the socket is connected, and to whom.
const peerPort = 1

// sockaddr returns an address of a raw socket. Its zone is an index.
func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	zone, _ := strconv.ParseUint(a.Zone(), 10, 32)
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port, ZoneId: uint32(zone)}
}

// JoinGroup makes an UDP socket of the stack a member of a multicast group, on
// the interface with the given index, or on all that are up and able to; it
// gets the packets of no other group, and does not see its own.
func (s *Stack) JoinGroup(c *net.UDPConn, group netip.Addr, index int) error {
	indexes := []int{index}
	if index == 0 {
		var err error
		if indexes, err = s.multicastInterfaces(); err != nil {
			return err
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for _, i := range indexes {
			if err = join(int(fd), group, i); err != nil {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

func join(fd int, group netip.Addr, index int) (err error) {
	if group.Is4() {
		m := &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)}
		if err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m); err == nil {
			unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0)
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
		}
	} else {
		m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
		if err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m); err == nil {
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0)
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
		}
	}
	return os.NewSyscallError("setsockopt", err)
}

// multicastInterfaces returns the interfaces of the stack that are up and
// capable of multicast.
func (s *Stack) multicastInterfaces() (indexes []int, err error) {
	nl, err := s.RTNL()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.Links()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Flags&(net.FlagUp|net.FlagMulticast) == net.FlagUp|net.FlagMulticast {
			indexes = append(indexes, l.Index)
		}
	}
	if len(indexes) == 0 {
		return nil, fmt.Errorf("%s: no interface is up and capable of multicast", s.name)
	}
	return indexes, nil
}
