package autoconf

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// A subject is a client with its interface, and what it tells.
type subject struct {
	t *testing.T
	host
	place
	server
	c    *Client
	log  *testenv.Buffer // with what the client sends
	next func() (Event, error, bool)
}

// newSubject starts a client on a host, with other items of the language too.
func newSubject(t *testing.T, h host, p place, srv server, items string) *subject {
	t.Helper()
	s := &subject{t: t, host: h, place: p, server: srv, log: &testenv.Buffer{}}
	s.start(s.log, items, s.by)
	return s
}

// start starts the client, with sources and a log.
func (s *subject) start(log io.Writer, items string, sources ...Source) {
	s.t.Helper()
	cfg := testenv.Must(Parse(items))(s.t)
	cfg.DHCP4, cfg.DHCP6, cfg.RD = slices.Contains(sources, DHCP4), slices.Contains(sources, DHCP6), slices.Contains(sources, RD)
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("client: %s", s.log.String())
		}
	})
	var err error
	s.c, err = Start(testenv.Context(s.t), s.st, cfg)
	testenv.Check(s.t, err)
	next, end := iter.Pull2(s.c.Watch(testenv.Context(s.t)))
	s.t.Cleanup(end)
	s.next = next
}

// A gate holds up who writes a text for the first time, until it is opened or the test ends.
type gate struct {
	io.Writer
	t             *testing.T
	text          string
	first         sync.Once
	reached, open chan struct{}
}

func (g *gate) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(g.text)) {
		g.first.Do(func() {
			close(g.reached)
			select {
			case <-g.open:
			case <-g.t.Context().Done():
			}
		})
	}
	return g.Writer.Write(b)
}

// A spyLink logs what is sent.
type spyLink struct {
	source.Link
	log *slog.Logger
}

type spyPort struct {
	source.Port
	log  *slog.Logger
	name func(source.Packet) string
}

func (l spyLink) UDP(local netip.AddrPort) (source.Port, error) {
	p, err := l.Link.UDP(local)
	if local.Addr().Is4() {
		return l.spy(name4, p, err)
	}
	return l.spy(func(p source.Packet) string { return dhcpv6.MessageType(p.Data[0]).String() }, p, err)
}

func (l spyLink) UDP4Unconfigured(port uint16) (source.Port, error) {
	p, err := l.Link.UDP4Unconfigured(port)
	return l.spy(name4, p, err)
}

func (l spyLink) ICMP6(types ...uint8) (source.Port, error) {
	p, err := l.Link.ICMP6(types...)
	return l.spy(func(source.Packet) string { return "SOLICITATION" }, p, err)
}

func (l spyLink) spy(name func(source.Packet) string, p source.Port, err error) (source.Port, error) {
	if err != nil {
		return nil, err
	}
	return spyPort{p, l.log, name}, nil
}

func (p spyPort) Send(packet source.Packet) error {
	p.log.Debug("sent", "what", p.name(packet), "to", packet.Peer)
	return p.Port.Send(packet)
}

// name4 returns the type of a message of DHCPv4.
func name4(p source.Packet) string {
	m, err := dhcpv4.FromBytes(p.Data)
	if err != nil {
		return err.Error()
	}
	return m.MessageType().String()
}

var sentMessage = regexp.MustCompile(`msg=sent .* what=(\S+)`)

// sent returns the types of the messages that were sent.
func (s *subject) sent() (types []string) {
	for _, m := range sentMessage.FindAllStringSubmatch(s.log.String(), -1) {
		types = append(types, m[1])
	}
	return types
}

// lease returns what the client knows.
func (s *subject) lease() Lease {
	for _, l := range s.c.Leases() {
		if l.Source == s.by {
			return l
		}
	}
	return Lease{}
}

// got returns the lease of an address, which may come after other information.
func (s *subject) got() Lease {
	s.t.Helper()
	s.eventually("a lease", func() bool { return len(s.lease().Addrs) > 0 })
	return s.lease()
}

