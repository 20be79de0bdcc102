package sockets

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// NewIP makes a raw IP socket in a stack: network is "ip4" or "ip6". It is bound to local
// and connected to remote where these are valid. Package net would make it on the host
// first, which needs privilege there.
func NewIP(m Maker, network string, proto int, local, remote netip.Addr, control ControlFunc) (*net.IPConn, error) {
	domain := unix.AF_INET
	if network == "ip6" {
		domain = unix.AF_INET6
	}
	f, err := m.Socket(domain, unix.SOCK_RAW|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	address := ""
	switch {
	case remote.IsValid():
		address = remote.String()
	case local.IsValid():
		address = local.String()
	}
	if err := control(network, address, raw); err != nil {
		return nil, err
	}
	err = onSocket(raw, func(fd int) error {
		if local.IsValid() {
			if err := os.NewSyscallError("bind", unix.Bind(fd, sockaddr(local, 0))); err != nil {
				return err
			}
		}
		if remote.IsValid() {
			return os.NewSyscallError("connect", unix.Connect(fd, sockaddr(remote, peerPort)))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var c any
	if remote.IsValid() {
		c, err = net.FileConn(f)
	} else {
		c, err = net.FilePacketConn(f)
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.IPConn), nil
}

// onSocket calls f with the descriptor of a socket.
func onSocket(c syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// peerPort stands for a port, which a raw socket does not have: with 0 the kernel would
// not tell package net that the socket is connected, and to whom.
const peerPort = 1

// sockaddr returns an address of a raw socket. Its zone is an index.
func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	zone, _ := strconv.ParseUint(a.Zone(), 10, 32)
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port, ZoneId: uint32(zone)}
}

// JoinGroup makes a UDP socket a member of a multicast group on the interfaces with the
// given indexes. It gets the packets of no other group, and does not see its own.
func JoinGroup(c *net.UDPConn, group netip.Addr, indexes []int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(raw, func(fd int) error {
		for _, i := range indexes {
			if err := join(fd, group, i); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
		return nil
	})
}

func join(fd int, group netip.Addr, index int) error {
	if group.Is4() {
		m := &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)}
		if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m); err != nil {
			return err
		}
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0)
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	}
	m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m); err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0)
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
}
