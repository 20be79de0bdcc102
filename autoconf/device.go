package autoconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/link"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/rtnl"
)

const (
	// firstMetric is the first metric of routes that are learned. Routes that a program
	// makes by hand have precedence: the kernel gives them 0 or, for IPv6, 1024.
	firstMetric rtnl.Metric = 2048
	// metrics is how many an interface needs, one for each preference.
	metrics = 3
	// dadTime bounds duplicate address detection, which takes a second after a delay of up
	// to a second, RFC 4862, section 5.4.2.
	dadTime = 5 * time.Second
	// minMTU is the smallest that IPv6 allows. One that is smaller is not applied, not even
	// to IPv4: a server could disturb all connections with it.
	minMTU = 1280
)

// A device is the interface of a client, in the kernel.
type device interface {
	ifname() string
	// link returns what sources open ports on.
	link() source.Link
	// eth sets the hardware address, unless it is nil, and sets the interface up.
	eth(ctx context.Context, mac net.HardwareAddr) error
	// down sets it down.
	down() error
	// follow takes router advertisements from the kernel, or gives them back.
	follow(bool) error
	// apply configures what a source knows, and removes what it knew before. A
	// [*source.ConflictError] has addresses that were left out, a [*partialError] says what
	// else was.
	apply(ctx context.Context, by Source, l source.Lease) error
	// watch calls f with what happens to the interface, until ctx ends. If it was down,
	// everything that the sources know is applied again before.
	watch(ctx context.Context, f func(change))
	// close removes all that was applied.
	close() error
}

// A partialError says what could not be configured of what a source knows. The rest was.
type partialError struct{ err error }

func (e *partialError) Error() string { return e.err.Error() }
func (e *partialError) Unwrap() error { return e.err }

// A change is something that happened to an interface.
type change struct {
	gone  bool          // it was removed
	up    bool          // it has become up, or got a carrier
	slept time.Duration // the machine was asleep
	err   error         // what could not be applied again
}

// A netDevice is a device of a stack.
type netDevice struct {
	st     *vdestack.Stack
	nl     *rtnl.Conn
	index  int
	metric rtnl.Metric

	naming sync.Mutex // guards name
	name   string

	mu      sync.Mutex // guards the rest; held while the kernel is configured
	leases  map[Source]source.Lease
	addrs   map[addrKey]heldAddr
	routes  map[routeKey]heldRoute
	kernels []rtnl.Addr  // addresses that the kernel has made of router advertisements
	kernel  []rtnl.Route // and routes
	sysctls map[string]setting[string]
	mtu     setting[int] // of the interface; ours is 0 if it is as it was
}

// A setting is one that was changed: what it was, and what we have made of it.
type setting[T any] struct{ before, ours T }

// An addrKey identifies an address: IPv6 has each once on an interface, IPv4 once in each
// network.
type addrKey netip.Prefix

func keyOf(p netip.Prefix) addrKey {
	if p.Addr().Is6() {
		return addrKey(netip.PrefixFrom(p.Addr(), 128))
	}
	return addrKey(p)
}

// A heldAddr is an address that a source knows.
type heldAddr struct {
	by               Source // the first that knows it
	prefix           netip.Prefix
	flags            rtnl.AddrFlags
	preferred, valid time.Time
	foreign          bool // the interface had it already
}

type routeKey struct {
	dst    netip.Prefix
	gw     netip.Addr
	src    netip.Addr  // for routes to the network of an IPv4 address
	metric rtnl.Metric // 0: the kernel's
	ifaces int         // index; 0: the kernel chooses
}

type heldRoute struct {
	by      Source
	options []rtnl.RouteOption
	expires time.Time
	foreign bool // the stack had it already
}

