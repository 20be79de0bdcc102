package sockets

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Begin makes a TCP socket in a stack, and begins to connect it to the IP address and port.
// It returns the connection if the kernel has made it by then, as it has if the listener
// is in the same machine: package net would make a socket on the host too, and wait for
// its poller. Otherwise it returns the socket, for [Fresh]; if that is connected or reset,
// package net learns so when it connects it. It returns neither after an error, which
// package net will get as well, and of addresses with a zone, or that stand for others.
func Begin(ctx context.Context, s Stack, address string) (*net.TCPConn, *os.File) {
	to, err := netip.ParseAddrPort(address)
	if a := to.Addr(); err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
		return nil, nil
	}
	domain, network := unix.AF_INET, "tcp4"
	if to.Addr().Is6() {
		domain, network = unix.AF_INET6, "tcp6"
	}
	// Of a file that does not block the poller would know.
	f, err := s.Socket(domain, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil
	}
	raw, err := f.SyscallConn()
	if err == nil {
		err = s.ControlContext(Fresh{ctx, f}, network, address, raw)
	}
	if err == nil {
		err = onSocket(raw, func(fd int) error { return begin(fd, to) })
	}
	if err == unix.EINPROGRESS {
		return nil, f
	}
	if err != nil {
		f.Close()
		return nil, nil
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, f
	}
	tcp := c.(*net.TCPConn)
	switch remote, _ := tcp.RemoteAddr().(*net.TCPAddr); {
	case remote == nil: // the other end has reset it already
		tcp.Close()
		return nil, f
	case tcp.LocalAddr().(*net.TCPAddr).AddrPort() == remote.AddrPort():
		tcp.Close() // nobody listens, and the kernel has connected it with itself
		tcp = nil
	}
	f.Close()
	return tcp, nil
}

// begin has a socket not block, and connects it. The error is EINPROGRESS if that is not
// done at once.
func begin(fd int, to netip.AddrPort) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK); err != nil {
		return err
	}
	if to.Addr().Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
	}
	err := unix.Connect(fd, sockaddr(to.Addr(), int(to.Port())))
	if err == unix.EINPROGRESS {
		// The kernel has received what the other end answers at once. (Package unix would
		// ask for the protocol too.)
		if _, perr := syscall.Getpeername(fd); perr == nil {
			return nil
		}
	}
	return err
}