// hostOf returns the address of a lease, the zero Addr if there is none.
func hostOf(l Lease) netip.Addr {
	if len(l.Addrs) == 0 {
		return netip.Addr{}
	}
	return l.Addrs[0].Prefix.Addr()
}

// await waits for an event.
func (s *subject) await(what string, ok func(e Event) bool) Event {
	s.t.Helper()
	for {
		e, err, more := s.next()
		if !more || err != nil {
			s.t.Fatalf("no event in which %s: %v; known: %+v", what, err, s.lease())
		}
		if e.Source == s.by && ok(e) {
			return e
		}
	}
}

// call asks something of the source.
func (s *subject) call(call source.Call) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.sources[s.by].call(call)
}

// pass has time pass for the client: its clock goes on, as after the machine was asleep.
func (s *subject) pass(d time.Duration) { s.call(source.Call{Slept: d}) }

// newer returns whether an event tells a lease that is newer than another.
func newer(than Lease) func(e Event) bool {
	return func(e Event) bool {
		return e.Err == nil && len(e.Lease.Addrs) > 0 && endOf(e.Lease).After(endOf(than))
	}
}

// configured returns what the kernel has of a lease.
func (s *subject) configured() string {
	s.t.Helper()
	l := s.lease()
	var all []string
	state := s.state()
	if a := hostOf(l); a.IsValid() && strings.Contains(state, l.Addrs[0].Prefix.String()) {
		all = append(all, "address")
	}
	if strings.Contains(state, map[bool]string{true: "default via 10.", false: "default via fe80:"}[s.by == DHCP4]) {
		all = append(all, "router")
	}
	if len(l.DNS) > 0 && !s.noDNS && slices.ContainsFunc(s.st.DNS().Servers, func(a netip.AddrPort) bool { return a.Addr() == s.place.host(s.by, s.dns) }) {
		all = append(all, "DNS")
	}
	return strings.Join(all, ", ")
}

// used says whether the server of names is used that the place has now.
func (s *subject) used() string {
	if strings.Contains(s.configured(), "DNS") {
		return "used"
	}
	return ""
}

// newGuest returns a host for a client, whose hardware address servers know again.
func newGuest(t *testing.T, p place, n byte) host {
	t.Helper()
	return newHost(t, vdestack.Interface{VNL: p.vnl, MAC: net.HardwareAddr{2, 0, 0, 0, 2, n}})
}

// endOf returns the end of a lease, or of the last route of a router.
func endOf(l Lease) (end time.Time) {
	end = l.Expires
	for _, r := range l.Routes {
		if end.Before(r.Expires) {
			end = r.Expires
		}
	}
	return end
}

// newPlace returns the first server's.
func newPlace(t *testing.T) place {
	return place{vnl: "mem://" + strings.NewReplacer("/", "-", ":", "").Replace(t.Name()), n: 1, pool: 50, dns: 3, dir: t.TempDir()}
}

// life is that of a lease, until it ends.
func life(t *testing.T, srv server) map[string]string {
	cells := make(map[string]string)
	p := newPlace(t)
	stop := srv.start(t, p)
	s := newSubject(t, newGuest(t, p, 1), p, srv, "")
	had := s.got()
	cells[gets] = s.configured()

	testenv.Check(t, s.c.Renew(testenv.Context(t)))
	if e := s.await("the lease is renewed", newer(had)); hostOf(e.Lease) != hostOf(had) {
		t.Errorf("it had %+v, and after renewal %+v", had, e.Lease)
	}
	cells[renews] = "yes"

	stop(true)
	s.dns, p.dns = 9, 9
	stop = srv.start(t, p)
	testenv.Check(t, s.c.Renew(testenv.Context(t)))
	e := s.await("the lease is renewed", newer(had))
	if hostOf(e.Lease) != hostOf(had) {
		t.Errorf("after the server has changed it gives %+v, before %+v", e.Lease, had)
	}
	cells[otherDNS] = s.used()
	had = e.Lease

	stop(true)
	p.n = 2
	stop = srv.start(t, p)
	s.pass(time.Until(had.Rebind) + time.Second)
	e = s.await("the lease is renewed", newer(had))
	if srv.by == DHCP4 && e.Lease.Server != p.v4(2) {
		t.Errorf("the server is %v, want the other one", e.Lease.Server)
	}
	cells[replaced] = "renews at T2: " + told(had, e.Lease)
	had = e.Lease

	stop(true)
	s.pass(time.Until(had.Expires) + time.Second)
	s.await("the lease has expired", func(e Event) bool { return len(e.Lease.Addrs) == 0 })
	if got := s.configured(); got != "" {
		t.Errorf("after the end of the lease there is still: %s\n%s", got, s.state())
	}
	srv.start(t, p)
	s.pass(5 * time.Second) // it looks for a server again
	s.await("there is a lease again", newer(had))
	cells[goes] = "ends, and is got again"
	return cells
}