// openDevice finds an interface.
func openDevice(st *vdestack.Stack, name string, index int) (_ *netDevice, err error) {
	nl, err := st.RTNL()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			nl.Close()
		}
	}()
	if index == 0 {
		if index, err = nl.IfNameToIndex(name); err != nil {
			return nil, err
		}
	}
	l, err := nl.Link(index)
	if err != nil {
		return nil, err
	}
	if len(l.HardwareAddr) != 6 || l.Flags&net.FlagLoopback != 0 {
		return nil, fmt.Errorf("interface %s is not an Ethernet", l.Name)
	}
	d := &netDevice{
		st: st, nl: nl, name: l.Name, index: index,
		leases: make(map[Source]source.Lease), addrs: make(map[addrKey]heldAddr), routes: make(map[routeKey]heldRoute),
		sysctls: make(map[string]setting[string]),
	}
	routes, err := nl.Routes()
	if err != nil {
		return nil, err
	}
	d.metric = freeMetric(routes, index)
	return d, d.claim()
}

// configured has the interfaces that a client configures.
var configured = struct {
	mu sync.Mutex // guards by
	by map[ifaceOf]struct{}
}{by: make(map[ifaceOf]struct{})}

// An ifaceOf is an interface of a stack.
type ifaceOf struct {
	st    *vdestack.Stack
	index int
}

// claim makes an interface that of this client alone, until free: of two, each would take
// what the other has made for something that was made by hand, and lose it with the other.
func (d *netDevice) claim() error {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	i := ifaceOf{d.st, d.index}
	if _, ok := configured.by[i]; ok {
		return fmt.Errorf("interface %s has a client already: its Change adds to what it does", d.name)
	}
	configured.by[i] = struct{}{}
	return nil
}

func (d *netDevice) free() {
	configured.mu.Lock()
	defer configured.mu.Unlock()
	delete(configured.by, ifaceOf{d.st, d.index})
}

// freeMetric returns the first of some metrics that no default route of another interface
// has: IPv4 does not take two routes of the same metric, and IPv6 shares the packets between
// them.
func freeMetric(routes []rtnl.Route, index int) rtnl.Metric {
	metric := firstMetric
	for slices.ContainsFunc(routes, func(r rtnl.Route) bool {
		return r.Dst.Bits() == 0 && r.OutIface != index && r.Metric >= metric && r.Metric < metric+metrics
	}) {
		metric += metrics
	}
	return metric
}

func (d *netDevice) ifname() string {
	d.naming.Lock()
	defer d.naming.Unlock()
	return d.name
}

func (d *netDevice) link() source.Link {
	mac, _ := d.nl.LinkAddr(d.index) // without it the interface is gone
	return link.New(d.st, d.ifname(), d.index, mac)
}

func (d *netDevice) eth(ctx context.Context, mac net.HardwareAddr) error {
	old, err := d.nl.Link(d.index)
	if err != nil {
		return err
	}
	changed := mac != nil && mac.String() != old.HardwareAddr.String()
	if changed {
		if err := d.nl.LinkSetAddr(d.index, mac); err != nil {
			return err
		}
		// The kernel keeps the address that it has made of the old one.
		was := netip.PrefixFrom(rd.EUI64(netip.MustParseAddr("fe80::"), old.HardwareAddr), 64)
		if err := d.nl.AddrDel(d.index, was); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return err
		}
	} else {
		mac = old.HardwareAddr
	}
	if err := d.nl.LinkSetUp(d.index); err != nil {
		return err
	}
	if !changed && old.Flags&net.FlagUp != 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.linkLocal(ctx, mac)
}

