package slirp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// How long the flow of a silent port is kept, as in the C library.
const (
	udpIdle  = 240 * time.Second
	dnsIdle  = 10 * time.Second // for a port that asks name servers only
	pingIdle = 10 * time.Second
)

const (
	maxDatagram = 65535
	// maxNames is how many names a flow remembers: for a forward, one for each client.
	maxNames = 1024
	udpTTL   = 64
)

// A flowKey is a port of a guest, or the identifier of its ping.
type flowKey struct {
	ping  bool
	guest netip.AddrPort
}

// A flow is the socket of the host for a port of a guest. Everybody who sends to that
// socket reaches the guest, as with the C library.
type flow struct {
	n     *nat
	key   flowKey
	conn  *net.UDPConn
	fixed bool // a forward, which does not end

	until atomic.Int64 // when it ends, in nanoseconds since started

	mu sync.Mutex // guards the fields below
	// names translates addresses outside to the guest's names for them, where they
	// differ; for clients of a forward also the other way.
	names  map[netip.AddrPort]netip.AddrPort
	asked  uint16         // identifier of the last question for a name server
	server netip.AddrPort // the server that got it
}

// flows are all flows, by key.
type flows struct {
	mu     sync.Mutex // guards the fields below
	open   map[flowKey]*flow
	max    int
	closed bool
}

func (fs *flows) init(max int) { fs.open, fs.max = make(map[flowKey]*flow), max }

func (fs *flows) get(key flowKey) *flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.open[key]
}

var started = time.Now()

// keep keeps the flow for at least d.
func (f *flow) keep(d time.Duration) {
	until := int64(time.Since(started) + d)
	for {
		old := f.until.Load()
		if old >= until || f.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// find returns the flow of a key, or a new one with a socket from open. If there are too
// many, the one that would end first ends now.
func (n *nat) find(key flowKey, fixed bool, open func() (*net.UDPConn, error)) (*flow, error) {
	fs := &n.flows
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, net.ErrClosed
	}
	if f := fs.open[key]; f != nil {
		return f, nil
	}
	if len(fs.open) >= fs.max {
		var first *flow
		for _, f := range fs.open {
			if !f.fixed && (first == nil || f.until.Load() < first.until.Load()) {
				first = f
			}
		}
		if first == nil {
			return nil, fmt.Errorf("all %d places are taken", fs.max)
		}
		delete(fs.open, first.key)
		first.conn.Close()
	}
	conn, err := open()
	if err != nil {
		return nil, err
	}
	f := &flow{n: n, key: key, conn: conn, fixed: fixed, names: make(map[netip.AddrPort]netip.AddrPort)}
	f.keep(dnsIdle)
	fs.open[key] = f
	n.tasks.Go(f.receive)
	return f, nil
}

// end ends a flow, unless another has its place.
func (fs *flows) end(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.open[f.key] == f {
		delete(fs.open, f.key)
	}
	f.conn.Close()
}

func (fs *flows) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
	for _, f := range fs.open {
		f.conn.Close()
	}
}

// receive delivers what arrives for the guest, until the flow is idle or closed.
func (f *flow) receive() {
	defer f.n.flows.end(f)
	buf := make([]byte, maxDatagram)
	for {
		if !f.fixed {
			f.conn.SetReadDeadline(started.Add(time.Duration(f.until.Load())))
		}
		size, from, err := f.conn.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			f.deliver(from, buf[:size])
		case errors.Is(err, os.ErrDeadlineExceeded):
			if int64(time.Since(started)) >= f.until.Load() {
				return
			}
		case errors.Is(err, net.ErrClosed):
			return
		}
		// Any other error is about an earlier datagram of the guest.
	}
}

// deliver sends a datagram to the guest.
func (f *flow) deliver(from netip.AddrPort, data []byte) {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	src, ok := f.named(from)
	switch {
	case ok:
	case f.fixed:
		src = f.n.client(from, f.key.guest.Addr())
		f.name(src, from)
	default:
		if src, ok = f.n.inside(from, f.key.guest.Addr()); !ok {
			return
		}
	}
	if f.n.isNameServer(src) {
		f.n.names.answered("udp", from)
	}
	if src.Port() != dnsPort && !f.key.ping {
		f.keep(udpIdle)
	}
	if f.key.ping {
		f.n.writeEchoReply(src.Addr(), f.key.guest, data)
		return
	}
	f.n.writeUDP(src, f.key.guest, data)
}

