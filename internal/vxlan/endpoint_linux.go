package vxlan

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

// assumedMTU is for packets that arrive unsegmented: their frames then fit into every
// Ethernet.
const assumedMTU = 1430

// An Endpoint is a member of a network.
type Endpoint struct {
	sockio.FrameCodec
	vxlan   bool
	header  header
	sockets *sockets
	self    *selfFilter

	// epoll waits for both sockets. Receivers hold a reference to it: when its Close
	// returns, nobody receives from the sockets.
	epoll   sockio.Epoll
	unicast sockio.PollFile // the socket that sends
	Sender  *sockio.UDPSender
	// Calls of Receive alternate between the sockets, so that neither starves.
	calls uint

	closing atomic.Bool

	now     func() time.Duration
	remotes atomic.Pointer[remoteSet] // changed with mu held
	mu      sync.Mutex                // guards table; never held across a system call
	table   *ether.MACTable[ether.MAC, sockio.Sockaddr]
}

var _ packet.Transport = (*Endpoint)(nil)

// Open joins the network in the network namespace of the caller.
func Open(cfg Config) (*Endpoint, error) {
	start := time.Now()
	return openWithClock(cfg, func() time.Duration { return time.Since(start) })
}

func openWithClock(cfg Config, now func() time.Duration) (*Endpoint, error) {
	e := &Endpoint{
		vxlan:  cfg.VXLAN,
		header: makeHeader(cfg.VNI),
		now:    now,
		table:  ether.NewMACTable[ether.MAC, sockio.Sockaddr](cfg.Stations, cfg.Expire),
	}
	var err error
	if e.sockets, err = openSockets(cfg); err != nil {
		return nil, err
	}
	e.remotes.Store(e.sockets.remoteSet(cfg))
	if e.self, err = newSelfFilter(e.sockets.port, cfg.Bind, now); err != nil {
		e.sockets.close()
		return nil, err
	}
	e.Sender = sockio.NewUDPSender(&e.FrameCodec, nil)
	if err := e.poll(cfg.scheme()); err != nil {
		e.self.close()
		e.sockets.close()
		return nil, err
	}
	return e, nil
}

// poll waits for both sockets in one Epoll.
func (e *Endpoint) poll(name string) (err error) {
	if e.epoll, err = sockio.NewEpoll(name); err != nil {
		return err
	}
	err = e.epoll.Add(e.sockets.unicast, unix.EPOLLIN)
	if err == nil && e.sockets.multicast >= 0 {
		err = e.epoll.Add(e.sockets.multicast, unix.EPOLLIN)
	}
	if err == nil {
		if e.unicast, err = sockio.NewPollFile(e.sockets.unicast, name); err != nil {
			e.sockets.unicast = -1 // it is closed
		}
		e.unicast.Brief = true
	}
	if err != nil {
		e.epoll.Close()
	}
	return err
}

// RecvPackets implements [packet.Transport].
func (e *Endpoint) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := e.epoll.Receive(b, e)
	return b.Packets, err
}

// Receive takes packets from both sockets until one has frames.
func (e *Endpoint) Receive(_ int, b *packet.Buffer) (bool, error) {
	// A flood of packets for other networks must not delay Close.
	for !e.closing.Load() {
		e.calls++
		multicast := e.calls%2 == 0 && e.sockets.multicast >= 0
		n, err := b.RecvMsgs(e.sockets.receiver(multicast), sockio.MaxDatagram, packet.ControlInt)
		if err == unix.EAGAIN && e.sockets.multicast >= 0 {
			multicast = !multicast
			n, err = b.RecvMsgs(e.sockets.receiver(multicast), sockio.MaxDatagram, packet.ControlInt)
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
			e.accept(b, b.Datagram(i), multicast)
		}
		if len(b.Packets) > 0 {
			return true, nil
		}
	}
	return true, net.ErrClosed
}

// accept adds the frames of a datagram to b, and learns the places of their senders.
func (e *Endpoint) accept(b *packet.Buffer, g packet.Datagram, multicast bool) {
	peer := sockio.Sockaddr{Raw: *g.From}
	// Multicast packets come back; and this endpoint may be on the list of remotes.
	if (multicast || e.vxlan) && e.self.own(&peer) {
		return
	}
	peer.Normalize()
	classify := classifyVXVDE
	if e.vxlan {
		classify = classifyVXLAN
	}
	var learned ether.MAC
	for data, complete := range sockio.Datagrams(g) {
		if len(data) < headerLen {
			continue
		}
		switch classify(&e.header, (*header)(data), len(data)) {
		case kindForeign:
			continue
		case kindBye:
			e.mu.Lock()
			e.table.Forget(peer)
			e.mu.Unlock()
			continue
		case kindShort:
			e.DroppedRecv.Add(1)
			continue
		}
		frame := data[headerLen:]
		var offload virtio.Header
		if e.vxlan {
			// A host leaves checksums and segmentation to its network card, and a
			// virtual one does neither.
			offload = virtio.Partial(frame, assumedMTU)
		}
		if !complete || len(frame) > ether.MaxFrame && offload.GSOType == virtio.GSONone {
			e.DroppedRecv.Add(1)
			continue
		}
		if _, src := ether.MACs(frame); src != learned {
			learned = src
			e.learn(src, peer)
		}
		b.Add(offload, frame)
	}
}

// SendPackets implements [packet.Transport].
func (e *Endpoint) SendPackets(packets []packet.Packet, wait bool) error {
	s := packet.NewSender()
	defer s.Free()
	for i := range packets {
		if len(packets[i].Data) < ether.HeaderLen {
			e.DroppedSend.Add(1)
			continue
		}
		var known [1]sockio.Sockaddr
		to := known[:]
		dst, _ := ether.MACs(packets[i].Data)
		if peer, ok := e.Lookup(dst); ok {
			known[0] = peer
		} else {
			if to = e.remotes.Load().all; len(to) == 0 {
				continue // nobody else is on the network
			}
		}
		if err := e.Sender.Add(e.unicast, s, &packets[i], e.header[:], to, wait); err != nil {
			return err
		}
	}
	return e.Flush(e.unicast, s, e.Sender, wait)
}

// Lookup returns the endpoint for the destination MAC; false if it is multicast or
// unknown.
func (e *Endpoint) Lookup(dst ether.MAC) (sockio.Sockaddr, bool) {
	if dst.IsMulticast() {
		return sockio.Sockaddr{}, false
	}
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.table.Lookup(dst, now)
}

// Close leaves the network. In vxvde, it tells the other endpoints.
func (e *Endpoint) Close() error {
	e.closing.Store(true)
	e.epoll.Close()
	if !e.vxlan {
		bye := packet.NewSender()
		bye.Add([]virtio.Segment{{Head: e.header[:]}}, 0, &e.sockets.group.Raw)
		e.unicast.SendMsgs(bye, e.Sender, false) // it may get lost, like any packet
		bye.Free()
	}
	e.unicast.Close() // closes sockets.unicast
	e.self.close()
	if e.sockets.multicast >= 0 {
		unix.Close(e.sockets.multicast)
	}
	return nil
}
