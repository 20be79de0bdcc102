package rd

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// twoHours bounds how far an advertisement, which nobody has signed, can shorten the valid
// lifetime of an address, RFC 4862, section 5.5.3 (e).
const twoHours = 2 * time.Hour

// staleTime is twice the longest that routers may be silent, RFC 4861, section 6.2.1. What was
// not announced for so long gives its place to something else, even if it does not end: else
// who fills a table once would keep all others out for ever.
const staleTime = 2 * 1800 * time.Second

// A life is the time of something that was learned. The zero Time is never.
type life struct {
	end   time.Time
	heard time.Time // when it was announced last
	// soft is when an address is no longer preferred, and when a default route is to be
	// refreshed.
	soft time.Time
	// old says that it was learned before the interface was perhaps moved to another
	// network, and not again since.
	old bool
}

// A table has what was learned, in the order in which it was, at most source.MaxItems. What was
// learned first stays if others fill it.
type table[K comparable, V any] []*entry[K, V]

type entry[K comparable, V any] struct {
	key K
	life
	v V
}

// put finds an entry, or adds it, for it was announced. It returns nil if there are too many.
func (t *table[K, V]) put(now time.Time, key K) *entry[K, V] {
	e := t.find(key)
	if e == nil {
		if len(*t) == source.MaxItems && !t.makeRoom(now) {
			return nil
		}
		e = &entry[K, V]{key: key}
		*t = append(*t, e)
	}
	e.old, e.heard = false, now
	return e
}

// makeRoom removes what was not announced for the longest time, if that is too long.
func (t *table[K, V]) makeRoom(now time.Time) bool {
	oldest := 0
	for i, e := range *t {
		if e.heard.Before((*t)[oldest].heard) {
			oldest = i
		}
	}
	if now.Sub((*t)[oldest].heard) < staleTime {
		return false
	}
	*t = slices.Delete(*t, oldest, oldest+1)
	return true
}

func (t *table[K, V]) find(key K) *entry[K, V] {
	for _, e := range *t {
		if e.key == key {
			return e
		}
	}
	return nil
}

// update puts or, with a lifetime of 0, removes an entry.
func (t *table[K, V]) update(now time.Time, key K, lifetime time.Duration) *entry[K, V] {
	if lifetime == 0 {
		*t = slices.DeleteFunc(*t, func(e *entry[K, V]) bool { return e.key == key })
		return nil
	}
	e := t.put(now, key)
	if e != nil {
		e.end = after(now, lifetime)
	}
	return e
}

func (t *table[K, V]) each(yield func(*life) bool) bool {
	for _, e := range *t {
		if !yield(&e.life) {
			return false
		}
	}
	return true
}

func (t *table[K, V]) drop(ended func(*life) bool) {
	*t = slices.DeleteFunc(*t, func(e *entry[K, V]) bool { return ended(&e.life) })
}

// after returns the end of a lifetime.
func after(now time.Time, lifetime time.Duration) time.Time {
	if lifetime == ndp.Infinity {
		return time.Time{}
	}
	return now.Add(lifetime)
}

// known is what was learned from all routers.
type known struct {
	routers table[netip.Addr, router] // that heard last is the last
	routes  table[route, int]         // with their preferences
	addrs   table[netip.Prefix, address]
	dns     table[netip.Addr, struct{}]
	search  table[string, struct{}]
}

// A router has said what has no lifetime of its own.
type router struct {
	mtu    int
	portal string
	dhcp6  bool
}

// A route identifies a route. Those on the link have no gateway.
type route struct {
	dst netip.Prefix
	gw  netip.Addr
}

var defaultDst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// tables returns all tables.
func (k *known) tables() []interface {
	each(func(*life) bool) bool
	drop(func(*life) bool)
} {
	return []interface {
		each(func(*life) bool) bool
		drop(func(*life) bool)
	}{&k.routers, &k.routes, &k.addrs, &k.dns, &k.search}
}

// lives returns the lives of all that is known.
func (k *known) lives() iter.Seq[*life] {
	return func(yield func(*life) bool) {
		for _, t := range k.tables() {
			if !t.each(yield) {
				return
			}
		}
	}
}

// drop removes what has ended, and reports whether there was something.
func (k *known) drop(ended func(*life) bool) (dropped bool) {
	for _, t := range k.tables() {
		t.drop(func(l *life) bool {
			gone := ended(l)
			dropped = dropped || gone
			return gone
		})
	}
	return dropped
}

func (k *known) expire(now time.Time) bool {
	return k.drop(func(l *life) bool { return source.Due(l.end, now) })
}

func (k *known) firstEnd() (end time.Time) {
	for l := range k.lives() {
		end = source.First(end, l.end)
	}
	return end
}

// hasDefault reports whether there is a default router.
func (k *known) hasDefault() bool {
	return slices.ContainsFunc(k.routes, func(e *entry[route, int]) bool { return e.key.dst == defaultDst })
}