// linkLocal gives an interface, which has come up, its link-local address, usable at once
// like that of the stack's other interfaces. d.mu is held.
func (d *netDevice) linkLocal(ctx context.Context, mac net.HardwareAddr) error {
	if v, err := d.st.ReadSysctl(d.sysctl("ipv6", "disable_ipv6")); err != nil || v != "0" {
		return nil
	}
	p := netip.PrefixFrom(rd.EUI64(netip.MustParseAddr("fe80::"), mac), 64)
	ctx, cancel := context.WithTimeout(ctx, dadTime)
	defer cancel()
	events := d.nl.Watch(ctx)
	err := d.nl.AddrDel(d.index, p) // the kernel's, for which it looks for duplicates
	if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return err
	}
	if err := d.nl.AddrAdd(d.index, p, rtnl.NoDAD, rtnl.ScopeLink); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Until there is a local route, packets for it are dropped.
	for e, err := range events {
		if err != nil || e.Route != nil && !e.Deleted && e.Route.Table == rtnl.TableLocal && e.Route.Dst.Addr() == p.Addr() {
			break
		}
	}
	return nil
}

func (d *netDevice) down() error { return d.nl.LinkSetDown(d.index) }

// sysctl returns the name of a setting of the interface, whose name may have dots.
func (d *netDevice) sysctl(family, name string) string {
	return "net/" + family + "/conf/" + d.ifname() + "/" + name
}

// set changes a setting until restore. d.mu is held.
func (d *netDevice) set(name, value string) error {
	before, err := d.st.ReadSysctl(name)
	if err != nil {
		return err
	}
	if s, ok := d.sysctls[name]; ok {
		before = s.before
	}
	d.sysctls[name] = setting[string]{before, value}
	return d.st.Sysctl(name, value)
}

// restore gives a setting back, unless somebody else has changed it. d.mu is held.
func (d *netDevice) restore(name string) error {
	s, ok := d.sysctls[name]
	delete(d.sysctls, name)
	if !ok {
		return nil
	}
	if now, err := d.st.ReadSysctl(name); err != nil || now != s.ours {
		return err
	}
	return d.st.Sysctl(name, s.before)
}

func (d *netDevice) follow(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := d.sysctl("ipv6", "accept_ra")
	if !on {
		return d.restore(name)
	}
	if err := d.set(name, "0"); err != nil {
		return err
	}
	// What the kernel has made of advertisements would stay until it ends, and not be
	// renewed any more.
	addrs, err := d.nl.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.IfIndex == d.index && a.Prefix.Addr().Is6() && a.Flags&(rtnl.ManageTempAddr|rtnl.Permanent) == rtnl.ManageTempAddr {
			d.kernels = append(d.kernels, a)
		}
	}
	routes, err := d.nl.Routes()
	for _, r := range routes {
		// Its routes to prefixes on the link look like those that come with addresses.
		byAddr := func(a rtnl.Addr) bool {
			return a.IfIndex == d.index && a.Prefix.Masked() == r.Dst && !slices.Contains(d.kernels, a)
		}
		onLink := r.Protocol == rtnl.ProtocolKernel && !reserved(r.Dst) && !slices.ContainsFunc(addrs, byAddr)
		if r.OutIface == d.index && r.Table == rtnl.TableMain && r.Dst.Addr().Is6() && (r.Protocol == rtnl.ProtocolRA || onLink) {
			d.kernel = append(d.kernel, r)
		}
	}
	return err
}

func (d *netDevice) apply(ctx context.Context, by Source, l source.Lease) error {
	return d.update(ctx, false, by, &l)
}

// update has the kernel follow the sources, all of it if again is set, and waits for the
// detection of duplicates.
func (d *netDevice) update(ctx context.Context, again bool, by Source, l *source.Lease) error {
	wait, cancel := context.WithTimeout(ctx, dadTime)
	defer cancel()
	d.mu.Lock()
	if l != nil {
		d.leases[by] = *l
	}
	events, tentative, err := d.reconcile(wait, by, again)
	if l != nil && by == RD {
		err = errors.Join(err, d.forgetKernels())
	}
	d.mu.Unlock()
	if len(tentative) == 0 {
		return err
	}
	taken, werr := d.detect(events, tentative)
	err = errors.Join(err, werr)
	if len(taken) == 0 {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Every source has to find another.
	for by, l := range d.leases {
		l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a source.Addr) bool { return slices.Contains(taken, a.Prefix.Addr()) })
		d.leases[by] = l
	}
	_, _, rerr := d.reconcile(wait, by, false)
	return errors.Join(err, rerr, &source.ConflictError{Addrs: taken})
}

