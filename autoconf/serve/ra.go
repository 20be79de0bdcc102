package serve

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// RA is what router advertisements say.
type RA struct {
	Off bool
	// Prefixes are those of the network. Nil means the networks of 64 bits that the
	// interface has. Without any, nothing is advertised.
	Prefixes []Prefix
	// Interval is the longest time between two advertisements that nobody has asked for, 4 s to
	// 30 min. 0 means 10 min.
	Interval time.Duration
	// Lifetime is how long this stack is a default router, at most 9000 s. 0 means three
	// times Interval, less than 0 that it is none.
	Lifetime time.Duration
	// Managed and Other say that another server of DHCPv6 has addresses, or other
	// configuration only. Managed is said for this one too.
	Managed, Other bool
}

// A Prefix is an IPv6 network of the interface's link.
type Prefix struct {
	netip.Prefix
	// NotOnLink says that addresses may be behind the router, NotAutonomous that nobody
	// makes an address in the prefix.
	NotOnLink, NotAutonomous bool
	// Preferred and Valid are the lifetimes. 0 means a week and 30 days.
	Preferred, Valid time.Duration
}

const (
	defaultInterval  = 600 * time.Second
	minInterval      = 4 * time.Second
	maxInterval      = 1800 * time.Second
	maxRouterTime    = 9000 * time.Second
	defaultPreferred = 7 * 24 * time.Hour
	defaultValid     = 30 * 24 * time.Hour
)

// Constants of RFC 4861, section 10.
const (
	initialInterval = 16 * time.Second // between the first advertisements
	initialCount    = 3
	minDelay        = 3 * time.Second // between those to all
	maxAnswerDelay  = 500 * time.Millisecond
)

const (
	typeSolicitation = 133
	// maxAdvertisement is what fits into the smallest packet that every link carries.
	maxAdvertisement = 1280 - 40
	minMTU6          = 1280
	hopLimit         = 64
	// maxAnswers bounds the hosts that wait for an answer of their own; if more ask, all get one.
	maxAnswers = 64
)

func (r *RA) check() error {
	r.Prefixes = slices.Clone(r.Prefixes)
	if r.Interval = cmp.Or(r.Interval, defaultInterval); r.Interval < minInterval || r.Interval > maxInterval {
		return fmt.Errorf("RA.Interval %v: want %v to %v", r.Interval, minInterval, maxInterval)
	}
	if r.Lifetime = cmp.Or(r.Lifetime, min(3*r.Interval, maxRouterTime)); r.Lifetime > maxRouterTime {
		return fmt.Errorf("RA.Lifetime %v: want at most %v", r.Lifetime, maxRouterTime)
	}
	for i := range r.Prefixes {
		p := &r.Prefixes[i]
		if a := p.Addr(); !p.IsValid() || !a.Is6() || a.Is4In6() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			return fmt.Errorf("RA.Prefixes: %v is not an IPv6 network", p.Prefix)
		}
		p.Prefix = p.Masked()
		p.Valid = cmp.Or(p.Valid, defaultValid)
		p.Preferred = cmp.Or(p.Preferred, min(defaultPreferred, p.Valid))
		if p.Preferred < 0 || p.Preferred > p.Valid || p.Valid > math.MaxUint32*time.Second {
			return fmt.Errorf("RA.Prefixes: %v is preferred for %v and valid for %v: want not longer, and at most 136 years", p.Prefix, p.Preferred, p.Valid)
		}
	}
	return nil
}

// prefixes returns those that are to be advertised.
func (r *RA) prefixes(own []netip.Prefix) []Prefix {
	if r.Prefixes != nil {
		return r.Prefixes
	}
	var all []Prefix
	for _, p := range own {
		known := slices.ContainsFunc(all, func(q Prefix) bool { return q.Prefix == p.Masked() })
		if p.Addr().Is6() && p.Bits() == 64 && !known {
			all = append(all, Prefix{Prefix: p.Masked(), Preferred: defaultPreferred, Valid: defaultValid})
		}
	}
	return all
}

// An advertiser is the state machine of router advertisements, RFC 4861, section 6.2.
type advertiser struct {
	cfg  *settings
	port source.Port
	// message is an advertisement, farewell the last one, which takes the router back.
	message, farewell []byte
	answers           map[netip.Addr]time.Time // when hosts get an answer of their own
	last, next        time.Time                // advertisements to all
	sent              int                      // of those, until initialCount
}

var allNodes = netip.IPv6LinkLocalAllNodes()

// newRA opens the port.
func newRA(cfg *settings, link source.Link, own []netip.Prefix) (*advertiser, error) {
	a := &advertiser{cfg: cfg, answers: make(map[netip.Addr]time.Time)}
	ra, err := advertisement(cfg, link, own)
	if err != nil {
		return nil, err
	}
	if a.message, err = ndp.MarshalMessage(ra); err != nil {
		return nil, err
	}
	if len(a.message) > maxAdvertisement {
		return nil, fmt.Errorf("an advertisement has %d bytes, and %d fit into a packet: there are too many prefixes", len(a.message), maxAdvertisement)
	}
	ra.RouterLifetime = 0
	if a.farewell, err = ndp.MarshalMessage(ra); err != nil {
		return nil, err
	}
	a.port, err = link.ICMP6(typeSolicitation)
	return a, err
}

