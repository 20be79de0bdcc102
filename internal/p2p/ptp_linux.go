package p2p

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/teardown"
)

const (
	// SecondSuffix is what the second opener adds to the path.
	SecondSuffix = "+"
	// MaxPTPPath is the longest path of which both names fit into a socket address.
	MaxPTPPath = 107 - len(SecondSuffix)
	// MaxSeqpacketPTPPath leaves room for the suffix of a name that is being made.
	MaxSeqpacketPTPPath = 107 - 17
	// lookInterval is the interval at which an end looks for its peer.
	lookInterval = 200 * time.Millisecond
)

// takePTP takes one of the two roles, and returns a socket that is bound to its name and
// connected to the other end, if there is one.
func takePTP(path string) (*ptpRole, int, error) {
	// Others may take and leave the names meanwhile, but not all the time.
	for range 10 {
		second := false
		for _, p := range []*ptpRole{
			{own: path, other: unix.SockaddrUnix{Name: path + SecondSuffix}},
			{own: path + SecondSuffix, second: true, other: unix.SockaddrUnix{Name: path}},
		} {
			fd, err := p.bind()
			if err == nil {
				p.connect(fd)
				return p, fd, nil
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				return nil, -1, err
			}
			used, err := sockio.InUse(p.own)
			if err != nil {
				return nil, -1, err
			}
			if !used {
				break // it is free now: start again with the first
			}
			second = p.second
		}
		if second {
			return nil, -1, fmt.Errorf("%s already has two ends: %w", path, unix.EADDRINUSE)
		}
	}
	return nil, -1, fmt.Errorf("%s: others open and close it all the time: %w", path, unix.EADDRINUSE)
}

// A ptpRole is the name of this end of a pair, and its peer's.
type ptpRole struct {
	own    string
	id     sockio.FileID // of own
	second bool          // own is path+

	mu        sync.Mutex // guards connecting and the fields below
	other     unix.SockaddrUnix
	connected bool // to the peer, as far as this end knows
}

// bind makes a socket with the name own.
func (p *ptpRole) bind() (int, error) {
	fd, err := sockio.LocalSocket(unix.SOCK_DGRAM)
	if err != nil {
		return -1, err
	}
	if p.second { // it makes the offer, and expects none
		sockio.RefuseRights(fd)
	}
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	if err := sockio.Bind(fd, p.own, 0o700); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", p.own, err)
	}
	p.id = sockio.IDAt(p.own)
	return fd, nil
}

// connect connects to the current owner of the peer path. If the socket is connected to
// it already, nothing changes.
func (p *ptpRole) connect(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connectLocked(fd)
}

func (p *ptpRole) connectLocked(fd int) error {
	err := unix.Connect(fd, &p.other)
	p.connected = err == nil
	return err
}

