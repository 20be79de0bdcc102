package slirp

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack/internal/sockio"
	vdestream "github.com/vdestack/vdestack/internal/stream"
	"golang.org/x/sys/unix"
)

const nonblock = unix.O_NONBLOCK

// descriptors returns how many files the program may have open.
func descriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}

// sendNow sends a datagram without waiting. It fails where there is no room.
func sendNow(c *net.UDPConn, data []byte, to netip.AddrPort) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sa unix.Sockaddr
	if c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4() {
		if !to.Addr().Is4() {
			return unix.EAFNOSUPPORT
		}
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		sa6 := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if zone := to.Addr().Zone(); zone != "" {
			ifi, err := net.InterfaceByName(zone)
			if err != nil {
				return err
			}
			sa6.ZoneId = uint32(ifi.Index)
		}
		sa = sa6
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), data, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sa)
		return true
	})
	if err != nil {
		return err
	}
	return sent
}

// listenPing makes a socket for echo requests. The kernel allows that to the groups in
// net.ipv4.ping_group_range.
func listenPing(v6 bool) (*net.UDPConn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if v6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// refuseRights makes a local socket reject descriptors, where the kernel can do that.
// Guests cannot use them.
func refuseRights(fd uintptr) { sockio.RefuseRights(int(fd)) }

// isReset reports whether the host has reset a connection.
func isReset(s stream) bool {
	raw, err := s.SyscallConn()
	return err == nil && sockio.IsReset(raw)
}

// untilReset waits, after the end of a connection's data, until the host resets it, and
// reports whether it did. A read deadline ends it.
func untilReset(s stream) bool { return sockio.UntilReset(s) }

// A command is a running program, and the other end of its pair of sockets.
type command struct {
	*net.UnixConn
	process *vdestream.Process
}

// startCommand starts a program with one end of a pair of sockets as its standard input
// and output.
func startCommand(args []string) (stream, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	refuseRights(uintptr(fds[0]))
	ours, theirs := os.NewFile(uintptr(fds[0]), "command"), os.NewFile(uintptr(fds[1]), "command")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	p, err := vdestream.StartProcess(args, theirs, theirs)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &command{conn.(*net.UnixConn), p}, nil
}

// Close ends the command and the processes that it has started.
func (c *command) Close() error { return errors.Join(c.UnixConn.Close(), c.process.End()) }
