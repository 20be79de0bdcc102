package serve

import (
	"bytes"
	"container/list"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxBindings bounds the memory for clients, invented ones too.
	maxBindings = 1 << 14
	// offerTime is how long an address is kept for the client that it was offered to.
	offerTime = 30 * time.Second
	// declineTime is how long an address that another host has is not offered.
	declineTime = 10 * time.Minute
)

// A Lease is an address that a client has.
type Lease struct {
	Addr netip.Addr
	// MAC is nil if it is not known, which is so with some DUIDs.
	MAC net.HardwareAddr
	// ClientID is option 61 of DHCPv4, nil if the client has not sent it, or the DUID of DHCPv6.
	ClientID []byte
	// Name is the client's in DNS, without a trailing dot; empty if it has none.
	Name    string
	Expires time.Time
}

// A state of a binding. Bindings of a state are in the order in which they end: each state has
// one duration.
type state int

const (
	ended    state = iota // nobody has the address; its last client gets it again
	offered               // until the client requests it
	declined              // another host has it
	leased
	states
)

// A binding is an address and who has it, or had it.
type binding struct {
	Lease
	key   string // of the client, empty if another host has the address
	state state
	place *list.Element // in the list of its state; nil for reserved addresses
	probe *probe        // that an offer waits for; nil when there is none
}

// live reports whether a client has the address.
func (b *binding) live(now time.Time) bool { return b.state == leased && b.Expires.After(now) }

// A client is who has sent a message.
type client struct {
	key       string // the identifier, or else the MAC
	mac       net.HardwareAddr
	id        []byte
	name      string     // in DNS, which it says is its own; empty if it has not said a good one
	requested netip.Addr // the address it wants, or the zero Addr
	reserved  *Reservation
}

// A table has the leases of a network. One goroutine changes it, others read.
type table struct {
	network netip.Prefix
	own     []netip.Prefix
	cfg     *settings
	kept    map[netip.Addr]*Reservation // addresses that are not in pools; nil for those of no client

	// taken reports whether another client has a name by DHCPv6; nil without that. t.mu is
	// held.
	taken func(name string, mac net.HardwareAddr, now time.Time) bool

	mu     sync.Mutex // guards the rest; the goroutine that changes it reads without
	byAddr map[netip.Addr]*binding
	byKey  map[string]*binding
	byName names[binding]
	order  [states]list.List // of *binding
	pool   int               // the pool of next
	next   netip.Addr        // the first that was never looked at; the zero Addr after the last pool
}

func newTable(cfg *settings, network netip.Prefix, own []netip.Prefix) *table {
	t := &table{
		network: network, own: own, cfg: cfg, kept: make(map[netip.Addr]*Reservation),
		byAddr: make(map[netip.Addr]*binding), byKey: make(map[string]*binding), byName: makeNames[binding](),
	}
	for _, p := range own {
		t.kept[p.Addr()] = nil
	}
	for _, addrs := range append(slices.Collect(maps.Values(cfg.hosts)), cfg.DHCP4.Routers, cfg.DHCP4.NTP, cfg.Nameservers) {
		for _, a := range addrs {
			t.kept[a] = nil
		}
	}
	for i := range cfg.DHCP4.Reservations {
		if r := &cfg.DHCP4.Reservations[i]; r.Addr.IsValid() {
			t.kept[r.Addr] = r
		}
	}
	t.next = cfg.DHCP4.Pools[0].First
	return t
}

// reservation returns that of a client, or nil.
func (t *table) reservation(c *client) *Reservation {
	all := t.cfg.DHCP4.Reservations
	i := slices.IndexFunc(all, func(r Reservation) bool {
		return r.MAC != nil && bytes.Equal(r.MAC, c.mac) || r.ClientID != nil && bytes.Equal(r.ClientID, c.id)
	})
	if i < 0 {
		i = slices.IndexFunc(all, func(r Reservation) bool {
			return r.MAC == nil && r.ClientID == nil && r.Name == c.name
		})
	}
	if i < 0 {
		return nil
	}
	return &all[i]
}

