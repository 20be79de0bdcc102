package p2p

import (
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A datagramConn is a [packet.Transport] on a connected datagram socket, a frame in each
// datagram. Its peer may come, go and come back.
type datagramConn struct {
	sockio.FrameCodec
	file sockio.PollFile
	peer datagramPeer
	udp  *sockio.UDPSender // nil: a local socket

	closing atomic.Bool
}

// A datagramPeer is the other end of a datagramConn. Its methods may be called
// from several goroutines at once, and do not block.
type datagramPeer interface {
	// reconnect connects the socket to the peer again, after sending has failed. It
	// reports whether to try sending once more.
	reconnect(fd int, err error) bool
	// Empty is called for an empty datagram.
	Empty(fd int)
}

// RecvPackets implements [packet.Transport].
func (c *datagramConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.file.Receive(b, c)
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *datagramConn) Receive(fd int, b *packet.Buffer) (bool, error) {
	// A flood of bad datagrams must not keep Close from ending the call.
	for !c.closing.Load() {
		var empty int
		var err error
		if c.udp == nil {
			empty, err = c.ReceiveFrames(fd, b)
		} else {
			err = c.receiveUDP(fd, b)
		}
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ECONNRESET || sockio.Transient(err):
			// The peer is gone, or a router has answered an earlier datagram. Each
			// error is reported once.
			continue
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		}
		if empty > 0 {
			c.peer.Empty(fd)
		}
		if len(b.Packets) > 0 {
			return true, nil
		}
	}
	return true, net.ErrClosed
}

// receiveUDP receives UDP packets, a frame in each.
func (c *datagramConn) receiveUDP(fd int, b *packet.Buffer) error {
	n, err := b.RecvMsgs(fd, sockio.MaxDatagram, packet.ControlInt)
	if err != nil {
		return err
	}
	for i := range n {
		g := b.Datagram(i)
		if len(g.Data) == 0 {
			c.DroppedRecv.Add(1)
		}
		for frame, whole := range sockio.Datagrams(g) {
			if !whole || !ether.Sendable(frame) {
				c.DroppedRecv.Add(1)
				continue
			}
			b.Add(virtio.Header{}, frame)
		}
	}
	return nil
}

// SendPackets implements [packet.Transport].
func (c *datagramConn) SendPackets(packets []packet.Packet, wait bool) error {
	if c.udp == nil {
		return c.SendFrames(c.file, packets, c, wait)
	}
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		if err := c.udp.Add(c.file, s, &packets[i], nil, nil, wait); err != nil {
			return err
		}
	}
	return c.Flush(c.file, s, c.udp.Sending, wait)
}

// Refused implements [packet.Sending].
func (c *datagramConn) Refused(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if s.Segment() != 0 && sockio.Uncut(err) {
		return c.udp.Refused(fd, s, frames, err)
	}
	switch err {
	case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return frames, false, nil
	}
	return frames, c.peer.reconnect(fd, err), nil
}
