package serve

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/backoff"
	"github.com/vdestack/vdestack/internal/dns"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsPort = 53
	// minUDP is the size of responses over UDP without EDNS, RFC 1035; maxUDP is the
	// largest that this server sends and says it takes.
	minUDP = 512
	maxUDP = 1232
	maxTCP = 1<<16 - 1
	// maxForwards and maxConns bound the questions that wait for other servers, and the
	// connections of TCP.
	maxForwards = 256
	maxConns    = 64
	// idleTime is how long a connection waits for the next question.
	idleTime = 10 * time.Second
	// upstreamTime is how long each server of DNS.Upstream may take.
	upstreamTime = 2 * time.Second
	// readErrors in a row end a socket, after a minute.
	readErrors = 68
)

// rcodeBadVersion is BADVERS of RFC 6891.
const rcodeBadVersion dnsmessage.RCode = 16

// A dnsServer answers questions about the names of the lab.
type dnsServer struct {
	cfg      *settings
	leases   *table       // nil without DHCPv4
	leases6  *dhcp6Server // nil without DHCPv6
	own      []netip.Prefix
	byAddr   map[netip.Addr][]string // names of Hosts
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	packets  []net.PacketConn
	streams  []net.Listener
	forwards chan struct{}

	mu    sync.Mutex // guards conns
	conns []net.Conn // of TCP, in the order in which they began
}

// sockets makes the sockets of a stack.
type sockets interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// newDNS opens sockets at all addresses of the interface.
func newDNS(cfg *settings, leases *table, leases6 *dhcp6Server, own []netip.Prefix, st sockets) (_ *dnsServer, err error) {
	if len(own) == 0 {
		return nil, errors.New("the interface has no address: give it one, or set DNS.Off")
	}
	for _, a := range cfg.DNS.Upstream {
		if containsAddr(own, a.Addr()) {
			return nil, fmt.Errorf("DNS.Upstream: %v is this server", a)
		}
	}
	d := &dnsServer{
		cfg: cfg, leases: leases, leases6: leases6, own: own, byAddr: make(map[netip.Addr][]string), dial: st.DialContext,
		forwards: make(chan struct{}, maxForwards),
	}
	for name, addrs := range cfg.hosts {
		for _, a := range addrs {
			d.byAddr[a] = append(d.byAddr[a], name)
		}
	}
	for _, names := range d.byAddr {
		slices.Sort(names)
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, p := range own {
		address := netip.AddrPortFrom(p.Addr(), dnsPort).String()
		pc, err := st.ListenPacket("udp", address)
		if err != nil {
			return nil, err
		}
		d.packets = append(d.packets, pc)
		l, err := st.Listen("tcp", address)
		if err != nil {
			return nil, err
		}
		d.streams = append(d.streams, l)
	}
	return d, nil
}

func (d *dnsServer) close() {
	for _, pc := range d.packets {
		pc.Close()
	}
	for _, l := range d.streams {
		l.Close()
	}
}

// run serves until ctx ends, or the sockets have failed.
func (d *dnsServer) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	errs := make(chan error, len(d.packets)+len(d.streams))
	for _, pc := range d.packets {
		all.Go(func() { errs <- d.servePackets(ctx, pc) })
	}
	for _, l := range d.streams {
		all.Go(func() { errs <- d.serveStreams(ctx, l) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	ended := ctx.Err() != nil
	cancel()
	d.close()
	all.Wait()
	if ended || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// servePackets answers what comes over UDP.
func (d *dnsServer) servePackets(ctx context.Context, pc net.PacketConn) error {
	var all sync.WaitGroup
	defer all.Wait()
	buf := make([]byte, maxUDP)
	for errs := (reader{}); ; {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			// An error may be about what was sent before.
			if !errs.goesOn(ctx, err) {
				return err
			}
			continue
		}
		errs = reader{}
		// A response that cannot be sent is as one that is lost.
		r, forward := d.answer(buf[:n], minUDP)
		if !forward {
			if r != nil {
				pc.WriteTo(r, from)
			}
			continue
		}
		select {
		case d.forwards <- struct{}{}:
			query := slices.Clone(buf[:n])
			all.Go(func() {
				defer func() { <-d.forwards }()
				pc.WriteTo(d.forward(ctx, "udp", query), from)
			})
		default: // the client asks again
		}
	}
}

// A reader counts the errors of a socket in a row.
type reader struct {
	wait   backoff.Timer
	failed int
}

// goesOn reports whether the socket is used further after an error, and waits: if there are no
// descriptors left, there may be some later.
func (r *reader) goesOn(ctx context.Context, err error) bool {
	if r.failed++; r.failed == readErrors || errors.Is(err, net.ErrClosed) {
		return false
	}
	return r.wait.Wait(ctx)
}

// serveStreams answers what comes over TCP.
func (d *dnsServer) serveStreams(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	for errs := (reader{}); ; {
		c, err := l.Accept()
		if err != nil {
			if !errs.goesOn(ctx, err) {
				return err
			}
			continue
		}
		errs = reader{}
		d.begin(c)
		all.Go(func() {
			defer d.end(c)
			defer context.AfterFunc(ctx, func() { c.Close() })()
			d.serveStream(ctx, c)
		})
	}
}

// begin makes room for a connection: the oldest gives way, so that whoever opens many and
// says nothing keeps nobody out.
func (d *dnsServer) begin(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) == maxConns {
		d.conns[0].Close()
		d.conns = slices.Delete(d.conns, 0, 1)
	}
	d.conns = append(d.conns, c)
}

// end ends a connection.
func (d *dnsServer) end(c net.Conn) {
	c.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.conns, c); i >= 0 {
		d.conns = slices.Delete(d.conns, i, i+1)
	}
}

// serveStream answers the questions of a connection, RFC 7766.
func (d *dnsServer) serveStream(ctx context.Context, c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(idleTime))
		query, err := dns.ReadFrame(c)
		if err != nil {
			return
		}
		r, forward := d.answer(query, maxTCP)
		if forward {
			select {
			case d.forwards <- struct{}{}:
				r = d.forward(ctx, "tcp", query)
				<-d.forwards
			default: // the client asks again
			}
		}
		if r == nil {
			return
		}
		if _, err := c.Write(dns.Frame(r)); err != nil {
			return
		}
	}
}