// inPools reports whether an address is for clients without a reservation.
func (t *table) inPools(a netip.Addr) bool {
	if _, ok := t.kept[a]; ok || !usable(t.network, a) {
		return false
	}
	return slices.ContainsFunc(t.cfg.DHCP4.Pools, func(r Range) bool { return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 })
}

// may reports whether a client may have an address, as far as other clients do not matter.
func (t *table) may(c *client, a netip.Addr) bool {
	if r := t.kept[a]; r != nil {
		return r == c.reserved
	}
	return t.inPools(a)
}

// free reports whether a client may have an address. One that is offered to another is free
// for a client that was offered it before. t.mu is held.
func (t *table) free(c *client, a netip.Addr, wasOffered bool) bool {
	if !t.may(c, a) {
		return false
	}
	b := t.byAddr[a]
	return b == nil || b.state == ended || b.key == c.key && b.state != declined || b.state == offered && wasOffered
}

// sweep ends what has ended. t.mu is held.
func (t *table) sweep(now time.Time) {
	for s := offered; s < states; s++ {
		for e := t.order[s].Front(); e != nil; e = t.order[s].Front() {
			b := e.Value.(*binding)
			if b.Expires.After(now) {
				break
			}
			t.move(b, ended, now)
		}
	}
	for _, r := range t.kept {
		if r == nil {
			continue
		}
		if b := t.byAddr[r.Addr]; b != nil && b.state != ended && !b.Expires.After(now) {
			t.move(b, ended, now)
		}
	}
}

// move gives a binding another state. t.mu is held.
func (t *table) move(b *binding, to state, until time.Time) {
	if b.place != nil {
		t.order[b.state].Remove(b.place)
		b.place = nil
	}
	if to != leased && b.Name != "" {
		t.byName.delete(b.Name)
		b.Name = ""
	}
	if to != offered {
		b.probe = nil
	}
	b.state, b.Expires = to, until
	if t.kept[b.Addr] == nil {
		b.place = t.order[to].PushBack(b)
	}
}

// take gives the binding of an address to a client, which loses the one it had.
// t.mu is held.
func (t *table) take(c *client, a netip.Addr, s state, until time.Time) *binding {
	b := t.byAddr[a]
	if b == nil {
		b = &binding{Lease: Lease{Addr: a}}
		t.byAddr[a] = b
	}
	if b.key != c.key {
		t.move(b, ended, until) // it has no name from here on
		t.forget(b)
		if had := t.byKey[c.key]; had != nil {
			if had.state != declined {
				t.move(had, ended, until)
			}
			t.forget(had)
		}
		b.key = c.key
		t.byKey[c.key] = b
	}
	b.MAC, b.ClientID = c.mac, c.id
	t.move(b, s, until)
	return b
}

// forget has a binding have no client. t.mu is held.
func (t *table) forget(b *binding) {
	if t.byKey[b.key] == b {
		delete(t.byKey, b.key)
	}
	b.key, b.MAC, b.ClientID = "", nil, nil
}

// offer chooses the address for a client: that of its reservation, the one it has or had, the
// one it wants, one that nobody had, the one that ended first, the one that another host was
// said to have first, and the one that was offered first: what was invented does not keep
// others from an address. probed says that no other host has it. b is nil if all are leased.
func (t *table) offer(c *client, now time.Time) (b *binding, probed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	until := now.Add(offerTime)
	if r := c.reserved; r != nil && r.Addr.IsValid() && t.free(c, r.Addr, false) {
		return t.offerAddr(c, r.Addr, until)
	}
	if had := t.byKey[c.key]; had != nil && t.free(c, had.Addr, false) {
		return t.offerAddr(c, had.Addr, until)
	}
	if t.free(c, c.requested, false) && (t.byAddr[c.requested] != nil || len(t.byAddr) < maxBindings) {
		return t.offerAddr(c, c.requested, until)
	}
	if len(t.byAddr) < maxBindings {
		if a, ok := t.fresh(); ok {
			return t.offerAddr(c, a, until)
		}
	}
	for _, s := range []state{ended, declined, offered} {
		if e := t.order[s].Front(); e != nil {
			return t.offerAddr(c, e.Value.(*binding).Addr, until)
		}
	}
	return nil, false
}

