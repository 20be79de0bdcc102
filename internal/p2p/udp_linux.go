package p2p

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
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
	c := new(UDP)
	if c.addr, err = socketAddr(peer); err == nil {
		err = c.prepare(fd, local, peer)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.udp = sockio.NewUDPSender(&c.FrameCodec, c)
	if c.file, err = sockio.NewPollFile(fd, "udp"); err != nil {
		return nil, err
	}
	c.file.Brief = true
	return c, nil
}

// A UDP is one end of a cable over UDP, on a connected socket with a frame in each packet.
type UDP struct {
	sockio.FrameCodec
	file    sockio.PollFile
	udp     *sockio.UDPSender
	closing atomic.Bool

	mu   sync.Mutex // guards addr, which Connect changes
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

// reconnect makes the kernel choose route and source address again, unless the error only
// says that the peer's host has a closed port.
func (c *UDP) reconnect(fd int, err error) bool {
	if err == unix.ECONNREFUSED {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sockio.Disconnect(fd) // otherwise the old source address stays
	return unix.Connect(fd, c.addr) == nil
}

// RecvPackets implements [packet.Transport].
func (c *UDP) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.file.Receive(b, c)
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *UDP) Receive(fd int, b *packet.Buffer) (bool, error) {
	// A flood of invalid packets must not keep Close from ending the call.
	for !c.closing.Load() {
		n, err := b.RecvMsgs(fd, sockio.MaxDatagram, packet.ControlInt)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case sockio.Transient(err):
			// The peer is gone, or a router has rejected an earlier packet. The kernel
			// reports each error once.
			continue
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		}
		for i := range n {
			g := b.Datagram(i)
			if len(g.Data) == 0 {
				c.DroppedRecv.Add(1)
			}
			for frame, complete := range sockio.Datagrams(g) {
				if !complete || !ether.Sendable(frame) {
					c.DroppedRecv.Add(1)
					continue
				}
				b.Add(virtio.Header{}, frame)
			}
		}
		if len(b.Packets) > 0 {
			return true, nil
		}
	}
	return true, net.ErrClosed
}

// SendPackets implements [packet.Transport].
func (c *UDP) SendPackets(packets []packet.Packet, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		if err := c.udp.Add(c.file, s, &packets[i], nil, nil, wait); err != nil {
			return err
		}
	}
	return c.Flush(c.file, s, c, wait)
}

// HandleError implements [packet.Sending].
func (c *UDP) HandleError(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if s.Segment() != 0 && sockio.Uncut(err) {
		return c.udp.HandleError(fd, s, frames, err)
	}
	return frames, c.reconnect(fd, err), nil
}

func (c *UDP) Close() error {
	c.closing.Store(true)
	c.file.Close()
	return nil
}
