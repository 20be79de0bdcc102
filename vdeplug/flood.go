package vdeplug

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// What goes to many ports costs its sender little and the process much. While
// another fabric of the process carries packets, a port and a fabric have a share
// of one processor for that; who sends more waits, and so does what is behind it: a
// client of a switch finds its socket full.
const (
	// floodCost is what a copy costs until it is where its receiver finds it, about
	// as long as an interface takes to write one.
	floodCost = 2 * time.Microsecond
	// floodUnit is the size that costs so much; larger packets cost more.
	floodUnit = 4096
	// portShare and fabricShare are one in so many of a processor. The share of a
	// port is smaller yet, by indebted, while the fabric has used up its own: who
	// sends little has saved enough.
	portShare, fabricShare, indebted = 8, 2, 8
	// floodBurst is for how long a port or fabric may have saved its share.
	floodBurst = 100 * time.Millisecond
	// floodDebt bounds a debt.
	floodDebt = time.Second
	// floodPause is after how long who waits looks whether it has to: Close of a
	// switch may wait for it.
	floodPause = 100 * time.Millisecond
	// floodBatch is how many frames for everybody are handed over at once, or what
	// one packet becomes: so much at most is done before its sender waits.
	floodBatch = 1024
	// fabricIdle is how long after its last packets a fabric counts as one that
	// carries some. One beside a flood may have long pauses: it must not be taken
	// for idle because of them.
	fabricIdle = time.Second
)

// An account is when its owner has used up its share to, in the time of its fabric.
type account time.Duration

// charge notes a cost, and returns for how long its owner is in debt.
func (a *account) charge(now, cost time.Duration, share int) time.Duration {
	*a = max(*a, account(now-floodBurst)) + account(cost*time.Duration(share))
	*a = min(*a, account(now+floodDebt))
	return time.Duration(*a) - now
}

// charge notes that what a port sends takes so many copies more than for one
// receiver. It returns for how long the port is in debt. f.mu is held.
func (f *fabric) charge(from *port, now time.Duration, copies int) time.Duration {
	cost, share := time.Duration(copies)*floodCost, portShare
	if f.flooded.charge(now, cost, fabricShare) > 0 {
		share *= indebted
	}
	return from.flooded.charge(now, cost, share)
}

// pause makes a port wait for the end of its debt, as long as it has to.
func (f *fabric) pause(from *port, debt time.Duration) {
	for ; debt > 0 && !f.alone(); debt -= floodPause {
		time.Sleep(min(debt, floodPause))
		f.mu.Lock()
		gone := from.gone
		f.mu.Unlock()
		if gone {
			return
		}
	}
}

// A load is what packets cost for each receiver: the copies of one that takes
// them as they are, and the frames of one for which they are cut.
type load struct{ units, frames int }

func (l *load) add(p *packet.Packet) {
	units := 1 + len(p.Data)/floodUnit
	frames, _ := virtio.Count(p.Offload, p.Data)
	l.units += units
	l.frames += max(units, frames)
}

// copies returns how many more there are than for the cheapest receiver.
func (l *load) copies(to []*port, from *port) int {
	n := -l.units
	for _, p := range to {
		switch {
		case p == from:
		case p.takesWhole():
			n += l.units
		default:
			n += l.frames
		}
	}
	return n
}

// fabrics are those of the process that have ports.
var fabrics = struct {
	mu   sync.Mutex
	list atomic.Pointer[[]*fabric] // replaced, with mu held
	// uplinks counts those with one. The kernel carries packets there that nobody
	// here sees.
	uplinks atomic.Int64
}{}

// enlist adds or removes a fabric.
func (f *fabric) enlist(there bool) {
	fabrics.mu.Lock()
	defer fabrics.mu.Unlock()
	var list []*fabric
	if old := fabrics.list.Load(); old != nil {
		list = slices.DeleteFunc(slices.Clone(*old), func(g *fabric) bool { return g == f })
	}
	if there {
		list = append(list, f)
	}
	fabrics.list.Store(&list)
}

// alone reports that no other fabric carries packets, or may.
func (f *fabric) alone() bool {
	if others := fabrics.uplinks.Load(); others > 1 || others == 1 && !f.uplink.Load() {
		return false
	}
	list := fabrics.list.Load()
	return list == nil || !slices.ContainsFunc(*list, func(g *fabric) bool {
		return g != f && g.now()-time.Duration(g.active.Load()) < fabricIdle
	})
}
