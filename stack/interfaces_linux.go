//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vdestack/vdestack/internal/neigh"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// AddInterface makes an interface, as New makes those of its Config. ctx bounds that.
// An error leaves nothing behind.
func (s *Stack) AddInterface(ctx context.Context, cfg Interface) error {
	return s.orNone().addNew(ctx, &iface{cfg: cfg})
}

// addNew claims an interface, and makes it.
func (s *Stack) addNew(ctx context.Context, i *iface) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.beginChange(); err != nil {
		return err
	}
	defer s.changes.Done()
	i.cancel = cancel
	if err := s.claim(i); err != nil {
		return s.wrap(err)
	}
	err := s.addInterface(ctx, i)
	switch {
	case err != nil && s.isClosed():
		return s.errClosed()
	case err != nil:
		return netns.Limited(s.wrap(err))
	}
	return nil
}

func (s *Stack) addInterface(ctx context.Context, i *iface) error {
	var n *network
	if i.tun == nil && i.cfg.plugged() {
		n = s.newNetwork(ctx, i.cfg)
	}
	nl, err := s.RTNL()
	if err != nil {
		err = &InterfaceError{i.cfg.Name, i.cfg.VNL, err}
	} else {
		defer nl.Close()
		err = s.add(ctx, nl, i, n)
	}
	if err != nil {
		err = errors.Join(err, i.remove(-1))
		s.forget(i)
		s.refuseUnscoped(nl)
	}
	return err
}

// RemoveInterface removes an interface that New or AddInterface made, by its current
// name or, if no interface in the namespace has that, the name that it was made with.
// After an error of the network or the recording it is gone all the same.
func (s *Stack) RemoveInterface(name string) error {
	s = s.orNone()
	if err := s.beginChange(); err != nil {
		return err
	}
	defer s.changes.Done()
	if text := netns.GivenUp(); text != "" {
		return s.wrap(refused(fmt.Errorf("removing interface %s: %w", nameText(name), fs.ErrPermission), text))
	}
	i, err := s.find(name)
	if err == nil && !s.take(i) {
		err = noInterface(name) // another call was faster
	}
	if err != nil {
		return s.wrap(err)
	}
	return s.removeTaken(i, name)
}

// removeTaken removes an interface that take has taken out of use.
func (s *Stack) removeTaken(i *iface, name string) error {
	nl, err := s.RTNL()
	if err == nil {
		defer nl.Close()
	}
	err = errors.Join(i.leave(true, nl), i.remove(-1))
	if err != nil {
		err = s.wrap(fmt.Errorf("removing interface %s: %w", name, err))
	}
	s.forget(i)
	s.refuseUnscoped(nil)
	return err
}

// beginChange has Close wait for changes.Done. It is an error after Close.
func (s *Stack) beginChange() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.errClosed()
	}
	s.changes.Add(1)
	return nil
}

// interfaces returns the interfaces in use.
func (s *Stack) interfaces() []*iface {
	if all := s.ifaces.Load(); all != nil {
		return *all
	}
	return nil
}

// claim is reserve, and chooses no name of an interface that others made.
func (s *Stack) claim(i *iface) error {
	chosen := i.cfg.Name == ""
	for taken := make(map[string]bool); ; i.cfg.Name = "" {
		err := s.reserve(i, taken)
		ours := !s.joined && !s.inUse.Load() // a new namespace, which others do not have yet
		if err != nil || !chosen || ours {
			return err
		}
		if index, err := s.indexOf(i.cfg.Name); index == 0 || err != nil {
			return nil
		}
		s.forget(i)
		taken[i.cfg.Name] = true
	}
}

// reserve checks an interface that is to be made, and reserves its name and default
// routes until forget is called. A name that it chooses is not in taken. Close calls
// i.cancel.
func (s *Stack) reserve(i *iface, taken map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Concat(s.interfaces(), s.changing)
	var others []Interface
	for _, o := range all {
		others = append(others, o.cfg)
	}
	prefix, first, maxMTU := "vde", len(others), vdeplug.MaxMTU
	if i.tun != nil {
		prefix, first, maxMTU = "tun", 0, maxTUN
	}
	for n := first; i.cfg.Name == ""; n++ {
		name := fmt.Sprintf("%s%d", prefix, n)
		if !taken[name] && !slices.ContainsFunc(others, func(o Interface) bool { return o.Name == name }) {
			i.cfg.Name = name
		}
	}
	err := i.cfg.check(maxMTU)
	if err == nil {
		err = i.cfg.conflict(others)
	}
	if err != nil {
		return &InterfaceError{i.cfg.Name, i.cfg.VNL, err}
	}
	i.s, i.wanted = s, firstIndex+s.claimed
	if s.joined {
		i.wanted = 2*firstIndex + rand.IntN(1<<30)
	}
	s.claimed++
	s.changing = append(s.changing, i)
	if s.closed { // Close has not seen it
		i.cancel(net.ErrClosed)
	}
	return nil
}

// use takes an interface that was made into use.
func (s *Stack) use(i *iface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(slices.Clone(s.interfaces()), i)
	s.ifaces.Store(&all)
	s.changing = without(s.changing, i)
}

// forget ends the claim of an interface that could not be made, or was removed.
func (s *Stack) forget(i *iface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changing = without(s.changing, i)
}

// take takes an interface out of use, which keeps its claim. It reports false if another
// call has done so.
func (s *Stack) take(i *iface) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.interfaces()
	left := without(all, i)
	if len(left) == len(all) {
		return false
	}
	s.ifaces.Store(&left)
	s.changing = append(s.changing, i)
	return true
}