// told compares the addresses of two leases.
func told(before, after Lease) string {
	if hostOf(before) == hostOf(after) {
		return "the same address"
	}
	return "another address"
}

// outcome has the client ask at T1, at T2 and, after the end of the lease, again, until the
// server answers.
func (s *subject) outcome(had Lease) string {
	s.t.Helper()
	var (
		what   string
		passed time.Duration
	)
	for i, at := range []time.Time{had.Renew, had.Rebind, had.Expires} {
		what = []string{"", "no answer at T1; ", "no answer until the end; "}[i]
		before := len(s.sent())
		d := time.Until(at) + time.Second - passed
		passed += d
		s.pass(d)
		testenv.Eventually(s.t, "the client to ask", func() bool { return len(s.sent()) > before })
		// The server answers one after the other: what it has to say to this client comes
		// before the lease of another.
		newSubject(s.t, newGuest(s.t, s.place, byte(2+i)), s.place, s.server, "").got()
		if sent := s.sent()[before:]; slices.ContainsFunc(sent, func(t string) bool { return t != sent[0] }) {
			break // the answer has led to something else
		}
		if l := s.lease(); hostOf(l) != hostOf(had) || l.Expires.After(had.Expires) {
			break
		}
	}
	lost := false
	e := s.await("there is a lease", func(e Event) bool {
		lost = lost || e.Err == nil && len(e.Lease.Addrs) == 0
		return newer(had)(e)
	})
	if lost && !strings.Contains(what, "end") {
		what += "refused, "
	}
	return what + told(had, e.Lease)
}

// forgotten is the client of a server that lost its state.
func forgotten(t *testing.T, srv server) map[string]string {
	return map[string]string{forgets: restarted(t, srv, func(p *place) { p.dir = t.TempDir() })}
}

// moved is that of one that has other addresses now.
func moved(t *testing.T, srv server) map[string]string {
	return map[string]string{moves: restarted(t, srv, func(p *place) { p.dir, p.pool = t.TempDir(), 70 })}
}

// fickle has a server make an offer, forget it, and have other addresses when it is asked for.
func fickle(t *testing.T, srv server) map[string]string {
	p := newPlace(t)
	stop := srv.start(t, p)
	s := &subject{t: t, host: newGuest(t, p, 1), place: p, server: srv, log: &testenv.Buffer{}}
	g := &gate{Writer: s.log, t: t, text: "what=REQUEST", reached: make(chan struct{}), open: make(chan struct{})}
	s.start(g, "")
	result := make(chan error, 1)
	go func() {
		result <- s.c.Change(testenv.Context(t), Config{DHCP4: srv.by == DHCP4, DHCP6: srv.by == DHCP6})
	}()
	select {
	case err := <-result:
		testenv.Check(t, err)
		return map[string]string{changes: "commits at once"}
	case <-g.reached:
	}
	stop(false)
	offered := Lease{Addrs: []Addr{{Prefix: netip.PrefixFrom(p.host(srv.by, p.pool), 32)}}}
	p.dir, p.pool = t.TempDir(), 70
	srv.start(t, p)
	close(g.open)
	newSubject(t, newGuest(t, p, 2), p, srv, "").got() // see outcome
	has := func() bool { return len(s.lease().Addrs) > 0 }
	for sent := s.sent(); !has() && sent[len(sent)-1] == "REQUEST"; {
		before := len(sent)
		s.pass(10 * time.Second) // so long it waits for an answer, or after a refusal
		s.eventually("the client to go on", func() bool { sent = s.sent(); return len(sent) > before || has() })
	}
	s.got()
	what := ""
	if sent := s.sent(); slices.Index(sent[1:], sent[0]) > 0 { // it looked for servers again
		what = "refused, "
		const tries = 4
		if slices.Index(sent[1:], sent[0]) == tries {
			what = "no answer, "
		}
	}
	return map[string]string{changes: what + told(offered, s.lease())}
}

