//go:build amd64 || arm64

package bridge

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/neigh"
)

// A host is an interface on a switch with its configured addresses.
type host struct {
	space *neigh.Space
	index int
	addrs []netip.Prefix
	met   meetings
}

// hosts are the hosts of a switch.
type hosts struct {
	mu    sync.RWMutex
	count int
	by    map[netip.Addr]*host
}

func (hs *hosts) add(h *host) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.by == nil {
		hs.by = make(map[netip.Addr]*host)
	}
	hs.count++
	for _, p := range h.addrs {
		hs.by[p.Addr()] = h
	}
}

func (hs *hosts) drop(h *host) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.count--
	for _, p := range h.addrs {
		if hs.by[p.Addr()] == h {
			delete(hs.by, p.Addr())
		}
	}
}

// find returns the host with an address, if the network is so crowded that asking for
// it is a burden.
func (hs *hosts) find(addr netip.Addr) *host {
	if !hs.crowded() {
		return nil
	}
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return hs.by[addr]
}

func (hs *hosts) crowded() bool {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return hs.count > crowd
}

// meetings are the meetings of a host, by the other address.
type meetings struct {
	mu  sync.Mutex
	all map[netip.Addr]*meeting
}

// A meeting is an introduction to another host.
type meeting struct {
	with  *host
	since time.Time
	over  chan struct{} // closed at its end
}

// crowd is the most interfaces of a network on which the kernel asks for addresses. With
// twice as many, an introduction takes less time than a question. It is a variable for
// tests.
var crowd = 64

const (
	// mostMet bounds the meetings that a host remembers.
	mostMet = 64
	// remembered is how long it does: the kernel may forget unused neighbours.
	remembered = time.Minute
)

// introducing bounds the introductions at one time, each of which has two descriptors.
var introducing = make(chan struct{}, 8)

// Announce makes a configured interface known to others on the network. index and space
// are those of its stack; without a space it is not introduced.
func (p *Port) Announce(space *neigh.Space, index int, addrs []netip.Prefix) {
	p.host = &host{space: space, index: index, addrs: addrs}
	p.sw.hosts.add(p.host)
}

// InCrowd reports whether the network has so many interfaces of this process that frames
// to all of them are a burden.
func (p *Port) InCrowd() bool { return p.sw.hosts.crowded() }

// Meet introduces, on a crowded network, the host of the port, which has the address
// from, to the one with the address to: they learn each other's hardware addresses, so
// that nobody has to ask for them. It fails silently: then the kernel asks.
func (p *Port) Meet(ctx context.Context, from, to netip.Addr) {
	me, other := p.host, p.sw.hosts.find(to)
	if other == nil || other == me || me.space == nil || other.space == nil {
		return
	}
	m := me.met.begin(other, to, func() {
		neigh.Introduce(neigh.Party{Space: me.space, Index: me.index, Addr: from}, neigh.Party{Space: other.space, Index: other.index, Addr: to})
	})
	select {
	case <-m.over:
	case <-ctx.Done():
	}
}

// begin returns the meeting with a host, and begins it if necessary.
func (ms *meetings) begin(with *host, addr netip.Addr, introduce func()) *meeting {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m := ms.all[addr]; m != nil && m.with == with && time.Since(m.since) < remembered {
		return m
	}
	if ms.all == nil || len(ms.all) >= mostMet {
		ms.all = make(map[netip.Addr]*meeting)
	}
	m := &meeting{with: with, since: time.Now(), over: make(chan struct{})}
	ms.all[addr] = m
	go func() {
		defer close(m.over)
		introducing <- struct{}{}
		defer func() { <-introducing }()
		introduce()
	}()
	return m
}