// advertisement returns what is advertised.
func advertisement(cfg *settings, link source.Link, own []netip.Prefix) (*ndp.RouterAdvertisement, error) {
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit: hopLimit, ManagedConfiguration: cfg.RA.Managed || cfg.serves6(own), OtherConfiguration: cfg.RA.Other, RouterLifetime: max(cfg.RA.Lifetime, 0),
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: link.MAC()}},
	}
	if cfg.MTU >= minMTU6 {
		ra.Options = append(ra.Options, ndp.NewMTU(uint32(cfg.MTU)))
	}
	for _, p := range cfg.RA.prefixes(own) {
		ra.Options = append(ra.Options, &ndp.PrefixInformation{
			PrefixLength: uint8(p.Bits()), Prefix: p.Addr(), OnLink: !p.NotOnLink, AutonomousAddressConfiguration: !p.NotAutonomous,
			ValidLifetime: p.Valid, PreferredLifetime: p.Preferred,
		})
	}
	lifetime := 3 * cfg.RA.Interval // RFC 8106, section 5.1
	if servers := cfg.nameservers6(own); len(servers) > 0 {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: servers})
	}
	size := 0
	for _, d := range cfg.Search {
		size += len(d) + 2
	}
	if size > maxAdvertisement {
		return nil, fmt.Errorf("a search list of %d bytes does not fit into an advertisement", size)
	}
	if size > 0 {
		ra.Options = append(ra.Options, &ndp.DNSSearchList{Lifetime: lifetime, DomainNames: cfg.Search})
	}
	return ra, nil
}

// nameservers6 are the IPv6 addresses of name servers that clients are told.
func (s *settings) nameservers6(own []netip.Prefix) []netip.Addr {
	if s.Nameservers == nil && !s.DNS.Off {
		if i := slices.IndexFunc(own, func(p netip.Prefix) bool { return p.Addr().Is6() }); i >= 0 {
			return []netip.Addr{own[i].Addr()}
		}
	}
	return slices.DeleteFunc(slices.Clone(s.Nameservers), netip.Addr.Is4)
}

func (a *advertiser) close() { a.port.Close() }

// run advertises until ctx ends, or the interface is gone.
func (a *advertiser) run(ctx context.Context) error {
	defer a.close()
	a.next = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if a.cfg.RA.Lifetime > 0 {
				a.send(a.farewell, allNodes)
			}
			return nil
		case p, ok := <-a.port.Packets():
			if !ok {
				return errGone
			}
			a.solicited(p, time.Now())
		case <-timer.C:
			a.due(time.Now())
		}
		next := a.next
		for _, t := range a.answers {
			if t.Before(next) {
				next = t
			}
		}
		timer.Reset(time.Until(next))
	}
}

// due sends what is due.
func (a *advertiser) due(now time.Time) {
	for to, t := range a.answers {
		if !t.After(now) {
			delete(a.answers, to)
			a.send(a.message, to)
		}
	}
	if a.next.After(now) {
		return
	}
	a.send(a.message, allNodes)
	a.last = now
	longest := a.cfg.RA.Interval
	shortest := max(longest/3, minDelay)
	wait := shortest + rand.N(longest-shortest)
	if a.sent < initialCount {
		a.sent++
		wait = min(wait, initialInterval)
	}
	a.next = now.Add(wait)
}

// solicited has a host that has sent a solicitation get an advertisement; a malformed one is
// ignored. The answer waits a little, as many may ask at once, and those to all are never
// more frequent because somebody asks.
func (a *advertiser) solicited(p source.Packet, now time.Time) {
	m, err := ndp.ParseMessage(p.Data)
	rs, ok := m.(*ndp.RouterSolicitation)
	from := p.Peer.Addr()
	if err != nil || !ok || p.HopLimit != 255 || p.Data[1] != 0 {
		return
	}
	at := now.Add(rand.N(maxAnswerDelay))
	if from.IsUnspecified() {
		if slices.ContainsFunc(rs.Options, func(o ndp.Option) bool { return o.Code() == byte(ndp.Source) }) {
			return
		}
	} else if !from.IsLinkLocalUnicast() {
		return
	} else if _, waits := a.answers[from]; waits {
		return
	} else if len(a.answers) < maxAnswers {
		a.answers[from] = at
		return
	}
	if !a.last.IsZero() && at.Before(a.last.Add(minDelay)) {
		at = a.last.Add(minDelay)
	}
	if at.Before(a.next) {
		a.next = at
	}
}

func (a *advertiser) send(b []byte, to netip.Addr) {
	if err := a.port.Send(source.Packet{Data: b, Peer: netip.AddrPortFrom(to, 0)}); err != nil {
		a.cfg.log.Debug("an advertisement was not sent", "to", to, "error", err)
	}
}