// A question is what a query asks.
type question struct {
	header dnsmessage.Header
	dnsmessage.Question
	edns bool
	size int // of the response
}

// parseQuery reads a query. If it is malformed, rcode says why; ok is false if it deserves no
// response.
func parseQuery(query []byte, size int) (q question, rcode dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(query); err != nil || q.header.Response {
		return q, 0, false
	}
	q.size = size
	if q.header.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	all, err := p.AllQuestions()
	if err != nil || len(all) != 1 {
		return q, dnsmessage.RCodeFormatError, true
	}
	q.Question = all[0]
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil || p.SkipAdditional() != nil {
			return q, dnsmessage.RCodeFormatError, true
		}
		if h.Type != dnsmessage.TypeOPT {
			continue
		}
		q.edns = true
		q.size = max(q.size, min(int(h.Class), maxUDP)) // the class is the size
		if version := h.TTL >> 16 & 0xff; version != 0 {
			return q, rcodeBadVersion, true
		}
	}
	if q.Class != dnsmessage.ClassINET {
		return q, dnsmessage.RCodeRefused, true
	}
	return q, dnsmessage.RCodeSuccess, true
}

// answer returns the response to a query, or says that it is to be forwarded. It returns nil for
// what is no query.
func (d *dnsServer) answer(query []byte, size int) (response []byte, forward bool) {
	q, rcode, ok := parseQuery(query, size)
	if !ok {
		return nil, false
	}
	if rcode != dnsmessage.RCodeSuccess {
		return d.response(q, rcode, nil, false), false
	}
	found := d.find(strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), time.Now())
	switch {
	case found.exists:
		return d.response(q, rcode, found.records(q.Type), true), false
	case found.ours:
		return d.response(q, dnsmessage.RCodeNameError, nil, true), false
	case len(d.cfg.DNS.Upstream) == 0, q.Type == typeANY:
		return d.response(q, dnsmessage.RCodeNameError, nil, false), false
	case (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA) && strings.Count(q.Name.String(), ".") < 2:
		// A name without a domain is nobody else's business.
		return d.response(q, dnsmessage.RCodeNameError, nil, false), false
	}
	return nil, true
}