// forgetKernels removes what the kernel has made of router advertisements, and no source
// knows. d.mu is held.
func (d *netDevice) forgetKernels() (err error) {
	for _, a := range d.kernels {
		if held, ok := d.addrs[keyOf(a.Prefix)]; !ok || held.foreign {
			err = errors.Join(err, ignore(d.nl.AddrRemove(a), syscall.EADDRNOTAVAIL))
		}
	}
	for _, r := range d.kernel {
		err = errors.Join(err, ignore(d.nl.RouteRemove(r), syscall.ESRCH))
	}
	d.kernels, d.kernel = nil, nil
	return err
}

// ignore returns nil for one error.
func ignore(err error, ignored syscall.Errno) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

// reconcile makes the kernel have what the sources know. It returns the IPv6 addresses
// that it has added, for which the kernel looks for duplicates, and the events that tell
// the result, until ctx ends. What is new comes before what goes. With again it trusts
// nothing of what was done before. The error is that of what one source knows, or for "" that
// of all. d.mu is held.
func (d *netDevice) reconcile(ctx context.Context, by Source, again bool) (events iter.Seq2[rtnl.Event, error], tentative map[netip.Addr]bool, err error) {
	now := time.Now()
	w := d.wanted(now)
	tentative = make(map[netip.Addr]bool)
	fail := func(e error) { err = errors.Join(err, e) }
	failed := func(of Source, e error) {
		if by == "" || by == of { // else that source was told
			fail(e)
		}
	}

	fail(d.limits(w))
	some := false // was configured, of what that source knows
	for _, key := range w.addrKeys {
		a := w.addrs[key]
		held, ours := d.addrs[key]
		ours = ours && !held.foreign
		if ours && held.prefix != a.prefix { // the length of an IPv6 address cannot be changed
			fail(ignore(d.nl.AddrDel(d.index, held.prefix), syscall.EADDRNOTAVAIL))
			delete(d.addrs, key)
			ours = false
		}
		if ours && held == a && !again {
			some = some || a.by == by
			continue
		}
		detected := a.prefix.Addr().Is6() && a.flags&rtnl.NoDAD == 0 && (!ours || again)
		if detected && events == nil {
			events = d.nl.Watch(ctx)
		}
		foreign, aerr := d.addAddr(now, a, ours)
		failed(a.by, aerr)
		if aerr != nil {
			continue
		}
		a.foreign = foreign
		d.addrs[key] = a
		some = some || a.by == by
		if detected && !foreign {
			tentative[a.prefix.Addr()] = true
		}
	}
	for _, key := range w.routeKeys {
		r := w.routes[key]
		held, ours := d.routes[key]
		ours = ours && !held.foreign
		aerr := d.nl.RouteAppend(key.dst, key.gw, key.ifaces, append(r.options, expiry(now, r.expires)...)...)
		exists := errors.Is(aerr, fs.ErrExist)
		if aerr != nil && !exists {
			failed(r.by, aerr)
			continue
		}
		r.foreign = exists && !ours
		d.routes[key] = r
		some = some || r.by == by
	}
	for key, r := range d.routes {
		if _, ok := w.routes[key]; !ok {
			delete(d.routes, key)
			fail(d.removeRoute(key, r))
		}
	}
	fail(d.removeAddrs(w.addrs))
	if some && err != nil {
		err = &partialError{err}
	}
	return events, tentative, err
}