func (f *flow) named(a netip.AddrPort) (netip.AddrPort, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.names[a]
	return b, ok
}

func (f *flow) name(a, b netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) >= maxNames {
		clear(f.names)
	}
	f.names[a] = b
}

// send sends a guest's datagram for dst to the address to. It does not wait.
func (f *flow) send(dst, to netip.AddrPort, data []byte) error {
	plain := netip.AddrPortFrom(to.Addr().WithZone(""), to.Port())
	if back, ok := f.n.inside(plain, dst.Addr()); !ok || back != dst {
		f.name(plain, dst)
	}
	return sendNow(f.conn, data, to)
}

// ask sends a question to a name server of the host: the first that is not silent and
// can be reached or, for a repeated question, the next.
func (f *flow) ask(dst netip.AddrPort, question []byte) {
	id := uint16(0)
	if len(question) >= 2 {
		id = binary.BigEndian.Uint16(question)
	}
	f.mu.Lock()
	var before netip.AddrPort
	if id == f.asked {
		before = f.server
	}
	f.mu.Unlock()
	names := &f.n.names
	order, probes := names.order("udp", before)
	for _, s := range probes {
		f.send(dst, s, question)
	}
	for _, s := range order {
		if slices.Contains(probes, s) {
			continue // it could not be reached
		}
		names.asked("udp", s)
		if f.send(dst, s, question) == nil {
			f.mu.Lock()
			f.asked, f.server = id, s
			f.mu.Unlock()
			return
		}
	}
}

// datagram handles a datagram of a guest. If it returns false, the stack tells the guest
// that the port is closed.
func (n *nat) datagram(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	guest := netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	h := header.UDP(pkt.TransportHeader().Slice())
	data := pkt.Data().AsRange().ToSlice()
	if size := int(h.Length()) - header.UDPMinimumSize; 0 <= size && size < len(data) {
		data = data[:size]
	}
	length, sum := header.UDPValid(h,
		func() uint16 { return checksum.Checksum(data, 0) }, uint16(len(data)),
		pkt.NetworkProtocolNumber, id.RemoteAddress, id.LocalAddress, false)
	if !length || !sum {
		return true
	}
	switch {
	case dst.Addr().Is4() && dst.Port() == dhcpServerPort && (dst.Addr() == n.cfg.host.Addr() || dst.Addr() == limitedBroadcast):
		n.serveDHCP(data)
		return true
	case n.tftp.root != nil && dst == netip.AddrPortFrom(n.cfg.network(dst.Addr()).Addr(), tftpPort):
		if reply := n.tftp.answer(guest, data); reply != nil {
			n.writeUDP(dst, guest, reply)
		}
		return true
	case !usable(n.cfg.network(guest.Addr()), guest.Addr()) || dst.Addr().IsMulticast() || dst.Addr() == limitedBroadcast || dst.Addr() == broadcast(n.cfg.host):
		return true
	}
	key := flowKey{guest: guest}
	if f := n.flows.get(key); f != nil && f.fixed {
		if to, ok := f.named(dst); ok { // an answer
			f.send(dst, to, data)
			return true
		}
	}
	to, ok := n.outside(dst)
	if !ok {
		return false
	}
	f, err := n.find(key, false, func() (*net.UDPConn, error) { return net.ListenUDP("udp", nil) })
	if err != nil {
		return false
	}
	switch {
	case dst.Port() != dnsPort:
		f.keep(udpIdle)
	default:
		f.keep(dnsIdle)
		if n.isNameServer(dst) {
			f.ask(dst, data)
			return true
		}
	}
	if err := f.send(dst, to, data); err != nil {
		n.tell(guest.Addr(), err, slices.Concat(pkt.NetworkHeader().Slice(), h, data))
	}
	return true
}

// writeUDP sends a datagram to a guest.
func (n *nat) writeUDP(src, dst netip.AddrPort, data []byte) {
	size := header.UDPMinimumSize + len(data)
	if size > maxDatagram-header.IPv4MinimumSize {
		return // too long for IPv4
	}
	n.write(src.Addr(), dst.Addr(), udp.ProtocolNumber, udpTTL, header.UDPMinimumSize, data, func(r *stack.Route, b []byte) {
		h := header.UDP(b)
		h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(size)})
		sum := checksum.Checksum(data, r.PseudoHeaderChecksum(udp.ProtocolNumber, uint16(size)))
		if sum = ^h.CalculateChecksum(sum); sum == 0 {
			sum = 0xffff // 0 means no checksum
		}
		h.SetChecksum(sum)
	})
}

