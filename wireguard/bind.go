package wireguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// A bind has the encrypted sockets of a tunnel.
type bind struct {
	conn.Bind // a stackBind or, on the host, wireguard-go's own, which sends many packets by one call

	keepalives atomic.Uint64 // that were sent
	sent       chan struct{} // has room for one; gets one with each of them
}

func newBind(of conn.Bind) *bind { return &bind{Bind: of, sent: make(chan struct{}, 1)} }

// Send implements [conn.Bind].
func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	err := b.send(bufs, to)
	for _, buf := range bufs {
		if len(buf) == device.MessageKeepaliveSize && buf[0] == device.MessageTransportType {
			b.keepalives.Add(1)
			select {
			case b.sent <- struct{}{}:
			default:
			}
		}
	}
	return err
}

// send sends packets, and some again that the kernel refuses:
//
//   - What does not fit the way to the peer, packet by packet: of those that are sent together
//     (UDP_SEGMENT) it makes no fragments.
//   - What would leave from an address that this end does not have any more, from any. The device
//     takes the address from the last packet of the peer, which may have been under way when
//     watchUnderlay saw the change.
func (b *bind) send(bufs [][]byte, to conn.Endpoint) error {
	err := b.Bind.Send(bufs, to)
	switch large := errors.Is(err, syscall.EMSGSIZE); {
	case err == nil:
	case len(bufs) > 1 && (large || errors.Is(err, syscall.EINVAL)): // EINVAL before Linux 6.13
		err = nil
		for _, buf := range bufs {
			err = cmp.Or(err, b.send([][]byte{buf}, to))
		}
	case !large && to.SrcIP().IsValid():
		if anyhow, perr := b.ParseEndpoint(to.DstToString()); perr == nil {
			err = b.Bind.Send(bufs, anyhow)
		}
	}
	return err
}

// SetMark implements [conn.Bind]. There are no marks: a new one has the device forget from which
// addresses it sends, see watchUnderlay.
func (b *bind) SetMark(uint32) error { return nil }

// flushTime is how long the end of a device waits for what it has read to be sent.
const flushTime = time.Second

// flush waits until the device has sent what it has read, such as the last packets of
// connections: a keepalive that follows them was sent to each of the peers. It is called once,
// by who reads for the device.
func (t *Tunnel) flush() {
	defer close(t.flushed)
	want := t.bind.keepalives.Load()
	for _, k := range *t.live.Swap(new([]PublicKey)) {
		if p := t.dev.LookupPeer(device.NoisePublicKey(k)); p != nil {
			p.SendKeepalive()
			want++
		}
	}
	limit := time.After(flushTime)
	for t.bind.keepalives.Load() < want {
		select {
		case <-t.bind.sent:
		case <-limit:
			return
		}
	}
}

// awaitFlush waits for flush when the stack is closed: the device drops what it has read when it
// is closed before.
func (t *Tunnel) awaitFlush() {
	select {
	case <-t.flushed:
	case <-t.dev.Wait(): // it had ended before
	case <-time.After(flushTime):
	}
}

// note notes the peers that have keys in common with this end, for flush. While the interface is
// down there are none: the device has stopped its peers, which send nothing.
func (t *Tunnel) note(context.Context) {
	all, _ := t.Peers() // an error is the end
	if l, err := t.nl.Link(t.index); err == nil && l.Flags&net.FlagUp == 0 {
		all = nil
	}
	live := new([]PublicKey)
	for _, p := range all {
		if time.Since(p.LastHandshake) < device.RejectAfterTime {
			*live = append(*live, p.PublicKey)
		}
	}
	t.live.Store(live)
}

// watchUnderlay has the device choose its source addresses anew when those or the routes of the
// encrypted socket's network change, as it does itself only for sockets of the host that are not
// wrapped.
func (t *Tunnel) watchUnderlay(nl *rtnl.Conn) {
	defer nl.Close()
	mark := uint32(1)
	for e, err := range nl.Watch(t.ctx) {
		if e.Route != nil || e.Addr != nil || e.Link != nil || err != nil {
			mark ^= 3 // 2, 1, …
			t.dev.BindSetMark(mark)
		}
	}
}