// offerAddr offers an address, or confirms it to a client that has a lease. t.mu is held.
func (t *table) offerAddr(c *client, a netip.Addr, until time.Time) (*binding, bool) {
	if b := t.byAddr[a]; b != nil && b.key == c.key && (b.state == leased || b.state == offered && b.probe == nil) {
		if b.state == offered {
			t.move(b, offered, until)
		}
		return b, true
	}
	if b := t.byAddr[a]; b != nil && b.key == c.key && b.state == offered {
		return b, false // it is being probed
	}
	return t.take(c, a, offered, until), false
}

// fresh returns the next address of the pools that nobody had. t.mu is held.
func (t *table) fresh() (netip.Addr, bool) {
	for pools := t.cfg.DHCP4.Pools; t.next.IsValid(); {
		a := t.next
		if t.next = a.Next(); a == pools[t.pool].Last {
			t.pool++
			t.next = netip.Addr{}
			if t.pool < len(pools) {
				t.next = pools[t.pool].First
			}
		}
		if t.byAddr[a] == nil && t.inPools(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// lease gives a client a lease of an address, if that is free.
func (t *table) lease(c *client, a netip.Addr, wasOffered bool, now time.Time) (Lease, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	if !t.free(c, a, wasOffered) || t.byAddr[a] == nil && len(t.byAddr) >= maxBindings {
		return Lease{}, false
	}
	b := t.take(c, a, leased, now.Add(t.cfg.DHCP4.LeaseTime))
	t.name(b, c, now)
	return b.Lease, true
}

// name gives a binding the name of its client, unless another has it. t.mu is held.
func (t *table) name(b *binding, c *client, now time.Time) {
	name := c.name
	if c.reserved != nil && c.reserved.Name != "" {
		name = c.reserved.Name
	}
	if name == b.Name {
		return
	}
	if b.Name != "" {
		t.byName.delete(b.Name)
		b.Name = ""
	}
	if name == "" || t.byName.by[name] != nil || !t.cfg.mayName(name, c.reserved) || t.taken != nil && t.taken(name, c.mac, now) {
		return
	}
	b.Name = name
	t.byName.set(name, b)
}

// end ends a client's lease or offer of an address; the address is then in another state.
func (t *table) end(key string, a netip.Addr, s state, until time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byAddr[a]
	if b == nil || b.key != key || b.state != leased && b.state != offered {
		return false
	}
	t.move(b, s, until)
	if s == declined {
		t.forget(b)
	}
	return true
}

// endOffer ends an offer, not a lease: the client has chosen another server, or says so.
func (t *table) endOffer(key string, a netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byAddr[a]; b != nil && b.key == key && b.state == offered {
		t.move(b, ended, now)
	}
}

// has reports whether a client has an address, and which, by lease or offer.
func (t *table) has(key string, now time.Time) (netip.Addr, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	if b := t.byKey[key]; b != nil && (b.state == leased || b.state == offered) {
		return b.Addr, true
	}
	return netip.Addr{}, false
}

// known reports whether an address is given by this server only.
func (t *table) known(a netip.Addr) bool {
	_, kept := t.kept[a]
	return kept || t.inPools(a)
}

// probed ends a probe. It returns false if the address was taken from its client meanwhile.
func (t *table) probed(p *probe) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.b.probe != p {
		return false
	}
	p.b.probe = nil
	return true
}

// leases returns all leases.
func (t *table) leases(now time.Time) (all []Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.byAddr {
		if b.live(now) {
			l := b.Lease
			l.MAC, l.ClientID = slices.Clone(l.MAC), slices.Clone(l.ClientID)
			all = append(all, l)
		}
	}
	return all
}

// addrOf returns the address of the client with a name.
func (t *table) addrOf(name string, now time.Time) (netip.Addr, bool) {
	if t == nil {
		return netip.Addr{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byName.by[name]
	if b == nil || !b.live(now) {
		return netip.Addr{}, false
	}
	return b.Addr, true
}

// nameOf returns the name of the client with an address.
func (t *table) nameOf(a netip.Addr, now time.Time) string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byAddr[a]; b != nil && b.live(now) {
		return b.Name
	}
	return ""
}

// hasBelow reports whether the name of a client is below another.
func (t *table) hasBelow(name string, now time.Time) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	return t.byName.below[name] > 0
}
