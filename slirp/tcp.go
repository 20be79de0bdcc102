package slirp

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/backoff"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// dialTimeout is how long a host may take to answer, about as long as guests wait.
	dialTimeout = 2 * time.Minute
	// nameTimeout is how long a name server may take.
	nameTimeout = 5 * time.Second
	// handshakeTimeout is how long a guest may take to complete a handshake.
	handshakeTimeout = 30 * time.Second
	// Keep-alive probes begin after keepIdle without packets. The connection of a guest
	// that is gone would stay otherwise.
	keepIdle, keepInterval, keepCount = 2 * time.Minute, 30 * time.Second, 6
	// stallTime is how often a write to a guest that reads nothing looks whether the host
	// has reset the connection, from which nobody reads meanwhile.
	stallTime = time.Second
)

// conns are the places for TCP connections. An attempt takes a place, which it keeps as a
// connection until that has ended.
type conns struct {
	tasks *sync.WaitGroup // counts the places that are taken
	// handshake is how long a guest may take to complete one.
	handshake time.Duration

	mu      sync.Mutex                             // guards the fields below
	places  int                                    // that are free
	made    list.List                              // attempts that are not connections yet, the oldest first
	maxMade int                                    // limit of made, which leaves places to others
	asked   map[stack.TransportEndpointID]*attempt // attempts that guests have asked for
	closed  bool
}

// An attempt is a connection that is being made, from or to a guest.
type attempt struct {
	ctx    context.Context // ends when it is given up
	cancel context.CancelFunc
	// id and syn are the connection that a guest has asked for, and the packet.
	id    stack.TransportEndpointID
	syn   []byte
	entry *list.Element // of conns.made; nil once it is a connection or was given up
}

func (c *conns) init(places int, tasks *sync.WaitGroup) {
	c.asked, c.places, c.tasks = make(map[stack.TransportEndpointID]*attempt), places, tasks
	c.maxMade = max(places/4, 1)
	c.handshake = handshakeTimeout
}

// begin takes a place for an attempt; for a guest that asks in the packet syn, unless that
// attempt has begun already. If there are too many attempts it gives up the oldest, so that
// those whose peers answer get through. If it returns no attempt, soon says whether
// there will be a place.
func (c *conns) begin(ctx context.Context, id stack.TransportEndpointID, syn []byte) (a *attempt, soon bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked[id] != nil {
		return nil, true
	}
	if first := c.made.Front(); first != nil && (c.places == 0 || c.made.Len() >= c.maxMade) {
		old := c.made.Remove(first).(*attempt)
		old.entry = nil
		old.cancel()
		soon = true
	}
	if c.closed || c.places == 0 {
		return nil, soon
	}
	a = &attempt{id: id, syn: syn}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.entry = c.made.PushBack(a)
	if syn != nil {
		c.asked[id] = a
	}
	c.places--
	c.tasks.Add(1)
	return a, true
}

func (c *conns) of(id stack.TransportEndpointID) *attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[id]
}

// succeed turns an attempt into a connection. It returns false if the attempt was given
// up.
func (c *conns) succeed(a *attempt) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forget(a)
}

func (c *conns) forget(a *attempt) bool {
	if c.asked[a.id] == a {
		delete(c.asked, a.id)
	}
	if a.entry == nil {
		return false
	}
	c.made.Remove(a.entry)
	a.entry = nil
	return true
}

// end frees the place of an attempt, or of the connection that it became.
func (c *conns) end(a *attempt) {
	a.cancel()
	c.mu.Lock()
	c.forget(a)
	c.places++
	c.mu.Unlock()
	c.tasks.Done()
}

// close has begin return no more attempts.
func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// closeAtEnd closes a socket when the plug is closed, or when end is called. The socket is
// closed when end returns, whoever closes it.
func (n *nat) closeAtEnd(s io.Closer) (end func()) {
	closed := make(chan struct{})
	stop := context.AfterFunc(n.ctx, func() {
		defer close(closed)
		s.Close()
	})
	return func() {
		if stop() {
			s.Close()
			return
		}
		<-closed
	}
}

// A stream is a socket of the host.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// segment handles a segment that belongs to no connection. If it returns false, the stack
// answers with a reset.
func (n *nat) segment(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := pkt.TransportHeader().Slice()
	if len(h) < header.TCPMinimumSize || header.TCP(h).Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	a, soon := n.conns.begin(n.ctx, id, slices.Concat(pkt.NetworkHeader().Slice(), h))
	if a == nil {
		return soon // the guest asks again after a second
	}
	if !n.forwarder.HandlePacket(id, pkt) { // the checksum is wrong
		n.conns.end(a)
		return false
	}
	return true
}