// addAddr adds an address, or renews ours. It reports whether it is somebody else's.
func (d *netDevice) addAddr(now time.Time, a heldAddr, ours bool) (foreign bool, err error) {
	life, _ := lifetime(now, a.preferred, a.valid)
	options := []rtnl.AddrOption{a.flags, life}
	add := d.nl.AddrAdd
	if ours || slices.ContainsFunc(d.kernels, func(k rtnl.Addr) bool { return k.Prefix == a.prefix }) {
		add = d.nl.AddrReplace
	}
	if a.flags&rtnl.NoDAD == 0 {
		if last, ok := broadcast(a.prefix); ok {
			options = append(options, rtnl.Broadcast(last))
		}
	}
	err = add(d.index, a.prefix, options...)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	return false, err
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) (netip.Addr, bool) {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return netip.Addr{}, false
	}
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a), true
}

// lifetime returns what is left of the times of an address, and false if it has ended.
func lifetime(now, preferred, valid time.Time) (rtnl.Lifetime, bool) {
	if preferred.IsZero() && valid.IsZero() {
		return rtnl.Lifetime{}, true
	}
	left := func(t time.Time) time.Duration {
		if t.IsZero() {
			return rtnl.Forever
		}
		return max(0, t.Sub(now).Round(time.Second))
	}
	l := rtnl.Lifetime{Preferred: left(preferred), Valid: left(valid)}
	l.Preferred = min(l.Preferred, l.Valid)
	return l, l.Valid > 0
}

// expiry returns the option for the end of a route.
func expiry(now, end time.Time) []rtnl.RouteOption {
	if end.IsZero() {
		return nil
	}
	return []rtnl.RouteOption{rtnl.Expires(max(time.Second, end.Sub(now).Round(time.Second)))}
}

// wants are what the kernel should have, and the order of it.
type wants struct {
	addrs     map[addrKey]heldAddr
	addrKeys  []addrKey
	routes    map[routeKey]heldRoute
	routeKeys []routeKey
}

// wanted returns what the sources know. Of several that know the same, the one counts for
// which it lasts longer. d.mu is held.
func (d *netDevice) wanted(now time.Time) wants {
	all := wants{addrs: make(map[addrKey]heldAddr), routes: make(map[routeKey]heldRoute)}
	for _, by := range order {
		l := d.leases[by]
		for _, a := range l.Addrs {
			if _, ok := lifetime(now, a.Preferred, a.Valid); !ok {
				continue
			}
			key, w := keyOf(a.Prefix), heldAddr{by: by, prefix: a.Prefix, preferred: a.Preferred, valid: a.Valid}
			if a.Temporary {
				w.flags |= rtnl.ManageTempAddr
			}
			if by == Static {
				w.flags |= rtnl.NoDAD
			} else {
				// That of the kernel has the metric of those that were made by hand. In IPv6
				// it would stay until the address ends, even if that is removed.
				w.flags |= rtnl.NoPrefixRoute
				if !a.NoPrefixRoute && !a.Prefix.IsSingleIP() {
					all.addRoute(d.route(by, source.Route{Dst: a.Prefix.Masked(), Expires: a.Valid}, a.Prefix.Addr()))
				}
			}
			if other, ok := all.addrs[key]; !ok {
				all.addrKeys = append(all.addrKeys, key)
			} else {
				w.by, w.prefix, w.flags = other.by, other.prefix, w.flags|other.flags
				w.preferred, w.valid = later(w.preferred, other.preferred), later(w.valid, other.valid)
			}
			all.addrs[key] = w
		}
		for _, r := range l.Routes {
			if !r.Expires.IsZero() && !r.Expires.After(now) {
				continue
			}
			all.addRoute(d.route(by, r, netip.Addr{}))
		}
	}
	return all
}

// addRoute adds a route.
func (all *wants) addRoute(key routeKey, w heldRoute) {
	if other, ok := all.routes[key]; !ok {
		all.routeKeys = append(all.routeKeys, key)
	} else {
		w.by, w.options, w.expires = other.by, other.options, later(w.expires, other.expires)
	}
	all.routes[key] = w
}