// A stackBind has the encrypted sockets in a stack.
type stackBind struct {
	st *vdestack.Stack
	// inner is the number of the tunnel's interface if that is in the same stack. What comes
	// by it is ignored: a peer that seems to be behind the tunnel would have encrypted packets
	// encrypted again, for ever.
	inner int

	mu      sync.Mutex // guards sockets
	sockets [2]*socket // of IPv4 and IPv6, each nil if there is none
}

var _ conn.Bind = (*stackBind)(nil)

// A socket reads and writes batches of datagrams. They are the same for both families.
type socket struct {
	*net.UDPConn
	batches interface {
		ReadBatch([]ipv6.Message, int) (int, error)
		WriteBatch([]ipv6.Message, int) (int, error)
	}
	// source returns the local address and interface in a control message, and control the
	// message that has a datagram leave from them.
	source  func(oob []byte) (netip.Addr, int)
	control func(src netip.Addr, index int) []byte
	inner   int       // of stackBind
	pool    sync.Pool // of *[]ipv6.Message
}

// controlSize is enough for the control message of both families.
const controlSize = 64

// maxPorts is how many free ports of IPv4 are tried for one that is free in IPv6 too.
const maxPorts = 100

// Open implements [conn.Bind].
func (b *stackBind) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sockets != [2]*socket{} {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for range maxPorts {
		actual, err = b.open(port)
		if port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, 0, err
	}
	for _, s := range b.sockets {
		if s != nil {
			fns = append(fns, s.receive)
		}
	}
	return fns, actual, nil
}

// open opens a socket of each family that the stack has, on the same port.
func (b *stackBind) open(port uint16) (uint16, error) {
	for i, network := range []string{"udp4", "udp6"} {
		c, err := b.st.ListenPacket(network, ":"+strconv.Itoa(int(port)))
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			continue // such as with net.ipv6.conf.all.disable_ipv6
		}
		if err == nil {
			u := c.(*net.UDPConn)
			port = u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			b.sockets[i], err = newSocket(u, network == "udp6")
			b.sockets[i].inner = b.inner
		}
		if err != nil {
			b.close()
			return 0, err
		}
	}
	if b.sockets == [2]*socket{} {
		return 0, fmt.Errorf("%s has neither IPv4 nor IPv6: %w", b.st.Name(), syscall.EAFNOSUPPORT)
	}
	return port, nil
}

