package vdestack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/forward"
	"github.com/vdestack/vdestack/internal/sockets"
	"github.com/vdestack/vdestack/rtnl"
)

// errSource is the error for a client whose address cannot be kept.
var errSource = errors.New("KeepSource: the client's address cannot be kept")

const (
	// sourceTables is the first of the routing tables with clients.
	sourceTables rtnl.Table = 0x76646500
	// maxSources is how many clients may have a route to one server.
	maxSources = 1 << 14
	// sourceLinger is how long the route of a client stays after its last connection, for
	// what the kernel still has to say at the end of one.
	sourceLinger = time.Minute
)

// sources are the servers of a stack whose clients keep their addresses.
type sources struct {
	mu  sync.Mutex // guards all; held while one is made or ended
	all map[sourceKey]*source
}

type sourceKey struct {
	proto  uint8
	server netip.AddrPort
}

// A source gives clients of the host their own addresses in the stack. Their sockets are
// in the stack, so what the server sends to a client must not leave it: a rule for the
// server's port leads to a table that has a local route for each client, and what goes to
// others from that port continues with the stack's own rules.
type source struct {
	sourceKey
	s    *Stack
	nl   *rtnl.Conn
	rule rtnl.Rule
	uses int // forwards; guarded by sources.mu

	mu      sync.Mutex // guards the fields below; held for an exchange with the kernel
	clients map[netip.Addr]*sourceClient
	flows   map[netip.AddrPort]net.Conn // of UDP, by client
	idle    int                         // clients without connections
	closed  bool
	sweep   *time.Timer
}

type sourceClient struct {
	conns int
	since time.Time // without any
}

// openSource returns the source of a server, which is an address of the stack.
func (s *Stack) openSource(key sourceKey) (*source, error) {
	ss := &s.sources
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if k := ss.all[key]; k != nil {
		k.uses++
		return k, nil
	}
	for other := range ss.all {
		if key.proto == syscall.IPPROTO_UDP && other.proto == key.proto && other.server.Port() == key.server.Port() &&
			other.server.Addr().Is4() == key.server.Addr().Is4() {
			// A server for all addresses answers before its own address is known.
			return nil, fmt.Errorf("KeepSource: clients of %v would get the answers of %v: one address for each port of UDP", key.server, other.server)
		}
	}
	k := &source{sourceKey: key, s: s, uses: 1, clients: make(map[netip.Addr]*sourceClient), flows: make(map[netip.AddrPort]net.Conn)}
	if err := k.open(); err != nil {
		return nil, err
	}
	if ss.all == nil {
		ss.all = make(map[sourceKey]*source)
	}
	ss.all[key] = k
	return k, nil
}

func (k *source) open() (err error) {
	server := k.server.Addr()
	// Whether the program may, is found now and not with the first client.
	d := k.dialer(netip.AddrPortFrom(server, 0))
	lc := ListenConfig{Stack: k.s}
	lc.Control = d.Control
	probe, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(server, 0).String())
	if err != nil {
		return err
	}
	probe.Close()
	if k.nl, err = k.s.st.RTNL(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			k.nl.Close()
		}
	}()
	own, err := k.nl.Addrs()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(own, func(a rtnl.Addr) bool { return a.Prefix.Addr() == server }) {
		return fmt.Errorf("KeepSource: %v is not an address of the stack: answers of other machines would not come back", server)
	}
	rules, err := k.nl.Rules()
	if err != nil {
		return err
	}
	table := sourceTables
	for slices.ContainsFunc(rules, func(r rtnl.Rule) bool { return r.Table == table }) {
		table++
	}
	port := k.server.Port()
	k.rule = rtnl.Rule{
		IPv6: server.Is6(), IPProto: k.proto, SrcPorts: rtnl.PortRange{First: port, Last: port},
		Table: table, Protocol: rtnl.ProtocolStatic,
	}
	if k.proto == syscall.IPPROTO_TCP {
		k.rule.Src = netip.PrefixFrom(server, server.BitLen())
	}
	return k.nl.RuleAdd(k.rule)
}

// close ends the use of a forward, and the last one removes what the source has made.
func (k *source) close() {
	ss := &k.s.sources
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if k.uses--; k.uses > 0 {
		return
	}
	delete(ss.all, k.sourceKey)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.sweep != nil {
		k.sweep.Stop()
	}
	// Errors mean that it is gone: with the stack, or by its owner's hand.
	k.nl.RuleDel(k.rule)
	for client := range k.clients {
		k.remove(client)
	}
	k.nl.Close()
}

// route calls f, RouteAdd or RouteDel, with the route of a client.
func (k *source) route(client netip.Addr, f func(netip.Prefix, netip.Addr, int, ...rtnl.RouteOption) error) error {
	const loopback = 1
	return f(netip.PrefixFrom(client, client.BitLen()), netip.Addr{}, loopback,
		rtnl.Local, rtnl.ScopeHost, k.rule.Table, rtnl.Source(k.server.Addr()), rtnl.ProtocolStatic)
}

// remove removes the route of a client. mu is held.
func (k *source) remove(client netip.Addr) {
	k.route(client, k.nl.RouteDel)
	if k.clients[client].conns == 0 {
		k.idle--
	}
	delete(k.clients, client)
}

