package p2p

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
)

// dialUDP makes a socket on the address local that is connected to peer: the kernel drops
// packets from others.
func dialUDP(local, peer netip.AddrPort) (_ packet.Transport, err error) {
	family := unix.AF_INET
	if peer.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := &UDP{}
	if c.addr, err = socketAddr(peer); err == nil {
		err = c.prepare(fd, local, peer)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.peer = c
	c.udp = sockio.NewUDPSender(&c.FrameCodec, c)
	if c.file, err = sockio.NewPollFile(fd, "udp"); err != nil {
		return nil, err
	}
	c.file.Brief = true
	return c, nil
}

// A UDP is one end of a cable over UDP.
type UDP struct {
	datagramConn
	mu   sync.Mutex // guards addr, in which Connect writes
	addr unix.Sockaddr
}

var _ packet.Transport = (*UDP)(nil)

func (c *UDP) prepare(fd int, local, peer netip.AddrPort) error {
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	sockio.JoinUDP(fd)
	if peer.Addr().Is6() {
		// Leave the same port of IPv4 free for others.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	from, err := socketAddr(local)
	if err != nil {
		return err
	}
	switch err := unix.Bind(fd, from); {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("source %v is used by another program: %w", local, os.NewSyscallError("bind", err))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("source %v is not an address of this host: %w", local, os.NewSyscallError("bind", err))
	case err != nil:
		return fmt.Errorf("source %v: %w", local, os.NewSyscallError("bind", err))
	}
	if err := unix.Connect(fd, c.addr); err != nil {
		return fmt.Errorf("destination %v: %w", peer, os.NewSyscallError("connect", err))
	}
	return nil
}

func socketAddr(a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	zone := a.Addr().Zone()
	index, err := strconv.ParseUint(zone, 10, 32)
	if err != nil && zone != "" {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("zone %q of %v: %w", zone, a.Addr(), err)
		}
		index = uint64(ifi.Index)
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port()), ZoneId: uint32(index)}, nil
}

// reconnect has the kernel choose route and source address again. It need not if the
// error is only the answer of the peer's host to an earlier packet, for a closed port.
func (c *UDP) reconnect(fd int, err error) bool {
	if err == unix.ECONNREFUSED {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sockio.Disconnect(fd) // otherwise the old source address stays
	return unix.Connect(fd, c.addr) == nil
}

// Empty drops a packet without a frame.
func (c *UDP) Empty(int) { c.DroppedRecv.Add(1) }

func (c *UDP) Close() error {
	c.closing.Store(true)
	c.file.Close()
	return nil
}
