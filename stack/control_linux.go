//go:build amd64 || arm64

package stack

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vdestack/vdestack/internal/sockets"
	"golang.org/x/sys/unix"
)

// A sockOption is an option of a socket that is an int.
type sockOption struct{ level, opt int }

var v6Only = sockOption{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}

// carried are the options that a socket may have before it is bound: what
// package net and others set before they call a Control function. A new socket
// has none of them, but for IPV6_V6ONLY, which follows a setting of the stack.
var carried = []sockOption{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT},
	{unix.SOL_SOCKET, unix.SO_BROADCAST},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE},
	v6Only,
}

// Control is [Stack.ControlContext] for the Control field.
func (s *Stack) Control(network, address string, c syscall.RawConn) error {
	return s.ControlContext(context.Background(), network, address, c)
}

// ControlContext moves a socket that is neither bound nor connected into the stack,
// unless it is there already. It is a ControlContext function of [net.Dialer], and of
// every library that lets its user set one: a socket of the same domain, type and
// protocol is made in the stack, gets the options set so far, and takes the place of
// the original.
func (s *Stack) ControlContext(ctx context.Context, network, address string, c syscall.RawConn) error {
	s = s.orNone()
	if c == nil {
		return fmt.Errorf("%s: Control was called without a socket: %w", s.name, os.ErrInvalid)
	}
	fresh, known := ctx.(sockets.Fresh)
	var begun bool
	var err error
	cerr := c.Control(func(fd uintptr) {
		switch {
		case fresh.Begun != nil:
			begun, err = replace(int(fd), fresh.Begun)
		case known:
			k, options := freshKind(network)
			err = s.swap(int(fd), k, options)
		default:
			err = s.move(int(fd))
		}
	})
	switch {
	case cerr != nil:
		return cerr
	case err != nil || begun:
		return err
	}
	if to, err := netip.ParseAddrPort(address); err == nil {
		s.meet(ctx, to.Addr())
	} else if to, err := netip.ParseAddr(address); err == nil {
		s.meet(ctx, to)
	}
	return nil
}

// replace puts a socket of the stack in the place of fd, unless it is the same.
func replace(fd int, by *os.File) (replaced bool, err error) {
	in := int(by.Fd())
	if in == fd {
		return false, nil
	}
	return true, os.NewSyscallError("dup3", unix.Dup3(in, fd, unix.O_CLOEXEC))
}

// move moves a socket into the stack.
func (s *Stack) move(fd int) error {
	k, err := kindOf(fd)
	if err != nil {
		return s.wrap(err)
	}
	if in, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil && in == s.ns.Cookie() && !s.isClosed() {
		return nil
	}
	return s.swap(fd, k, carried)
}

// The options that sockets of [sockets.Fresh] may have.
var (
	tcpOptions = []sockOption{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, v6Only}
	udpOptions = append([]sockOption{{unix.SOL_SOCKET, unix.SO_BROADCAST}}, tcpOptions...)
)

// freshKind returns what a socket of [sockets.Fresh] is, and its options.
func freshKind(network string) (sockKind, []sockOption) {
	k, options := sockKind{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, 0}, tcpOptions
	if strings.HasPrefix(network, "udp") {
		k.typ, options = unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, udpOptions
	}
	if strings.HasSuffix(network, "6") {
		k.domain = unix.AF_INET6
	}
	return k, options
}

// A sockKind is what socket(2) is called with.
type sockKind struct{ domain, typ, proto int }

// kindOf returns how the socket was made, or would be as it is now.
func kindOf(fd int) (k sockKind, err error) {
	for _, q := range []struct {
		opt int
		v   *int
	}{{unix.SO_DOMAIN, &k.domain}, {unix.SO_TYPE, &k.typ}, {unix.SO_PROTOCOL, &k.proto}} {
		if *q.v, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, q.opt); err != nil {
			return k, fmt.Errorf("what was to be moved into the stack is no socket: %w", os.NewSyscallError("getsockopt", err))
		}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	k.typ |= flags & unix.O_NONBLOCK
	return k, os.NewSyscallError("fcntl", err)
}

// swap puts a socket of the stack in the place of fd, with its options.
func (s *Stack) swap(fd int, k sockKind, options []sockOption) error {
	s.swaps.RLock()
	defer s.swaps.RUnlock()
	in, err := s.ns.Socket(k.domain, k.typ, k.proto)
	if err != nil {
		return s.wrap(err)
	}
	defer unix.Close(in)
	for _, o := range options {
		if o.level == unix.IPPROTO_IPV6 && k.domain != unix.AF_INET6 {
			continue
		}
		v, err := unix.GetsockoptInt(fd, o.level, o.opt)
		if err != nil || v == 0 && o.level == unix.SOL_SOCKET {
			continue // not set, or the domain does not have it
		}
		if err := unix.SetsockoptInt(in, o.level, o.opt, v); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return os.NewSyscallError("dup3", unix.Dup3(in, fd, unix.O_CLOEXEC))
}