// connect makes the connection that a guest asks for. It connects on the host's side
// first, so that the guest is refused if the host is.
func (n *nat) connect(r *tcp.ForwarderRequest) {
	id := r.ID()
	a := n.conns.of(id)
	defer n.conns.end(a)
	out, err := n.dialOut(a.ctx, netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort))
	if err != nil {
		if a.late(err) || n.tell(addrOf(id.RemoteAddress), err, a.syn) {
			r.Complete(false)
		} else {
			r.Complete(true)
		}
		return
	}
	defer n.closeAtEnd(out)()
	var wq waiter.Queue
	ep := n.handshake(a, r, &wq)
	if ep == nil {
		breakOff(out)
		r.Complete(a.ctx.Err() == nil)
		return
	}
	r.Complete(false)
	if !n.conns.succeed(a) {
		ep.Abort()
		ep.Close()
		breakOff(out)
		return
	}
	n.join(&wq, ep, out)
}

// late reports whether an attempt took too long or was given up. The guest then gets no
// answer: it decides itself how long to wait, and may ask again.
func (a *attempt) late(err error) bool {
	var timeout net.Error
	return a.ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout()
}

// abortInterval is the pause of handshake before it aborts again.
const abortInterval = 10 * time.Millisecond

// handshake answers a guest, and waits until the handshake is complete. It returns nil if
// it does not become so.
func (n *nat) handshake(a *attempt, r *tcp.ForwarderRequest, wq *waiter.Queue) tcpip.Endpoint {
	ctx, cancel := context.WithTimeout(a.ctx, n.conns.handshake)
	defer cancel()
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		// CreateEndpoint may only be about to wait, so this is repeated.
		for {
			if e, ok := n.stack.FindTransportEndpoint(protocolOf(addrOf(a.id.RemoteAddress)), tcp.ProtocolNumber, a.id, nic).(tcpip.Endpoint); ok {
				e.Abort()
			}
			select {
			case <-done:
				return
			case <-time.After(abortInterval):
			}
		}
	})
	ep, err := r.CreateEndpoint(wq)
	close(done)
	watch.Wait()
	if err != nil {
		return nil
	}
	if ctx.Err() != nil {
		ep.Abort()
		ep.Close()
		return nil
	}
	return ep
}

// dialOut connects to the host or service behind an address of the network.
func (n *nat) dialOut(ctx context.Context, dst netip.AddrPort) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
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
		return n.dialName(ctx)
	}
	return dialTCP(ctx, to, dialTimeout)
}

func dialTCP(ctx context.Context, to netip.AddrPort, timeout time.Duration) (stream, error) {
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(stream), nil
}

// dialName connects to the first name server of the host that accepts in time.
func (n *nat) dialName(ctx context.Context) (_ stream, err error) {
	order, probes := n.names.order("tcp", netip.AddrPort{})
	for _, s := range probes {
		n.tasks.Go(func() { n.probe(s) })
	}
	for _, s := range order {
		var c stream
		if c, err = n.dialNameAt(ctx, s); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (n *nat) dialNameAt(ctx context.Context, server netip.AddrPort) (stream, error) {
	n.names.asked("tcp", server)
	c, err := dialTCP(ctx, server, nameTimeout)
	if err != nil {
		return nil, err
	}
	n.names.connected(server)
	return &nameConn{stream: c, names: &n.names, server: server}, nil
}

// probeQuestion is a question for the name servers of the root, preceded by its length.
const probeQuestion = "\x00\x11" + "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + "\x00\x00\x02\x00\x01"

// probe checks whether a silent name server answers again.
func (n *nat) probe(server netip.AddrPort) {
	c, err := n.dialNameAt(n.ctx, server)
	if err != nil {
		return
	}
	defer n.closeAtEnd(c)()
	c.SetDeadline(time.Now().Add(nameTimeout))
	io.WriteString(c, probeQuestion)
	c.Read(make([]byte, 1)) // any answer counts
}

// A nameConn is a connection to a name server, which records whether that answers.
type nameConn struct {
	stream
	names  *nameservers
	server netip.AddrPort
}

func (c *nameConn) Write(b []byte) (int, error) {
	c.names.asked("tcp", c.server)
	return c.stream.Write(b)
}

func (c *nameConn) Read(b []byte) (int, error) {
	size, err := c.stream.Read(b)
	if size > 0 {
		c.names.answered("tcp", c.server)
	}
	return size, err
}

func (c *nameConn) SetLinger(sec int) error { return c.stream.(*net.TCPConn).SetLinger(sec) }

// join copies between a guest and a socket of the host until both directions have
// ended or one side has broken the connection off.
func (n *nat) join(wq *waiter.Queue, ep tcpip.Endpoint, out stream) {
	guest := gonet.NewTCPConn(wq, ep)
	defer guest.Close()
	defer context.AfterFunc(n.ctx, ep.Abort)()
	idle, interval := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	ep.SocketOptions().SetKeepAlive(true)

	// A reset by the guest ends all, also while the host reads nothing.
	var finished atomic.Bool // what the host sends
	failed := func() bool {
		s := tcp.EndpointState(ep.State())
		return s == tcp.StateError || s == tcp.StateClose && !finished.Load()
	}
	entry := waiter.NewFunctionEntry(waiter.EventErr, func(waiter.EventMask) {
		if failed() { // the event is that of a normal end too
			n.tasks.Go(func() { breakOff(out) }) // the caller holds locks
		}
	})
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if failed() {
		breakOff(out)
	}

	broken := func() {
		// Both sides get a reset, so that they know that data is missing.
		ep.Abort()
		breakOff(out)
	}
	var ended atomic.Int32 // directions
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(out, guest); err != nil || out.CloseWrite() != nil {
			broken()
		} else if ended.Add(1) == 2 {
			out.SetReadDeadline(time.Unix(1, 0)) // ends untilReset
		}
	})
	guest.SetWriteDeadline(time.Now().Add(stallTime))
	_, err := io.Copy(toGuest{guest, out}, out)
	finished.Store(err == nil)
	if err != nil || guest.CloseWrite() != nil {
		broken()
	} else if ended.Add(1) == 1 && untilReset(out) {
		broken()
	}
	both.Wait()
}