// later returns the later of two instants. The zero Time is never.
func later(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return time.Time{}
	}
	if a.After(b) {
		return a
	}
	return b
}

// route returns the route of the kernel for one of a source. src is the address that it comes
// with, if it does.
func (d *netDevice) route(by Source, r source.Route, src netip.Addr) (routeKey, heldRoute) {
	key, w := routeKey{dst: r.Dst, gw: r.Gateway, ifaces: d.index}, heldRoute{by: by}
	is4 := r.Dst.Addr().Is4()
	if by == Static {
		if is4 {
			key.ifaces = 0
		}
		w.options = []rtnl.RouteOption{rtnl.ProtocolStatic}
		return key, w
	}
	key.metric = d.metric + 1 - rtnl.Metric(min(max(r.Preference, -1), 1))
	protocol := rtnl.ProtocolDHCP
	if by == RD {
		protocol = rtnl.ProtocolRA
	}
	w.options = []rtnl.RouteOption{protocol, key.metric}
	switch {
	case is4 && !r.Gateway.IsValid():
		w.options = append(w.options, rtnl.ScopeLink)
		if src.IsValid() {
			key.src = src
			w.options = append(w.options, rtnl.Source(src))
		}
	case is4: // a server may name one that is in no network of the interface
		w.options = append(w.options, rtnl.OnLink)
	default:
		w.expires = r.Expires
	}
	return key, w
}

func (d *netDevice) removeRoute(key routeKey, r heldRoute) error {
	if r.foreign {
		return nil
	}
	if !key.gw.IsValid() && key.dst.Addr().Is6() {
		key.gw = netip.IPv6Unspecified() // else any gateway would do
	}
	// It goes with the interface, or when it is set down.
	return ignore(d.nl.RouteDel(key.dst, key.gw, key.ifaces, r.options...), syscall.ESRCH)
}

// removeAddrs removes our addresses that are not wanted. d.mu is held.
func (d *netDevice) removeAddrs(wanted map[addrKey]heldAddr) (err error) {
	var have []rtnl.Addr
	for key, a := range d.addrs {
		if _, ok := wanted[key]; ok {
			continue
		}
		delete(d.addrs, key)
		if a.foreign {
			continue
		}
		if have == nil {
			if have, err = d.nl.Addrs(); err != nil {
				return err
			}
		}
		for _, h := range have {
			if h.IfIndex == d.index && h.Prefix == a.prefix && !h.Peer.IsValid() {
				err = errors.Join(err, ignore(d.nl.AddrRemove(h), syscall.EADDRNOTAVAIL))
			}
		}
	}
	return err
}

// detect waits until duplicate address detection has ended, and returns the addresses
// that another host has.
func (d *netDevice) detect(events iter.Seq2[rtnl.Event, error], tentative map[netip.Addr]bool) (taken []netip.Addr, err error) {
	look := func(a rtnl.Addr, deleted bool) {
		local := a.Prefix.Addr()
		if a.IfIndex != d.index || !tentative[local] {
			return
		}
		switch {
		case deleted, a.Flags&rtnl.DADFailed != 0:
			taken = append(taken, local)
		case a.Flags&rtnl.Tentative != 0:
			return
		}
		delete(tentative, local)
	}
	for e, werr := range events {
		if errors.Is(werr, syscall.ENOBUFS) {
			var all []rtnl.Addr
			if all, werr = d.nl.Addrs(); werr == nil {
				for _, a := range all {
					look(a, false)
				}
			}
		}
		if werr != nil {
			return taken, werr
		}
		if e.Addr != nil {
			look(*e.Addr, e.Deleted)
		}
		if len(tentative) == 0 {
			break
		}
	}
	return taken, nil // the others are still tentative, for the interface has no carrier
}