// look connects the socket to a new peer, and disconnects it from a dead one: while it is
// connected, the kernel lets no other peer write to it, and the C library gives up opening
// the other end. Senders notice a dead peer by themselves.
func (p *ptpRole) look(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.connectLocked(fd); err == unix.ENOENT || err == unix.ECONNREFUSED {
		// Sending to a dead peer fails and disconnects. A live peer must not get an
		// empty datagram: vdens 0.2 takes it for the end of the network.
		unix.Send(fd, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
}

// empty handles an empty datagram, with which the C library leaves. It disconnects from a
// peer that is gone.
func (p *ptpRole) empty(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Connecting to the same peer again changes nothing. Disconnecting would discard the
	// frames in the queue.
	if p.connectLocked(fd) != nil {
		sockio.Disconnect(fd)
	}
}

// A PTP is one end of a pair of datagram sockets with a frame in each datagram. Its peer may
// leave and come back.
type PTP struct {
	sockio.FrameCodec
	file    sockio.PollFile
	closing atomic.Bool

	role   *ptpRole
	second bool
	direct direct
	sock   int // descriptor of file
	// both is the Epoll of the socket and of the direct pair. Receivers hold a reference
	// to it.
	both sockio.Epoll
	// pairs says that the last packets came through the pair. round counts calls, so
	// that the pair cannot starve the socket. Only Receive uses them.
	pairs bool
	round uint

	stop chan struct{} // closed by Close
	done chan struct{} // closed when watch has ended
}

var _ packet.Transport = (*PTP)(nil)

// OpenPTP opens an end of a pair. The path must be absolute, as the process may change its
// directory.
func OpenPTP(path string) (*PTP, error) {
	p, fd, err := takePTP(path)
	if err != nil {
		return nil, err
	}
	c, err := newPTP(fd, p)
	if err != nil {
		p.id.Unlink(p.own)
		return nil, err
	}
	return c, nil
}

// newPTP takes over a bound socket.
func newPTP(sock int, p *ptpRole) (_ *PTP, err error) {
	c := &PTP{
		role:   p,
		second: p.second && useDirect,
		sock:   sock,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	c.direct.c = c
	brief := p.second && sockio.RefuseRights(sock)
	if c.file, err = sockio.NewPollFile(sock, "ptp"); err != nil {
		return nil, err
	}
	c.file.Brief = brief
	if c.both, err = sockio.NewEpoll("ptp"); err == nil {
		if err = c.both.Add(sock, unix.EPOLLIN); err != nil {
			c.both.Close()
		}
	}
	if err != nil {
		c.file.Close()
		return nil, err
	}
	go c.watch()
	return c, nil
}

// watch looks for the peer every lookInterval.
func (c *PTP) watch() {
	defer close(c.done)
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	look := func(fd uintptr) { c.role.look(int(fd)) }
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
			c.file.Raw.Control(look)
			if c.direct.refused.CompareAndSwap(true, false) {
				c.direct.offered.Store(false)
			}
		}
	}
}

// RecvPackets implements [packet.Transport].
func (c *PTP) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.both.Receive(b, c)
	return b.Packets, err
}

// Receive implements [packet.Receiver].
func (c *PTP) Receive(_ int, b *packet.Buffer) (bool, error) {
	c.round++
	pair := c.pairs != (c.round%16 == 0)
	for empty := 0; !c.closing.Load(); {
		var err error
		if pair {
			err = c.direct.receive(b)
		} else {
			err = c.receiveDatagrams(b)
		}
		switch {
		case err == unix.EAGAIN:
			if empty++; empty == 2 {
				return false, nil
			}
			pair = !pair
		case err == unix.ECONNRESET || sockio.Transient(err):
			empty, pair = 0, !pair
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		case len(b.Packets) > 0:
			c.pairs = pair
			return true, nil
		default:
			empty = 0
		}
	}
	return true, net.ErrClosed
}

// receiveDatagrams receives frames, and the offer of the peer.
func (c *PTP) receiveDatagrams(b *packet.Buffer) error {
	n, err := b.RecvMsgs(c.sock, ether.MaxFrame+1, packet.ControlInt)
	if err != nil {
		return err
	}
	offer, empty := -1, false
	for i := range n {
		g := b.Datagram(i)
		if g.Right >= 0 {
			if offer >= 0 {
				unix.Close(offer)
			}
			offer = g.Right
		}
		empty = empty || len(g.Data) == 0
		c.AddFrame(b, g)
	}
	if offer >= 0 {
		c.direct.accept(offer)
	}
	if empty {
		c.role.empty(c.sock)
	}
	return nil
}

// SendPackets implements [packet.Transport].
func (c *PTP) SendPackets(packets []packet.Packet, wait bool) error {
	if pair := c.direct.pair.Load(); pair != nil && c.direct.send(pair, packets, wait) {
		return nil
	}
	if wait && c.second {
		packets = c.direct.offer(packets)
	}
	return c.SendFrames(c.file, packets, c, wait)
}

// HandleError implements [packet.Sending].
func (c *PTP) HandleError(fd int, _ *packet.Sender, frames int, _ error) (lost int, again bool, final error) {
	c.direct.offered.Store(false) // the next peer needs an offer
	return frames, c.role.connect(fd) == nil, nil
}

// Close leaves the pair, and removes the name of this end.
func (c *PTP) Close() error {
	c.closing.Store(true)
	close(c.stop)
	c.role.id.Unlink(c.role.own)
	teardown.Within(func() {
		<-c.done
		c.both.Close()
		c.direct.drop()
		c.file.Close()
	})
	return nil
}
