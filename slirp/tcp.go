package slirp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// dialTimeout is how long a host may take to answer: about as long as guests
	// wait.
	dialTimeout = 2 * time.Minute
	// nameTimeout is how long a name server may, if there is another.
	nameTimeout = 5 * time.Second
	// A guest that says nothing for keepIdle is asked, and given up after keepCount
	// questions: its connection would stay for ever.
	keepIdle, keepInterval, keepCount = 2 * time.Minute, 30 * time.Second, 6
)

// conns are the sockets of TCP that are open, and the places for others.
type conns struct {
	tasks *sync.WaitGroup // has one more for each place that is taken

	mu     sync.Mutex // guards the fields below
	open   map[io.Closer]struct{}
	places int
	closed bool
}

func (c *conns) init(places int, tasks *sync.WaitGroup) {
	c.open, c.places, c.tasks = make(map[io.Closer]struct{}), places, tasks
}

// take takes a place, unless there is none.
func (c *conns) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.places == 0 {
		return false
	}
	c.places--
	c.tasks.Add(1)
	return true
}

func (c *conns) giveBack() {
	c.mu.Lock()
	c.places++
	c.mu.Unlock()
	c.tasks.Done()
}

// add notes a socket, so that close closes it. After close it does so itself, and
// reports false.
func (c *conns) add(s io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		s.Close()
		return false
	}
	c.open[s] = struct{}{}
	return true
}

func (c *conns) remove(s io.Closer) {
	s.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
}

func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	var all sync.WaitGroup
	for s := range open {
		all.Go(func() { s.Close() }) // a command takes its time
	}
	all.Wait()
}

// A stream is a socket of the host.
type stream interface {
	net.Conn
	CloseWrite() error
}

// connect makes the connection that a guest asks for: to the host's side first, so
// that the guest is refused where the host is.
func (n *nat) connect(r *tcp.ForwarderRequest) {
	if !n.conns.take() {
		r.Complete(true)
		return
	}
	defer n.conns.giveBack()
	id := r.ID()
	out, err := n.dialOut(netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort))
	if err != nil {
		r.Complete(true)
		return
	}
	if !n.conns.add(out) {
		r.Complete(true)
		return
	}
	defer n.conns.remove(out)
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		breakOff(out)
		r.Complete(true)
		return
	}
	r.Complete(false)
	n.join(gonet.NewTCPConn(&wq, ep), ep, out)
}

// dialOut connects to what a guest means with an address.
func (n *nat) dialOut(dst netip.AddrPort) (stream, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	for _, s := range n.cfg.services {
		if s.at == dst {
			return s.dial(ctx)
		}
	}
	to, ok := n.outside(dst)
	if !ok {
		return nil, fmt.Errorf("%s is not to be reached", dst)
	}
	if n.isNameServer(dst) {
		return dialTCP(ctx, n.names.all(), nameTimeout)
	}
	return dialTCP(ctx, []netip.AddrPort{to}, dialTimeout)
}

// dialTCP connects to the first of some servers that answers in time.
func dialTCP(ctx context.Context, servers []netip.AddrPort, each time.Duration) (stream, error) {
	var err error
	d := net.Dialer{Timeout: each}
	for _, to := range servers {
		var c net.Conn
		if c, err = d.DialContext(ctx, "tcp", to.String()); err == nil {
			return c.(stream), nil
		}
	}
	return nil, err
}

// join copies between a guest and a socket of the host until both directions have
// ended, or one is broken.
func (n *nat) join(guest *gonet.TCPConn, ep tcpip.Endpoint, out stream) {
	defer guest.Close()
	idle, interval := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	ep.SocketOptions().SetKeepAlive(true)

	broken := func() {
		// Who has not got all learns it.
		ep.Abort()
		breakOff(out)
	}
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(out, guest); err != nil || out.CloseWrite() != nil {
			broken()
		}
	})
	if _, err := io.Copy(guest, out); err != nil || guest.CloseWrite() != nil {
		broken()
	}
	both.Wait()
}

// breakOff closes a socket so that the other side learns that something is missing.
func breakOff(s stream) {
	if c, ok := s.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	s.Close()
}

// forwardTCP leads connections to a port of the host to a guest.
func (n *nat) forwardTCP(ctx context.Context, f forward) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp"+familyOf(f.host.Addr()), f.host.String())
	if err != nil {
		return err
	}
	n.conns.add(l)
	n.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if n.ctx.Err() != nil {
				return
			}
			if err != nil {
				// Descriptors are missing: others need them too.
				select {
				case <-n.ctx.Done():
				case <-time.After(acceptPause):
				}
				continue
			}
			n.tasks.Go(func() { n.accept(c.(*net.TCPConn), f.guest) })
		}
	})
	return nil
}

// acceptPause is how long nothing is accepted after an error.
const acceptPause = 100 * time.Millisecond

// accept leads a connection to a guest. The guest sees who it is, with their port
// where that is free.
func (n *nat) accept(c *net.TCPConn, guest netip.AddrPort) {
	if !n.conns.take() {
		breakOff(c)
		return
	}
	defer n.conns.giveBack()
	if !n.conns.add(c) {
		return
	}
	defer n.conns.remove(c)
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	from := n.client(c.RemoteAddr().(*net.TCPAddr).AddrPort(), guest.Addr())
	in, ep, err := n.dialIn(ctx, from, guest)
	if err != nil {
		breakOff(c)
		return
	}
	n.join(in, ep, c)
}

// client returns how a guest sees who connects to a forward: as they are, if the
// guest's family has such addresses.
func (n *nat) client(from netip.AddrPort, guest netip.Addr) netip.AddrPort {
	if a, ok := n.inside(from, guest); ok {
		return a
	}
	return netip.AddrPortFrom(n.cfg.network(guest).Addr(), from.Port())
}

// dialIn connects to a guest, from another port where that of from is taken.
func (n *nat) dialIn(ctx context.Context, from, guest netip.AddrPort) (*gonet.TCPConn, tcpip.Endpoint, error) {
	var wq waiter.Queue
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(guest.Addr()), &wq)
	if err != nil {
		return nil, nil, errorOf(err)
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err = ep.Bind(fullAddress(from)); err != nil {
		err = ep.Bind(fullAddress(netip.AddrPortFrom(from.Addr(), 0)))
	}
	if err == nil {
		err = ep.Connect(fullAddress(guest))
	}
	if _, ok := err.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			err = &tcpip.ErrTimeout{}
		}
	}
	if err != nil {
		ep.Abort()
		ep.Close()
		return nil, nil, errorOf(err)
	}
	return gonet.NewTCPConn(&wq, ep), ep, nil
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: addressOf(a.Addr()), Port: a.Port()}
}

// familyOf returns what is added to a network's name for an address.
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}
