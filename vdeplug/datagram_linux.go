package vdeplug

import (
	"net"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
	"golang.org/x/sys/unix"
)

// socketBuffer is what is asked for as send and receive buffers of datagram
// sockets: some hundred frames, as the queues of the kernel's interfaces.
const socketBuffer = 1 << 20

// A datagramConn is a plug on a connected datagram socket, a frame in each
// datagram. Its peer may come, go and come back.
type datagramConn struct {
	frameCodec
	file pollFile
	peer datagramPeer
	udp  *udpSender // nil: a local socket

	closing atomic.Bool
}

// A datagramPeer is the other end of a datagramConn. Its methods may be called
// from several goroutines at once, and do not block.
type datagramPeer interface {
	// reconnect connects the socket to the peer again, after sending has
	// failed. It returns whether another attempt makes sense.
	reconnect(fd int, err error) bool
	// Empty is told of a datagram without a byte.
	Empty(fd int)
}

// RecvPackets implements [packet.Transport].
func (c *datagramConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.file.receive(b, c)
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *datagramConn) Receive(fd int, b *packet.Buffer) (bool, error) {
	// A flood of bad datagrams must not keep Close from ending the call.
	for !c.closing.Load() {
		var empty int
		var err error
		if c.udp == nil {
			empty, err = c.receiveFrames(fd, b)
		} else {
			err = c.receiveUDP(fd, b)
		}
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ECONNRESET || transient(err):
			// The peer went, or a router said something about a datagram
			// long sent. Each is reported once.
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

// receiveUDP receives UDP packets that are frames each.
func (c *datagramConn) receiveUDP(fd int, b *packet.Buffer) error {
	n, err := b.RecvMsgs(fd, maxDatagram, packet.ControlInt)
	if err != nil {
		return err
	}
	for i := range n {
		g := b.Datagram(i)
		if len(g.Data) == 0 {
			c.DroppedRecv.Add(1)
		}
		for frame, whole := range datagrams(g) {
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
		return c.sendFrames(c.file, packets, c, wait)
	}
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		if err := c.udp.add(c.file, s, &packets[i], nil, nil, wait); err != nil {
			return err
		}
	}
	return c.flush(c.file, s, c.udp.sending, wait)
}

// Refused implements [packet.Sending].
func (c *datagramConn) Refused(fd int, s *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if s.Segment() != 0 && uncut(err) {
		return c.udp.Refused(fd, s, frames, err)
	}
	switch err {
	case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return frames, false, nil
	}
	return frames, c.peer.reconnect(fd, err), nil
}

// disconnect takes the peer from a datagram socket.
func disconnect(fd int) {
	addr := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
}

// growBuffers asks for socket buffers as large as they should be, or as large
// as the user may have them.
func growBuffers(fd, size int) {
	for _, option := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], size) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], size)
		}
	}
}