// restarted has a server end without notice, and start again with something changed.
func restarted(t *testing.T, srv server, change func(*place)) string {
	p := newPlace(t)
	stop := srv.start(t, p)
	s := newSubject(t, newGuest(t, p, 1), p, srv, "")
	s.got()
	testenv.Check(t, s.c.Renew(testenv.Context(t))) // it has talked to the server by unicast
	had := s.lease()
	stop(false)
	change(&p)
	srv.start(t, p)
	return s.outcome(had)
}

// two servers have different addresses, and one of them goes.
func two(t *testing.T, srv server) map[string]string {
	one, other := newPlace(t), newPlace(t)
	other.n, other.pool = 2, 70
	stops := []stop{srv.start(t, one), srv.start(t, other)}
	s := newSubject(t, newGuest(t, one, 1), one, srv, "")
	had := s.got()
	// The link-local address of a server is made of its hardware address, as ours.
	chosen := 0
	if had.Server == other.host(srv.by, 2) || had.Server == rd.EUI64(addr("fe80::"), serverMAC(2)) {
		chosen = 1
	}
	stops[chosen](false)
	s.pass(time.Until(had.Expires) + time.Second)
	s.await("the lease has ended", func(e Event) bool { return len(e.Lease.Addrs) == 0 })
	e := s.await("there is another", newer(had))
	if e.Lease.Server == had.Server {
		t.Errorf("the server %v was ended, and gives %+v", had.Server, e.Lease)
	}
	return map[string]string{twins: "one of them, then the other"}
}

// conflict has another host that took the address while the client was away.
func conflict(t *testing.T, srv server) map[string]string {
	p := newPlace(t)
	srv.start(t, p)
	s := newSubject(t, newGuest(t, p, 1), p, srv, "")
	had := s.got()
	testenv.Check(t, s.st.Close())
	newHost(t, vdestack.Interface{VNL: p.vnl, Addrs: []netip.Prefix{netip.PrefixFrom(hostOf(had), map[bool]int{true: 24, false: 64}[hostOf(had).Is4()])}})
	h := newGuest(t, p, 1)
	testenv.Check(t, h.st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "1"))
	s = newSubject(t, h, p, srv, "ip=192.0.2.1") // so that Start is content
	what := "declined, "
	if len(s.lease().Addrs) == 0 {
		s.pass(time.Minute) // so long it waits after DECLINE
		e := s.await("there is a lease, or a conflict", func(e Event) bool { return e.Err != nil || newer(had)(e) })
		if _, ok := errors.AsType[*source.ConflictError](e.Err); ok {
			return map[string]string{taken: what + "offered again"}
		}
	}
	if !strings.Contains(s.log.String(), "what=DECLINE") {
		what = "not offered, "
	}
	return map[string]string{taken: what + told(had, s.lease())}
}

const (
	slaac = "slaac,fqdn=host.lab.example"
	// routerTime is the lifetime of a default router of all servers, prefixTime at least that
	// of a prefix, and never that of an address with a time without an end.
	routerTime = 30 * time.Minute
	prefixTime = 24 * time.Hour
)

// routersOf returns the default routers of the kernel.
func (s *subject) routersOf() (all []netip.Addr) {
	s.gateways(func(gw netip.Addr, _ rtnl.Route) { all = append(all, gw) })
	return all
}

