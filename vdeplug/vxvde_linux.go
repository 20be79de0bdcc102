package vdeplug

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// vxvdeConn is an endpoint of a vxvde network.
type vxvdeConn struct {
	dropCounter
	vnl     string
	header  vxvdeHeader
	sockets *vxvdeSockets
	self    *selfFilter

	// file is the epoll descriptor over the sockets. All system calls on them
	// are made under its reference: when its Close returns, they are unused.
	file pollFile
	// turn counts received packets: the one socket must not starve the other.
	// Only tryRecv uses it.
	turn uint

	closing   atomic.Bool
	closeOnce sync.Once

	now   func() time.Duration
	mu    sync.Mutex // guards table; never held across a system call
	table *macTable[sockaddr]
}

var (
	_ Conn    = (*vxvdeConn)(nil)
	_ Dropper = (*vxvdeConn)(nil)
)

func newVXVDE(l Locator, cfg vxvdeConfig) (Conn, error) {
	start := time.Now()
	c, err := newVXVDEClock(l, cfg, func() time.Duration { return time.Since(start) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

func newVXVDEClock(l Locator, cfg vxvdeConfig, now func() time.Duration) (*vxvdeConn, error) {
	c := &vxvdeConn{
		vnl:    l.String(),
		header: makeVXVDEHeader(cfg.vni),
		now:    now,
		table:  newMACTable[sockaddr](cfg.table, cfg.expire),
	}
	var err error
	if c.sockets, err = openVXVDESockets(cfg); err != nil {
		return nil, err
	}
	if c.self, err = newSelfFilter(c.sockets.port, cfg.bind, now); err != nil {
		c.sockets.close()
		return nil, err
	}
	ep, err := c.sockets.epoll()
	if err == nil {
		c.file, err = newPollFile(ep, "vxvde")
	}
	if err != nil {
		c.self.close()
		c.sockets.close()
		return nil, err
	}
	return c, nil
}

func (c *vxvdeConn) Recv(frame []byte) (int, error) {
	n, err := c.file.recv(c, frame)
	if err != nil && err != net.ErrClosed {
		err = &Error{"recv", c.vnl, err}
	}
	return n, err
}

// starve is how many packets in a row are taken from one socket.
const starve = 32

// tryRecv takes packets from both sockets until one has a frame.
func (c *vxvdeConn) tryRecv(_ int, t *transfer) bool {
	// A flood of packets that are not for this network must not keep Close
	// from ending the call.
	for !c.closing.Load() {
		first, second := c.sockets.uni, c.sockets.multi
		if c.turn/starve%2 == 1 {
			first, second = second, first
		}
		fd := first
		n, err := t.msg.recv(fd, t.frame)
		if err == unix.EAGAIN {
			fd = second
			n, err = t.msg.recv(fd, t.frame)
		}
		c.turn++
		switch {
		case err == unix.EAGAIN:
			return false
		case transient(err):
			continue
		case err != nil:
			t.err = os.NewSyscallError("recvmsg", err)
			return true
		}
		if c.accept(t, n, fd == c.sockets.multi) {
			return true
		}
	}
	t.err = net.ErrClosed
	return true
}

// accept looks at a packet and reports whether it has a frame to deliver.
func (c *vxvdeConn) accept(t *transfer, n int, multicast bool) bool {
	m := &t.msg
	kind := classify(&c.header, &m.header, n)
	if kind == vxvdeForeign || multicast && c.self.own(&m.peer) {
		return false
	}
	m.peer.normalize()
	switch kind {
	case vxvdeBye:
		c.mu.Lock()
		c.table.forget(m.peer)
		c.mu.Unlock()
		return false
	case vxvdeShort:
		c.droppedRecv.Add(1)
		return false
	}
	t.n = n - vxvdeHeaderLen
	if t.n > len(t.frame) || t.n > MaxFrame {
		c.droppedRecv.Add(1)
		return false
	}
	_, src := macs(t.frame)
	now := c.now()
	c.mu.Lock()
	c.table.learn(src, m.peer, now)
	c.mu.Unlock()
	return true
}

// transient reports errors that a socket passes on from the network, for
// packets long sent: they say nothing about the next one.
func transient(err error) bool {
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.ENOPROTOOPT, unix.EPROTO, unix.EMSGSIZE, unix.EACCES:
		return true
	}
	return false
}

func (c *vxvdeConn) Send(frame []byte) error { return c.file.send(c, frame) }

func (c *vxvdeConn) trySend(_ int, t *transfer) {
	if len(t.frame) < HeaderLen || len(t.frame) > MaxFrame {
		c.droppedSend.Add(1)
		return
	}
	m := &t.msg
	m.header = c.header
	m.peer = c.destination(t.frame)
	// Whatever the error is (no route, no interface, a firewall, a full
	// queue), it is one of the network now; the next frame may pass.
	if err := m.send(c.sockets.uni, t.frame); err != nil {
		c.droppedSend.Add(1)
	}
}

// destination returns where a frame is sent.
func (c *vxvdeConn) destination(frame []byte) sockaddr {
	dst, _ := macs(frame)
	if dst.isMulticast() {
		return c.sockets.group
	}
	now := c.now()
	c.mu.Lock()
	peer, ok := c.table.lookup(dst, now)
	c.mu.Unlock()
	if !ok {
		return c.sockets.group
	}
	return peer
}

// Close tells the others that the endpoint leaves.
func (c *vxvdeConn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		c.file.close()
		bye := &message{header: c.header, peer: c.sockets.group}
		bye.send(c.sockets.uni, nil) // as any packet it may be lost
		c.self.close()
		c.sockets.close()
	})
	return nil
}