// typeANY asks for records of all types.
const typeANY = dnsmessage.TypeALL

// A finding is what is known about a name.
type finding struct {
	ours   bool // this server decides whether the name exists
	exists bool
	addrs  []netip.Addr
	names  []string // for an address
}

// records returns the resources of a type.
func (f finding) records(t dnsmessage.Type) (all []dnsmessage.ResourceBody) {
	for _, a := range f.addrs {
		switch {
		case a.Is4() && (t == dnsmessage.TypeA || t == typeANY):
			all = append(all, &dnsmessage.AResource{A: a.As4()})
		case a.Is6() && (t == dnsmessage.TypeAAAA || t == typeANY):
			all = append(all, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	for _, name := range f.names {
		if n, err := dnsmessage.NewName(name + "."); err == nil && (t == dnsmessage.TypePTR || t == typeANY) {
			all = append(all, &dnsmessage.PTRResource{PTR: n})
		}
	}
	return all
}

// find looks for a name in lower case without a trailing dot.
func (d *dnsServer) find(name string, now time.Time) (f finding) {
	if a, ok := reverseAddr(name); ok {
		f.names = d.byAddr[a]
		if n := cmp.Or(d.leases.nameOf(a, now), d.leases6.nameAt(a, now)); n != "" {
			f.names = append(slices.Clone(f.names), n)
		}
		f.exists = len(f.names) > 0
		f.ours = f.exists || slices.ContainsFunc(d.own, func(p netip.Prefix) bool { return p.Contains(a) })
		return f
	}
	addrs, ok := d.cfg.hosts[name]
	if ok {
		return finding{true, true, addrs, nil}
	}
	if a, ok := d.leases.addrOf(name, now); ok {
		addrs = append(addrs, a)
	}
	if a, ok := d.leases6.addrOf(name, now); ok {
		addrs = append(addrs, a)
	}
	if len(addrs) > 0 {
		return finding{true, true, addrs, nil}
	}
	f.ours = name == d.cfg.domain || strings.HasSuffix(name, "."+d.cfg.domain)
	// A name exists, without records, if another is below it, RFC 8020.
	f.exists = name == d.cfg.domain || f.ours && (d.leases.hasBelow(name, now) || d.leases6.hasBelow(name, now) || d.hostBelow(name))
	return f
}

func (d *dnsServer) hostBelow(name string) bool {
	for host := range d.cfg.hosts {
		if strings.HasSuffix(host, "."+name) {
			return true
		}
	}
	return false
}

// reverseAddr returns the address that a name below in-addr.arpa or ip6.arpa stands for.
func reverseAddr(name string) (a netip.Addr, ok bool) {
	if labels, found := strings.CutSuffix(name, ".in-addr.arpa"); found {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	if labels, found := strings.CutSuffix(name, ".ip6.arpa"); found && len(labels) == 63 {
		var b strings.Builder
		for i := len(labels) - 1; i >= 0; i-- {
			switch odd := i%2 == 1; {
			case odd != (labels[i] == '.'), !odd && !strings.Contains("0123456789abcdef", labels[i:i+1]):
				return a, false
			case !odd:
				b.WriteByte(labels[i])
				if n := (len(labels) - i + 1) / 2; n%4 == 0 && i > 0 {
					b.WriteByte(':')
				}
			}
		}
		a, err := netip.ParseAddr(b.String())
		return a, err == nil && a.Is6()
	}
	return a, false
}

// truncated packs a response that says that the records are too large for it.
func (d *dnsServer) truncated(q question) []byte {
	h := d.header(q, dnsmessage.RCodeSuccess)
	h.Truncated = true
	r, err := pack(h, q, dnsmessage.RCodeSuccess, nil)
	if err != nil {
		return nil // cannot be: it is a question
	}
	return r
}

// header returns that of a response.
func (d *dnsServer) header(q question, rcode dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: len(d.cfg.DNS.Upstream) > 0, RCode: rcode & 0xf,
	}
}

// response packs a response. One that is too large says so, without records.
func (d *dnsServer) response(q question, rcode dnsmessage.RCode, records []dnsmessage.ResourceBody, authoritative bool) []byte {
	h := d.header(q, rcode)
	h.Authoritative = authoritative
	for {
		r, err := pack(h, q, rcode, records)
		if err == nil && len(r) <= q.size {
			return r
		}
		if h.Truncated {
			return nil // cannot be: what is left is a question
		}
		h.Truncated, records = true, nil
	}
}

func pack(h dnsmessage.Header, q question, rcode dnsmessage.RCode, records []dnsmessage.ResourceBody) ([]byte, error) {
	m := dnsmessage.Message{Header: h}
	if q.Name.Length > 0 {
		m.Questions = []dnsmessage.Question{q.Question}
	}
	for _, r := range records {
		// Names come and go with their clients: nobody is to keep them.
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: r})
	}
	if q.edns {
		var o dnsmessage.ResourceHeader
		if err := o.SetEDNS0(maxUDP, rcode, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: o, Body: &dnsmessage.OPTResource{}}}
	}
	return m.Pack()
}