// prefixes returns the networks of the addresses.
func (s *subject) networks() (all []netip.Prefix) {
	for _, a := range s.lease().Addrs {
		all = append(all, a.Prefix.Masked())
	}
	return all
}

// eventually waits until something is so.
func (s *subject) eventually(what string, ok func() bool) {
	s.t.Helper()
	testenv.Eventually(s.t, what, ok, s.state, s.log.String)
}

// routerLife is that of a router, until it ends.
func routerLife(t *testing.T, srv server) map[string]string {
	cells := make(map[string]string)
	p := newPlace(t)
	stop := srv.start(t, p)
	s := newSubject(t, newGuest(t, p, 1), p, srv, slaac)
	s.got()
	cells[gets] = s.configured()
	first := s.routersOf()

	had := s.lease()
	testenv.Check(t, s.c.Renew(testenv.Context(t)))
	s.await("it is renewed", newer(had))
	cells[renews] = "yes"

	stop(true)
	s.dns, p.dns, p.net6 = 9, 9, "fd01::"
	s.net6 = p.net6
	stop = srv.start(t, p)
	s.call(source.Call{Renew: true})
	second := netip.PrefixFrom(p.v6(0), 64)
	s.await("there is the other prefix", func(e Event) bool { return slices.Contains(s.networks(), second) })
	cells[otherDNS] = s.used()
	cells[moves] = "one in each prefix"
	for _, a := range s.lease().Addrs {
		if a.Prefix.Masked() != second && !a.Preferred.IsZero() && a.Preferred.Before(time.Now()) {
			cells[moves] = "another, and the first is deprecated"
		}
	}

	stop(false)
	p.n = 2
	stop = srv.start(t, p)
	s.pass(routerTime + time.Second)
	s.eventually("the other router", func() bool {
		all := s.routersOf()
		return len(all) == 1 && (srv.alone || !slices.Equal(all, first)) && strings.Contains(s.configured(), "address")
	})
	cells[replaced] = "the address stays"

	stop(false)
	s.pass(prefixTime)
	s.await("all has ended", func(e Event) bool { return len(e.Lease.Addrs)+len(e.Lease.Routes) == 0 })
	if got := s.configured(); got != "" {
		t.Errorf("after the end there is still: %s\n%s", got, s.state())
	}
	srv.start(t, p)
	s.pass(5 * time.Second)
	s.await("there is an address again", func(e Event) bool { return len(e.Lease.Addrs) > 0 && len(e.Lease.Routes) > 0 })
	cells[goes] = "ends, and is got again"
	return cells
}

// routers are two on a network, of which one ends.
func routers(t *testing.T, srv server) map[string]string {
	if srv.alone {
		return nil
	}
	one, other := newPlace(t), newPlace(t)
	other.n = 2
	stop := srv.start(t, one)
	srv.start(t, other)
	s := newSubject(t, newGuest(t, one, 1), one, srv, slaac)
	s.eventually("both routers", func() bool { return len(s.routersOf()) == 2 })
	stop(true)
	for range 2 { // the first may be told by what was heard before
		had := s.lease()
		s.call(source.Call{Renew: true})
		s.await("the other router answers", newer(had))
	}
	what := "both; the one that ends says so"
	if len(s.routersOf()) == 2 {
		what = "both; the one that ends does not say so"
	}
	return map[string]string{twins: what}
}

// routerConflict has another host with the address.
func routerConflict(t *testing.T, srv server) map[string]string {
	p := newPlace(t)
	srv.start(t, p)
	newHost(t, vdestack.Interface{VNL: p.vnl, Addrs: []netip.Prefix{netip.PrefixFrom(Hash{Name: "host.lab.example"}.Addr(p.v6(0)), 64)}})
	h := newGuest(t, p, 1)
	testenv.Check(t, h.st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "1"))
	s := newSubject(t, h, p, srv, slaac+",ip=192.0.2.1")
	if got := s.configured(); strings.Contains(got, "address") || !strings.Contains(got, "router") {
		t.Errorf("there is %s, want a router and no address:\n%s", got, s.state())
	}
	return map[string]string{taken: "no address"}
}