// without returns a copy of a list without an interface.
func without(list []*iface, i *iface) []*iface {
	return slices.DeleteFunc(slices.Clone(list), func(o *iface) bool { return o == i })
}

// add makes an interface that was claimed, and takes it into use. n is the network that
// it is plugged into, nil if the kernel switches that. After an error the caller
// removes the interface, and ends its claim.
func (s *Stack) add(ctx context.Context, nl *rtnl.Conn, i *iface, n *network) error {
	s.refuseUnscoped(nl)
	if err := i.setUp(ctx, nl, n); err != nil {
		return &InterfaceError{i.cfg.Name, i.cfg.VNL, err}
	}
	s.use(i)
	return nil
}

// keepNeighbors begins to mark the neighbours of an interface, and of the stack.
func (s *Stack) keepNeighbors(index int) {
	s.keep.Do(func() {
		space, err := neigh.Keep(s.ns, !s.joined)
		if err != nil {
			s.log.Debug("neighbours take places in the machine's table", "error", err)
			return
		}
		s.neighbors.Store(space)
	})
	s.neighbors.Load().Own(index)
}

// find returns the interface that has a name now or, if no interface in the namespace
// has it, the one that was made with it.
func (s *Stack) find(name string) (*iface, error) {
	before, changing := s.interfaces(), s.isChanging(name)
	index, err := s.indexOf(name)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(before, s.interfaces()) // other calls add and remove some
	at := slices.IndexFunc(all, func(i *iface) bool {
		if index == 0 {
			return i.cfg.Name == name
		}
		return i.index == index
	})
	switch {
	case at >= 0:
		return all[at], nil
	case index != 0 && !changing && !s.isChanging(name):
		return nil, fmt.Errorf("interface %q is none of New or AddInterface: RTNL changes it", name)
	}
	return nil, noInterface(name)
}

// isChanging reports whether an interface that is made with a name is being made or
// removed.
func (s *Stack) isChanging(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.changing, func(i *iface) bool { return i.cfg.Name == name })
}

// indexOf returns the index of the interface in the namespace that has the name now; 0 if
// there is none.
func (s *Stack) indexOf(name string) (int, error) {
	if checkName(name) != nil {
		return 0, nil
	}
	fd, err := s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	index, err := netns.IfIndex(fd, name)
	if errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	return index, err
}

// unscoped are the link-local destinations that are unreachable without a zone.
type unscoped struct {
	mu  sync.Mutex // guards all; held while routes are changed
	all map[netip.Prefix]bool
}

// refuseUnscoped makes link-local destinations without a zone unreachable while there
// are several interfaces. Package net knows the names of the host's interfaces only,
// and drops any other zone; the kernel would then take the first interface, perhaps the
// wrong network. The routes are loopback's: they do not count for destinations with a
// zone, nor for sockets that are bound to an interface. In a joined namespace they
// would affect others. nl may be nil.
func (s *Stack) refuseUnscoped(nl *rtnl.Conn) {
	if s.joined {
		return
	}
	s.unscoped.mu.Lock()
	defer s.unscoped.mu.Unlock()
	s.mu.Lock()
	want := unscopedOf(slices.Concat(s.interfaces(), s.changing))
	s.mu.Unlock()
	if maps.Equal(s.unscoped.all, want) {
		return
	}
	if err := s.changeUnscoped(nl, want); err != nil {
		s.log.Debug("link-local destinations without a zone go to the first interface", "error", err)
	}
}

// changeUnscoped adds and deletes routes as wanted. s.unscoped.mu is held.
func (s *Stack) changeUnscoped(nl *rtnl.Conn, want map[netip.Prefix]bool) (err error) {
	if nl == nil {
		if nl, err = s.RTNL(); err != nil {
			return err
		}
		defer nl.Close()
	}
	have := s.unscoped.all
	s.unscoped.all = want
	change := func(from, to map[netip.Prefix]bool, f func(netip.Prefix, netip.Addr, int, ...rtnl.RouteOption) error) {
		for p := range to {
			if from[p] {
				continue
			}
			where := rtnl.RouteOption(rtnl.Metric(1))
			if p.Addr().IsMulticast() {
				where = rtnl.Table(unix.RT_TABLE_LOCAL)
			}
			err = errors.Join(err, f(p, netip.Addr{}, 0, rtnl.Unreachable, where))
		}
	}
	change(have, want, nl.RouteAdd)
	change(want, have, nl.RouteDel)
	return err
}

// unscopedOf returns the destinations for some interfaces. Their routes have precedence
// over the kernel's own: those of hosts by a lower metric and the prefixes of the
// addresses, those of groups by a longer prefix.
func unscopedOf(all []*iface) map[netip.Prefix]bool {
	if len(all) < 2 {
		return nil
	}
	want := map[netip.Prefix]bool{netip.MustParsePrefix("fe80::/10"): true, netip.MustParsePrefix("fe80::/64"): true}
	for _, i := range all {
		for _, p := range i.cfg.Addrs {
			if a := p.Addr(); a.Is6() && a.IsLinkLocalUnicast() && !p.IsSingleIP() {
				want[p.Masked()] = true
			}
		}
	}
	for _, flags := range []byte{0, 1, 3, 7} { // of multicast addresses, RFC 4291 and 7371
		group := netip.AddrFrom16([16]byte{0: 0xff, 1: flags<<4 | 2})
		want[netip.PrefixFrom(group, 16)] = true
	}
	return want
}