// refresh returns when the last default router should be heard again, zero if it does not
// end, or there is none.
func (k *known) refresh() (at time.Time) {
	for _, e := range k.routes {
		switch {
		case e.key.dst != defaultDst:
		case e.end.IsZero():
			return time.Time{}
		case e.soft.After(at):
			at = e.soft
		}
	}
	return at
}

// knowsPrefix reports whether an advertisement has a prefix that is known.
func (k *known) knowsPrefix(a advertisement) bool {
	return slices.ContainsFunc(a.prefixes, func(p prefixOption) bool {
		e, f := k.addrs.find(p.prefix), k.routes.find(route{dst: p.prefix})
		return e != nil && e.old || f != nil && f.old
	})
}

// learn follows an advertisement: address makes the address for a prefix, if there is to be
// one. It reports whether something is known by it.
func (k *known) learn(now time.Time, a advertisement, address func(prefixOption) (address, bool)) (learned bool) {
	var longest time.Duration
	took := func(lifetime time.Duration) { learned, longest = true, max(longest, lifetime) }
	route6 := func(r route, preference int, lifetime time.Duration) {
		if e := k.routes.update(now, r, lifetime); e != nil {
			e.v, e.soft = preference, time.Time{}
			if lifetime != ndp.Infinity {
				e.soft = now.Add(lifetime * 3 / 4)
			}
			took(lifetime)
		}
	}
	route6(route{defaultDst, a.router}, a.preference, a.lifetime)
	for _, r := range a.routes { // one to ::/0 decides about the default route
		route6(route{r.dst, a.router}, r.preference, r.lifetime)
	}
	for _, p := range a.prefixes {
		if p.onLink {
			route6(route{dst: p.prefix}, 0, p.valid)
		}
		if e := k.learnAddr(now, p, address); e != nil {
			took(p.valid)
		}
	}
	for _, s := range a.dns {
		if k.dns.update(now, s.v, s.lifetime) != nil {
			took(s.lifetime)
		}
	}
	for _, d := range a.search {
		if k.search.update(now, d.v, d.lifetime) != nil {
			took(d.lifetime)
		}
	}
	// The router becomes the last.
	var said router
	if e := k.routers.find(a.router); e != nil {
		said = e.v
		k.routers.update(now, a.router, 0)
	}
	if e := k.routers.update(now, a.router, longest); e != nil {
		e.v = said
		if a.mtu != 0 {
			e.v.mtu = a.mtu
		}
		if a.portal != "" {
			e.v.portal = a.portal
		}
		e.v.dhcp6 = a.managed || a.other
	}
	return learned
}

// learnAddr follows a prefix for addresses, as RFC 4862, section 5.5.3, says. It returns nil
// if there is no address.
func (k *known) learnAddr(now time.Time, p prefixOption, generate func(prefixOption) (address, bool)) *entry[netip.Prefix, address] {
	if p.preferred > p.valid {
		return nil
	}
	e := k.addrs.find(p.prefix)
	v, ok := generate(p)
	switch {
	case !ok, e == nil && p.valid == 0:
		return nil
	case e == nil:
		if e = k.addrs.put(now, p.prefix); e == nil {
			return nil
		}
		e.v, e.end = v, after(now, p.valid)
	default:
		e.old, e.heard = false, now
		e.v.autonomous = e.v.autonomous || v.autonomous
		longer := p.valid == ndp.Infinity || !e.end.IsZero() && now.Add(p.valid).After(e.end)
		switch {
		case longer, p.valid > twoHours:
			e.end = after(now, p.valid)
		case e.end.IsZero(), e.end.Sub(now) > twoHours:
			e.end = now.Add(twoHours)
		}
	}
	e.soft = after(now, p.preferred)
	return e
}

// lease returns what the sink is to be told.
func (k *known) lease(temporary bool) (l source.Lease) {
	for _, e := range k.addrs {
		if !e.v.taken {
			l.Addrs = append(l.Addrs, source.Addr{
				Prefix: netip.PrefixFrom(e.v.addr, e.key.Bits()), NoPrefixRoute: true, // it has a lifetime of its own
				Preferred: e.soft, Valid: e.end, Temporary: temporary && e.v.autonomous,
			})
		}
	}
	for _, e := range k.routes {
		l.Routes = append(l.Routes, source.Route{Dst: e.key.dst, Gateway: e.key.gw, Expires: e.end, Preference: e.v})
	}
	for _, e := range k.dns {
		l.DNS = append(l.DNS, source.Server{Addr: e.key, Expires: e.end})
	}
	for _, e := range k.search {
		l.Search = append(l.Search, source.Domain{Name: e.key, Expires: e.end})
	}
	for _, e := range k.routers {
		l.Server = e.key
		if e.v.mtu != 0 {
			l.MTU = e.v.mtu
		}
		if e.v.portal != "" {
			l.CaptivePortal = e.v.portal
		}
		l.DHCP6 = l.DHCP6 || e.v.dhcp6
	}
	return l
}
