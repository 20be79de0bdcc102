package vdeplug

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/virtio"
)

// vxvdeConn is an endpoint of a vxvde or a vxlan network.
type vxvdeConn struct {
	sockio.FrameCodec
	vxlan   bool
	header  vxvdeHeader
	sockets *vxvdeSockets
	self    *selfFilter

	// file is the epoll descriptor over the sockets. All that is received is
	// received under its reference: when its Close returns, they are unused.
	file sockio.PollFile
	uni  sockio.PollFile // the socket that sends
	udp  *sockio.UDPSender
	// turn counts calls: the one socket must not starve the other. Only Receive
	// uses it.
	turn uint

	closing atomic.Bool

	now   func() time.Duration
	mu    sync.Mutex // guards table; never held across a system call
	table *ether.MACTable[sockio.Sockaddr]
}

var _ packet.Transport = (*vxvdeConn)(nil)

func newVXVDE(l Locator, cfg vxvdeConfig) (Conn, error) {
	start := time.Now()
	c, err := newVXVDEClock(l, cfg, func() time.Duration { return time.Since(start) })
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), c), nil
}

func newVXVDEClock(l Locator, cfg vxvdeConfig, now func() time.Duration) (*vxvdeConn, error) {
	c := &vxvdeConn{
		vxlan:  cfg.vxlan,
		header: makeVXVDEHeader(cfg.vni),
		now:    now,
		table:  ether.NewMACTable[sockio.Sockaddr](cfg.table, cfg.expire),
	}
	var err error
	if c.sockets, err = openVXVDESockets(cfg); err != nil {
		return nil, err
	}
	if c.self, err = newSelfFilter(c.sockets.port, cfg.bind, now); err != nil {
		c.sockets.close()
		return nil, err
	}
	c.udp = sockio.NewUDPSender(&c.FrameCodec, nil)
	ep, err := c.sockets.epoll()
	if err == nil {
		c.file, err = sockio.NewPollFile(ep, l.Scheme())
	}
	if err == nil {
		fd := c.sockets.uni
		if c.uni, err = sockio.NewPollFile(fd, l.Scheme()); err != nil {
			c.sockets.uni = -1 // it is closed
			c.file.Close()
		}
		c.uni.Brief = true
	}
	if err != nil {
		c.self.close()
		c.sockets.close()
		return nil, err
	}
	return c, nil
}

// RecvPackets implements [packet.Transport].
func (c *vxvdeConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.file.Receive(b, c)
	return b.Packets, err
}

// Receive takes packets from both sockets until one has frames.
func (c *vxvdeConn) Receive(_ int, b *packet.Buffer) (bool, error) {
	// A flood of packets that are not for this network must not keep Close
	// from ending the call.
	for !c.closing.Load() {
		c.turn++
		multicast := c.turn%2 == 0 && c.sockets.multi >= 0
		n, err := b.RecvMsgs(c.sockets.receiver(multicast), sockio.MaxDatagram, packet.ControlInt)
		if err == unix.EAGAIN && c.sockets.multi >= 0 {
			multicast = !multicast
			n, err = b.RecvMsgs(c.sockets.receiver(multicast), sockio.MaxDatagram, packet.ControlInt)
		}
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case sockio.Transient(err):
			continue
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		}
		for i := range n {
			c.accept(b, b.Datagram(i), multicast)
		}
		if len(b.Packets) > 0 {
			return true, nil
		}
	}
	return true, net.ErrClosed
}

// accept takes the frames of what an endpoint has sent.
func (c *vxvdeConn) accept(b *packet.Buffer, g packet.Datagram, multicast bool) {
	peer := sockio.Sockaddr{Raw: *g.From}
	// The list of remotes may be the same on all hosts.
	if (multicast || c.vxlan) && c.self.own(&peer) {
		return
	}
	peer.Normalize()
	classify := classify
	if c.vxlan {
		classify = classifyVXLAN
		peer.SetPort(c.sockets.port) // senders may leave from any
	}
	var learned ether.MAC
	for packet, whole := range sockio.Datagrams(g) {
		if len(packet) < vxvdeHeaderLen {
			continue
		}
		switch classify(&c.header, (*vxvdeHeader)(packet), len(packet)) {
		case vxvdeForeign:
			continue
		case vxvdeBye:
			c.mu.Lock()
			c.table.Forget(peer)
			c.mu.Unlock()
			continue
		case vxvdeShort:
			c.DroppedRecv.Add(1)
			continue
		}
		frame := packet[vxvdeHeaderLen:]
		var offload virtio.Header
		if c.vxlan {
			// Other than by hand, a host makes packets for network cards to complete.
			offload = virtio.Partial(frame, vxlanMTU)
		}
		if !whole || len(frame) > ether.MaxFrame && offload.GSOType == virtio.GSONone {
			c.DroppedRecv.Add(1)
			continue
		}
		if _, src := ether.MACs(frame); src != learned {
			learned = src
			now := c.now()
			c.mu.Lock()
			c.table.Learn(src, peer, now)
			c.mu.Unlock()
		}
		b.Add(offload, frame)
	}
}

// SendPackets implements [packet.Transport].
func (c *vxvdeConn) SendPackets(packets []packet.Packet, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		if len(packets[i].Data) < ether.HeaderLen {
			c.DroppedSend.Add(1)
			continue
		}
		var known [1]sockio.Sockaddr
		to := known[:]
		if peer, ok := c.destination(packets[i].Data); ok {
			known[0] = peer
		} else {
			to = c.sockets.all
		}
		if err := c.udp.Add(c.uni, s, &packets[i], c.header[:], to, wait); err != nil {
			return err
		}
	}
	return c.Flush(c.uni, s, c.udp, wait)
}

// destination returns where the station is that a frame is for. It reports false
// if the frame is for all, or who has to get it is not known.
func (c *vxvdeConn) destination(frame []byte) (sockio.Sockaddr, bool) {
	dst, _ := ether.MACs(frame)
	if dst.IsMulticast() {
		return sockio.Sockaddr{}, false
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.Lookup(dst, now)
}

// Close tells the others that the endpoint leaves, where they understand that.
func (c *vxvdeConn) Close() error {
	c.closing.Store(true)
	c.file.Close()
	if !c.vxlan {
		bye := packet.NewSender()
		bye.Add([]virtio.Segment{{Head: c.header[:]}}, 0, &c.sockets.group.Raw)
		c.uni.SendMsgs(bye, c.udp, false) // as any packet it may be lost
		bye.Free()
	}
	c.uni.Close() // with its socket
	c.self.close()
	if c.sockets.multi >= 0 {
		unix.Close(c.sockets.multi)
	}
	return nil
}