func newSocket(u *net.UDPConn, is6 bool) (*socket, error) {
	s := &socket{UDPConn: u}
	s.pool.New = func() any {
		msgs := make([]ipv6.Message, conn.IdealBatchSize)
		for i := range msgs {
			msgs[i] = ipv6.Message{Buffers: make([][]byte, 1), OOB: make([]byte, controlSize)}
		}
		return &msgs
	}
	if is6 {
		c := ipv6.NewPacketConn(u)
		s.batches = c
		s.source = func(oob []byte) (netip.Addr, int) {
			var m ipv6.ControlMessage
			if m.Parse(oob) != nil {
				return netip.Addr{}, 0
			}
			a, _ := netip.AddrFromSlice(m.Dst)
			return a, m.IfIndex
		}
		s.control = func(src netip.Addr, index int) []byte {
			return (&ipv6.ControlMessage{Src: src.AsSlice(), IfIndex: index}).Marshal()
		}
		return s, c.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	c := ipv4.NewPacketConn(u)
	s.batches = c
	s.source = func(oob []byte) (netip.Addr, int) {
		var m ipv4.ControlMessage
		if m.Parse(oob) != nil {
			return netip.Addr{}, 0
		}
		a, _ := netip.AddrFromSlice(m.Dst.To4())
		return a, m.IfIndex
	}
	s.control = func(src netip.Addr, index int) []byte {
		return (&ipv4.ControlMessage{Src: src.AsSlice(), IfIndex: index}).Marshal()
	}
	return s, c.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
}

// receive is a [conn.ReceiveFunc].
func (s *socket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	pooled := s.pool.Get().(*[]ipv6.Message)
	defer s.pool.Put(pooled)
	msgs := (*pooled)[:min(len(bufs), len(*pooled))]
	for i := range msgs {
		msgs[i].Buffers[0], msgs[i].OOB = bufs[i], msgs[i].OOB[:controlSize]
	}
	n, err := s.batches.ReadBatch(msgs, 0)
	if err != nil {
		return 0, err
	}
	for i, m := range msgs[:n] {
		e := &endpoint{AddrPort: unmapped(m.Addr.(*net.UDPAddr).AddrPort())}
		e.src, e.index = s.source(m.OOB[:m.NN])
		sizes[i], eps[i] = m.N, e
		if s.inner != 0 && e.index == s.inner {
			sizes[i] = 0 // which the device ignores
		}
	}
	return n, nil
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Send implements [conn.Bind].
func (b *stackBind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	i := 0
	if e.Addr().Is6() {
		i = 1
	}
	b.mu.Lock()
	s := b.sockets[i]
	b.mu.Unlock()
	if s == nil {
		return fmt.Errorf("no socket can send to %v: %w", e.AddrPort, syscall.EAFNOSUPPORT)
	}
	pooled := s.pool.Get().(*[]ipv6.Message)
	defer s.pool.Put(pooled)
	addr := net.UDPAddrFromAddrPort(e.AddrPort)
	var control []byte
	if src := e.SrcIP(); src.IsValid() {
		control = s.control(src, e.index)
	}
	for len(bufs) > 0 {
		msgs := (*pooled)[:min(len(bufs), len(*pooled))]
		for i := range msgs {
			m := &msgs[i]
			m.Addr, m.Buffers[0], m.OOB = addr, bufs[i], m.OOB[:copy(m.OOB[:controlSize], control)]
		}
		n, err := s.batches.WriteBatch(msgs, 0)
		if err != nil {
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

// Close implements [conn.Bind].
func (b *stackBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

func (b *stackBind) close() (err error) {
	for i, s := range b.sockets {
		if s != nil {
			err = errors.Join(err, ignoreClosed(s.Close())) // with the stack
		}
		b.sockets[i] = nil
	}
	return err
}

// SetMark implements [conn.Bind]. There are no marks.
func (b *stackBind) SetMark(uint32) error { return nil }

// BatchSize implements [conn.Bind].
func (b *stackBind) BatchSize() int { return conn.IdealBatchSize }

// ParseEndpoint implements [conn.Bind].
func (b *stackBind) ParseEndpoint(text string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	return &endpoint{AddrPort: a}, nil
}

// An endpoint is where a peer is, and where its last packet came in, from where answers leave.
type endpoint struct {
	netip.AddrPort
	src   netip.Addr
	index int // of the interface
	// cleared is set while packets are sent to the endpoint by other goroutines.
	cleared atomic.Bool
}

var _ conn.Endpoint = (*endpoint)(nil)

// ClearSrc implements [conn.Endpoint].
func (e *endpoint) ClearSrc() { e.cleared.Store(true) }

// SrcToString implements [conn.Endpoint].
func (e *endpoint) SrcToString() string { return e.SrcIP().String() }

// DstToString implements [conn.Endpoint].
func (e *endpoint) DstToString() string { return e.AddrPort.String() }

// DstToBytes implements [conn.Endpoint].
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.MarshalBinary()
	return b
}

// DstIP implements [conn.Endpoint].
func (e *endpoint) DstIP() netip.Addr { return e.Addr() }

// SrcIP implements [conn.Endpoint].
func (e *endpoint) SrcIP() netip.Addr {
	if e.cleared.Load() {
		return netip.Addr{}
	}
	return e.src
}
