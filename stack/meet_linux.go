//go:build amd64 || arm64

package stack

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/neigh"
)

// hosts are the interfaces of a network of the kernel, by the addresses that they were
// made with.
type hosts struct {
	mu  sync.RWMutex
	all map[*iface]bool
	by  map[netip.Addr]*iface
}

func (h *hosts) add(i *iface) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all, h.by = make(map[*iface]bool), make(map[netip.Addr]*iface)
	}
	h.all[i] = true
	for _, p := range i.cfg.Addrs {
		h.by[p.Addr()] = i
	}
}

func (h *hosts) drop(i *iface) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, i)
	for _, p := range i.cfg.Addrs {
		if h.by[p.Addr()] == i {
			delete(h.by, p.Addr())
		}
	}
}

// find returns the interface with an address, if there are so many that a question
// for it is a burden.
func (h *hosts) find(addr netip.Addr) *iface {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.all) <= crowd {
		return nil
	}
	return h.by[addr]
}

// acquaintances are those that an interface was introduced to.
type acquaintances struct {
	mu  sync.Mutex
	all map[netip.Addr]*meeting
}

// A meeting is with an interface that has the address.
type meeting struct {
	with  *iface
	since time.Time
	over  chan struct{} // closed when they know each other
}

const (
	// crowd is how many interfaces a network may have before addresses are not asked
	// for. From twice as many on, an introduction takes less time than a question.
	crowd = 64
	// mostMet bounds what an interface remembers; it may meet somebody again.
	mostMet = 64
	// remembered is how long, for the kernel may forget who is not talked to.
	remembered = time.Minute
)

// introducing bounds how many introductions go on at once, each with two descriptors.
var introducing = make(chan struct{}, 8)

// Meet is called before a socket of the stack is connected to an address. Where that is
// of another stack on a crowded network of the kernel, or behind a gateway that is, the
// two learn the hardware addresses of each other, so that nobody has to ask for them.
// It fails in silence: then the kernel asks. As with everything about interfaces, it
// may have to wait for the kernel, which does one thing at a time; ctx bounds that.
func (s *Stack) Meet(ctx context.Context, to netip.Addr) {
	if to = to.Unmap(); s.neighbors == nil || !to.IsGlobalUnicast() {
		return
	}
	if i, from, next := s.hop(to); i != nil && i.lan != nil {
		i.meet(ctx, from, next)
	}
}

// hop returns the interface by which the configuration leads to an address, its own
// address and the next one on the way. The routes may be others by now; who is met
// then is met in vain.
func (s *Stack) hop(to netip.Addr) (_ *iface, from, next netip.Addr) {
	for _, i := range s.ifaces {
		if from := i.near(to); from.IsValid() {
			return i, from, to
		}
	}
	for _, i := range s.ifaces {
		for _, gw := range i.cfg.Gateways {
			if from := i.near(gw); from.IsValid() && gw.Is4() == to.Is4() {
				return i, from, gw
			}
		}
	}
	return nil, netip.Addr{}, netip.Addr{}
}

// near returns the address of the interface in the subnet of another one.
func (i *iface) near(a netip.Addr) netip.Addr {
	for _, p := range i.cfg.Addrs {
		if p.Contains(a) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// meet has the interface know the one with the address next, and be known to it.
func (i *iface) meet(ctx context.Context, from, next netip.Addr) {
	with := i.lan.hosts.find(next)
	if with == nil || with == i || with.s.neighbors == nil {
		return
	}
	m := i.met.begin(with, next, func() {
		neigh.Introduce(neigh.Party{Space: i.s.neighbors, Index: i.index, Addr: from}, neigh.Party{Space: with.s.neighbors, Index: with.index, Addr: next})
	})
	select {
	case <-m.over:
	case <-ctx.Done():
	}
}

// begin returns the meeting with an interface, which is begun unless it was.
func (a *acquaintances) begin(with *iface, addr netip.Addr, introduce func()) *meeting {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.all[addr]; m != nil && m.with == with && time.Since(m.since) < remembered {
		return m
	}
	if a.all == nil || len(a.all) >= mostMet {
		a.all = make(map[netip.Addr]*meeting)
	}
	m := &meeting{with: with, since: time.Now(), over: make(chan struct{})}
	a.all[addr] = m
	go func() {
		defer close(m.over)
		introducing <- struct{}{}
		defer func() { <-introducing }()
		introduce()
	}()
	return m
}