// makeRoom removes the route of a client that has left, if there is one. mu is held.
func (k *source) makeRoom() bool {
	if k.idle == 0 {
		return false
	}
	for client, c := range k.clients {
		if c.conns == 0 {
			k.remove(client)
			return true
		}
	}
	return false
}

// hold makes sure that there is a route to the client until release.
func (k *source) hold(client netip.Addr) error {
	switch {
	case client.Is4() != k.server.Addr().Is4():
		return fmt.Errorf("%w: %v and the server %v are of different families", errSource, client, k.server.Addr())
	case client.IsLoopback(), !client.IsGlobalUnicast(), client.Zone() != "":
		return fmt.Errorf("%w: %v means something else in the stack", errSource, client)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return net.ErrClosed
	}
	c := k.clients[client]
	if c == nil {
		if len(k.clients) >= maxSources && !k.makeRoom() {
			return fmt.Errorf("%w: there are %d clients", errSource, maxSources)
		}
		// A neighbour of the stack would get no answers any more.
		own, err := k.nl.Addrs()
		if err != nil {
			return err
		}
		for _, a := range own {
			if a.Prefix.Masked().Contains(client) || a.Peer == client {
				return fmt.Errorf("%w: %v is in the stack's own network %v", errSource, client, a.Prefix.Masked())
			}
		}
	}
	// Also if it was there: IPv6 loses routes when lo goes down, and others may flush them.
	if err := k.route(client, k.nl.RouteAdd); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("KeepSource: the route to %v: %w", client, err)
	}
	if c == nil {
		c = &sourceClient{}
		k.clients[client] = c
		k.idle++
	}
	if c.conns == 0 {
		k.idle--
	}
	c.conns++
	return nil
}

func (k *source) release(client netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.clients[client]
	if c == nil { // closed
		return
	}
	if c.conns--; c.conns > 0 || k.closed {
		return
	}
	c.since = time.Now()
	k.idle++
	if k.sweep == nil {
		k.sweep = time.AfterFunc(sourceLinger, k.removeIdle)
	}
}

// replace ends the other flow of a client's UDP socket, which sends to another address of
// the host: the kernel would give the answers of both to one of them.
func (k *source) replace(client netip.AddrPort, c net.Conn) {
	k.mu.Lock()
	old := k.flows[client]
	k.flows[client] = c
	k.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// ended forgets a flow.
func (k *source) ended(client netip.AddrPort, c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flows[client] == c {
		delete(k.flows, client)
	}
}

// removeIdle removes routes that were not used for a time.
func (k *source) removeIdle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep = nil
	if k.closed {
		return
	}
	idle := false
	for client, c := range k.clients {
		switch {
		case c.conns > 0:
		case time.Since(c.since) >= sourceLinger:
			k.remove(client)
		default:
			idle = true
		}
	}
	if idle {
		k.sweep = time.AfterFunc(sourceLinger, k.removeIdle)
	}
}

// dialer returns one whose connections come from an address that is not the stack's.
func (k *source) dialer(from netip.AddrPort) *Dialer {
	d := &Dialer{Stack: k.s}
	if d.LocalAddr = net.Addr(net.TCPAddrFromAddrPort(from)); k.proto == syscall.IPPROTO_UDP {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	d.Control = func(_, _ string, c syscall.RawConn) error {
		return sockets.Transparent(c, from.Addr().Is6())
	}
	return d
}

// keptSource is a forward whose clients keep their addresses.
type keptSource struct {
	by   []*source // one for each family
	lost atomic.Uint64
}

func (k *keptSource) close() {
	for _, s := range k.by {
		s.close()
	}
}

// dial connects a client to the server from the client's own address.
func (k *keptSource) dial(ctx context.Context, network string, client netip.AddrPort) (net.Conn, error) {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	s := k.by[len(k.by)-1]
	if s.server.Addr().Is4() != client.Addr().Is4() {
		s = k.by[0]
	}
	if err := s.hold(client.Addr()); err != nil {
		if errors.Is(err, errSource) {
			k.lost.Add(1)
		}
		return nil, err
	}
	c, err := s.dialer(client).DialContext(ctx, network, s.server.String())
	if err != nil {
		s.release(client.Addr())
		return nil, err
	}
	if s.proto == syscall.IPPROTO_TCP {
		return &forward.Held{Conn: c, Release: func() { s.release(client.Addr()) }}, nil
	}
	s.replace(client, c)
	return &forward.Held{Conn: c, Release: func() {
		s.ended(client, c)
		s.release(client.Addr())
	}}, nil
}

// keepSource prepares a forward to an address of the stack, or a name that has addresses
// of the stack.
func (s *Stack) keepSource(ctx context.Context, network, hostName string, port uint16) (_ *keptSource, err error) {
	addrs, err := s.LookupNetIP(ctx, "ip"+family(network), hostName)
	if err != nil {
		return nil, err
	}
	proto := uint8(syscall.IPPROTO_TCP)
	if network[0] == 'u' {
		proto = syscall.IPPROTO_UDP
	}
	k := &keptSource{}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	for _, a := range addrs {
		a = a.Unmap()
		if slices.ContainsFunc(k.by, func(o *source) bool { return o.server.Addr().Is4() == a.Is4() }) {
			continue
		}
		o, err := s.openSource(sourceKey{proto, netip.AddrPortFrom(a, port)})
		if err != nil {
			return nil, err
		}
		k.by = append(k.by, o)
	}
	return k, nil
}