// limits sets what the interface has for all addresses. d.mu is held.
func (d *netDevice) limits(w wants) error {
	temporary, learned4 := false, false
	for _, a := range w.addrs {
		temporary = temporary || a.flags&rtnl.ManageTempAddr != 0
		learned4 = learned4 || a.by != Static && a.prefix.Addr().Is4()
	}
	l, err := d.nl.Link(d.index)
	if err != nil {
		return err
	}
	// What was set by somebody else meanwhile stays.
	if d.mtu.ours != 0 && l.MTU != d.mtu.ours {
		d.mtu = setting[int]{}
	}
	before := l.MTU
	if d.mtu.ours != 0 {
		before = d.mtu.before
	}
	mtu := before // never more: the network behind the interface may not carry it
	if m := d.leases[DHCP4].MTU; m >= minMTU && m < before {
		mtu = m
	}
	mtu6 := d.sysctl("ipv6", "mtu")
	if mtu != l.MTU {
		err = d.nl.LinkSetMTU(d.index, mtu)
		// The kernel sets that of IPv6 too.
		if s, ok := d.sysctls[mtu6]; ok && s.before == strconv.Itoa(l.MTU) {
			d.sysctls[mtu6] = setting[string]{strconv.Itoa(mtu), s.ours}
		}
	}
	d.mtu = setting[int]{}
	if mtu != before {
		d.mtu = setting[int]{before, mtu}
	}
	m := d.leases[RD].MTU
	return errors.Join(err,
		d.limit(mtu6, strconv.Itoa(m), m >= minMTU && m <= mtu),
		d.limit(d.sysctl("ipv6", "use_tempaddr"), "2", temporary),
		// Else the kernel would remove with an address that ends those which came into its
		// network later, by hand too.
		d.limit(d.sysctl("ipv4", "promote_secondaries"), "1", learned4))
}

// limit sets a setting, or restores it. d.mu is held.
func (d *netDevice) limit(name, value string, set bool) error {
	if !set {
		return d.restore(name)
	}
	if now, err := d.st.ReadSysctl(name); err == nil && now == value {
		return nil
	}
	return d.set(name, value)
}

func (d *netDevice) watch(ctx context.Context, f func(change)) {
	var (
		wg sync.WaitGroup
		mu sync.Mutex // held while f runs
	)
	wg.Go(func() {
		for slept := range sleeps(ctx) {
			mu.Lock()
			f(change{slept: slept})
			mu.Unlock()
		}
	})
	defer wg.Wait()
	events := d.nl.Watch(ctx)
	const running = net.FlagUp | net.FlagRunning
	now, _ := d.nl.Link(d.index) // if it is gone, the event tells
	up := now.Flags&running == running
	for e, err := range events {
		l := e.Link
		switch {
		case errors.Is(err, syscall.ENOBUFS):
			up = false // perhaps it was
			if now, err = d.nl.Link(d.index); err != nil {
				continue
			}
			l = &now
		case err != nil && l == nil:
			continue
		case l == nil || l.Index != d.index:
			continue
		case e.Deleted:
			mu.Lock()
			f(change{gone: true})
			mu.Unlock()
			continue
		}
		d.naming.Lock()
		d.name = l.Name
		d.naming.Unlock()
		was := up
		if up = l.Flags&running == running; up && !was {
			err := d.update(ctx, true, "", nil)
			mu.Lock()
			f(change{up: true, err: err})
			mu.Unlock()
		}
	}
}

// close removes all that was applied. What has gone with the interface is no error.
func (d *netDevice) close() error {
	defer d.free()
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.leases)
	_, _, err := d.reconcile(context.Background(), "", false)
	for name := range d.sysctls {
		err = errors.Join(err, d.restore(name))
	}
	if gone(err) {
		err = nil
	}
	return errors.Join(err, d.nl.Close())
}

// gone reports whether an error says that there is no interface, or no stack, any more.
func gone(err error) bool {
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, net.ErrClosed) || errors.Is(err, fs.ErrNotExist)
}