// ping handles ICMP messages. The host makes the echo requests to hosts beyond the
// network; the stack answers those to its own addresses, for which ping returns false.
func (n *nat) ping(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	guest, dst := addrOf(id.RemoteAddress), addrOf(id.LocalAddress)
	if n.cfg.own(dst) {
		return false
	}
	view := stack.PayloadSince(pkt.TransportHeader())
	defer view.Release()
	msg := view.AsSlice()
	echo := byte(header.ICMPv4Echo)
	if guest.Is6() {
		echo = byte(header.ICMPv6EchoRequest)
	}
	if len(msg) < icmpHeaderLen || msg[0] != echo || n.cfg.restricted || !n.foreign(dst) || !usable(n.cfg.network(guest), guest) {
		return true
	}
	key := flowKey{ping: true, guest: netip.AddrPortFrom(guest, binary.BigEndian.Uint16(msg[4:]))}
	packet := slices.Concat(pkt.NetworkHeader().Slice(), msg)
	f, err := n.find(key, false, func() (*net.UDPConn, error) { return listenPing(guest.Is6()) })
	if err != nil {
		n.writeUnreachable(guest, prohibited, packet)
		return true
	}
	f.keep(pingIdle)
	to := netip.AddrPortFrom(dst, 0)
	if err := f.send(to, to, msg); err != nil {
		n.tell(guest, err, packet)
	}
	return true
}

// An unreachable is a code of "destination unreachable", for both versions of ICMP.
type unreachable struct {
	v4 header.ICMPv4Code
	v6 header.ICMPv6Code
}

var (
	noNetwork  = unreachable{header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable}
	noHost     = unreachable{header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable}
	prohibited = unreachable{header.ICMPv4AdminProhibited, header.ICMPv6Prohibited}
)

// unreachableOf returns what a guest is told for an error of the host's socket.
func unreachableOf(err error) (_ unreachable, ok bool) {
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EINVAL): // of a blackhole route
		return noNetwork, true
	case errors.Is(err, syscall.EHOSTUNREACH):
		return noHost, true
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return prohibited, true
	}
	return unreachable{}, false
}

// tell tells a guest that its packet was not delivered, if the error means that.
func (n *nat) tell(guest netip.Addr, err error, packet []byte) bool {
	why, ok := unreachableOf(err)
	if ok {
		n.writeUnreachable(guest, why, packet)
	}
	return ok
}

func (n *nat) writeUnreachable(guest netip.Addr, why unreachable, packet []byte) {
	const most = header.IPv4MinimumProcessableDatagramSize - header.IPv4MinimumSize - icmpHeaderLen // RFC 1812
	packet = packet[:min(len(packet), most)]
	if guest.Is6() {
		n.writeICMP(n.cfg.host6.Addr(), guest, udpTTL, [icmpHeaderLen]byte{byte(header.ICMPv6DstUnreachable), byte(why.v6)}, packet)
		return
	}
	n.writeICMP(n.cfg.host.Addr(), guest, udpTTL, [icmpHeaderLen]byte{byte(header.ICMPv4DstUnreachable), byte(why.v4)}, packet)
}

// writeEchoReply sends the answer to a ping, with the guest's identifier in place of the
// host's.
func (n *nat) writeEchoReply(src netip.Addr, guest netip.AddrPort, msg []byte) {
	reply := byte(header.ICMPv4EchoReply)
	if guest.Addr().Is6() {
		reply = byte(header.ICMPv6EchoReply)
	}
	if len(msg) < icmpHeaderLen || len(msg) > maxDatagram-header.IPv4MinimumSize || msg[0] != reply {
		return
	}
	binary.BigEndian.PutUint16(msg[4:], guest.Port())
	n.writeICMP(src, guest.Addr(), udpTTL, [icmpHeaderLen]byte(msg), msg[icmpHeaderLen:])
}

// forwardUDP forwards datagrams from a port of the host to a port of a guest, whose
// datagrams leave from the host's port.
func (n *nat) forwardUDP(ctx context.Context, f forward) error {
	_, err := n.find(flowKey{guest: f.guest}, true, func() (*net.UDPConn, error) {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(ctx, "udp"+familyOf(f.host.Addr()), f.host.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	})
	return err
}
