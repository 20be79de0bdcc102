//go:build amd64 || arm64

package stack

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// carried are the options that a socket may have before it is bound: what
// package net and others set before they call a Control function.
var carried = []struct{ level, opt int }{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT},
	{unix.SOL_SOCKET, unix.SO_BROADCAST},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE},
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
}

// Control moves a socket that is neither bound nor connected into the stack. It
// is a Control function of [net.Dialer] and [net.ListenConfig], and of every
// library that lets its user set one: a socket of the same domain, type and
// protocol is made in the stack, gets the options set so far, and takes the
// place of the original.
func (s *Stack) Control(network, address string, c syscall.RawConn) error {
	if c == nil {
		return fmt.Errorf("%s: Control was called without a socket: %w", s.name, os.ErrInvalid)
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = s.swap(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (s *Stack) swap(fd int) error {
	var kind [3]int // domain, type, protocol
	for i, opt := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL} {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
		if err != nil {
			return fmt.Errorf("%s: what was to be moved into the stack is no socket: %w", s.name, os.NewSyscallError("getsockopt", err))
		}
		kind[i] = v
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s.swaps.RLock()
	defer s.swaps.RUnlock()
	in, err := s.ns.Socket(kind[0], kind[1]|flags&unix.O_NONBLOCK, kind[2])
	if err != nil {
		return s.wrap(err)
	}
	defer unix.Close(in)
	for _, o := range carried {
		if o.level == unix.IPPROTO_IPV6 && kind[0] != unix.AF_INET6 {
			continue
		}
		v, err := unix.GetsockoptInt(fd, o.level, o.opt)
		if err != nil {
			continue // the domain does not have it
		}
		if was, err := unix.GetsockoptInt(in, o.level, o.opt); err == nil && was != v {
			if err := unix.SetsockoptInt(in, o.level, o.opt, v); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
	}
	return os.NewSyscallError("dup3", unix.Dup3(in, fd, unix.O_CLOEXEC))
}