// forward returns the response of the first server of DNS.Upstream that gives one, else SERVFAIL.
func (d *dnsServer) forward(ctx context.Context, network string, query []byte) []byte {
	q, _, _ := parseQuery(query, minUDP)
	var refused []byte
	for _, server := range d.cfg.DNS.Upstream {
		r, err := d.exchange(ctx, network, server, query, q)
		if err != nil {
			d.cfg.log.Debug("no answer", "server", server, "error", err)
			continue
		}
		if network == "udp" && len(r) > q.size {
			// The client asks by TCP. Who has invented the sender gets little sent there.
			return d.truncated(q)
		}
		switch rcode := dnsmessage.RCode(r[3] & 0xf); rcode {
		case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused:
			refused = r
		default:
			return r
		}
	}
	if refused != nil {
		return refused
	}
	return d.response(q, dnsmessage.RCodeServerFailure, nil, false)
}

// exchange asks a server, from a port and with an identifier of its own.
func (d *dnsServer) exchange(ctx context.Context, network string, server netip.AddrPort, query []byte, q question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	c, err := d.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	query = slices.Clone(query)
	id := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(query, id)
	if network == "tcp" {
		query = dns.Frame(query)
	}
	if _, err := c.Write(query); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	buf := make([]byte, maxUDP+1) // one byte more than is passed on
	for {
		var r []byte
		if network == "tcp" {
			r, err = dns.ReadFrame(c)
		} else {
			var n int
			n, err = c.Read(buf)
			r = buf[:n]
		}
		if err != nil {
			return nil, cmp.Or(ctx.Err(), err)
		}
		// Anyone can send packets that are no response; the response may follow.
		if isResponse(r, id, q) {
			binary.BigEndian.PutUint16(r, q.header.ID)
			return r, nil
		}
		if network == "tcp" {
			return nil, errors.New("the response is to another question")
		}
	}
}

// isResponse reports whether a message begins as the response to a question does.
func isResponse(msg []byte, id uint16, q question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.ID != id || !h.Response {
		return false
	}
	got, err := p.Question()
	return err == nil && got.Type == q.Type && got.Class == q.Class &&
		bytes.EqualFold(got.Name.Data[:got.Name.Length], q.Name.Data[:q.Name.Length])
}