// A toGuest writes to a guest. It ends when the host resets the connection.
type toGuest struct {
	guest *gonet.TCPConn
	host  stream
}

func (g toGuest) Write(b []byte) (sent int, err error) {
	for {
		n, err := g.guest.Write(b[sent:])
		sent += n
		switch {
		case err == nil || !os.IsTimeout(err):
			return sent, err
		case isReset(g.host):
			return sent, syscall.ECONNRESET
		}
		g.guest.SetWriteDeadline(time.Now().Add(stallTime))
	}
}

// breakOff closes a socket with a reset, where there is one.
func breakOff(s stream) {
	if c, ok := s.(interface{ SetLinger(sec int) error }); ok {
		c.SetLinger(0)
	}
	s.Close()
}

// forwardTCP forwards connections from a port of the host to a guest.
func (n *nat) forwardTCP(ctx context.Context, f forward) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp"+familyOf(f.host.Addr()), f.host.String())
	if err != nil {
		return err
	}
	end := n.closeAtEnd(l)
	n.tasks.Go(func() {
		defer end()
		var errs backoff.Timer
		for {
			c, err := l.Accept()
			if n.ctx.Err() != nil {
				return
			}
			if err != nil {
				errs.Wait(n.ctx) // the program has run out of descriptors
				continue
			}
			errs.Reset()
			n.tasks.Go(func() { n.accept(c.(*net.TCPConn), f.guest) })
		}
	})
	return nil
}

// accept forwards a connection to a guest. The guest sees the client's address, and its
// port if that is free.
func (n *nat) accept(c *net.TCPConn, guest netip.AddrPort) {
	a, _ := n.conns.begin(n.ctx, stack.TransportEndpointID{}, nil)
	if a == nil {
		breakOff(c)
		return
	}
	defer n.conns.end(a)
	defer n.closeAtEnd(c)()
	ctx, cancel := context.WithTimeout(a.ctx, dialTimeout)
	defer cancel()
	from := n.client(c.RemoteAddr().(*net.TCPAddr).AddrPort(), guest.Addr())
	wq, ep, err := n.dialIn(ctx, from, guest)
	if err != nil {
		breakOff(c)
		return
	}
	if !n.conns.succeed(a) {
		ep.Abort()
		ep.Close()
		breakOff(c)
		return
	}
	n.join(wq, ep, c)
}

// client returns how a guest sees the client of a forward: by its own address if that is
// of the guest's family, else by the host's.
func (n *nat) client(from netip.AddrPort, guest netip.Addr) netip.AddrPort {
	if a, ok := n.inside(from, guest); ok {
		return a
	}
	return netip.AddrPortFrom(n.cfg.network(guest).Addr(), from.Port())
}

// dialIn connects to a guest, from another port if that of from is taken.
func (n *nat) dialIn(ctx context.Context, from, guest netip.AddrPort) (*waiter.Queue, tcpip.Endpoint, error) {
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
	return &wq, ep, nil
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: addressOf(a.Addr()), Port: a.Port()}
}

// familyOf returns the suffix of a network's name ("tcp4") for an address.
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}
