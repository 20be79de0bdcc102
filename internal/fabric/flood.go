package fabric

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A packet for many ports costs its sender little, but the process much. While another
// fabric of the process carries packets, each port and each fabric has a share of one
// processor for its floods. A port that floods more has to wait with all its packets: a
// client of a switch finds its socket full.
const (
	// floodCost is the cost of a copy until its receiver has it: about the time of a
	// write to an interface.
	floodCost = 2 * time.Microsecond
	// floodUnit is the number of bytes that cost floodCost.
	floodUnit = 4096
	// portShare and fabricShare are fractions of a processor: an eighth, a half. While
	// the fabric has used up its share, the share of a port is divided by indebted:
	// ports that flood little have saved enough.
	portShare, fabricShare, indebted = 8, 2, 8
	// floodBurst is how long a port or fabric can save its share.
	floodBurst = 100 * time.Millisecond
	// floodDebt bounds a debt.
	floodDebt = time.Second
	// floodPause is the interval at which a waiting port checks whether it still has to
	// wait: Close of a switch may wait for it.
	floodPause = 100 * time.Millisecond
	// floodBatch is the number of frames that are flooded before the sender waits,
	// unless one packet becomes more.
	floodBatch = 1024
	// idleAfter is how long after its last packets a fabric counts as busy. A flood in
	// another fabric can cause long pauses, which must not make it look idle.
	idleAfter = time.Second
)

// An account is the time, on the clock of its fabric, up to which the owner's share is
// used up.
type account time.Duration

// charge adds a cost, and returns how long the owner is in debt.
func (a *account) charge(now, cost time.Duration, share int) time.Duration {
	*a = max(*a, account(now-floodBurst)) + account(cost*time.Duration(share))
	*a = min(*a, account(now+floodDebt))
	return time.Duration(*a) - now
}

// charge charges a port and its fabric for a flood that takes the given number of copies more
// than a single receiver would. It returns how long the port is in debt. f.mu is held.
func (f *Fabric) charge(from *Port, now time.Duration, copies int) time.Duration {
	cost, share := time.Duration(copies)*floodCost, portShare
	if f.flooded.charge(now, cost, fabricShare) > 0 {
		share *= indebted
	}
	return from.flooded.charge(now, cost, share)
}

// pause waits until the debt of a port is over, the port has left, or no other fabric is
// busy.
func (f *Fabric) pause(from *Port, debt time.Duration) {
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

// A load is the cost of packets for each receiver: units if it takes GSO packets, frames if
// it cuts them.
type load struct{ units, frames int }

func (l *load) add(p *packet.Packet) {
	units := 1 + len(p.Data)/floodUnit
	frames, _ := virtio.Count(p.Offload, p.Data)
	l.units += units
	l.frames += max(units, frames)
}

// copies returns how many copies a flood takes more than a delivery to the cheapest receiver.
func (l *load) copies(to []*Port, from *Port) int {
	n := -l.units
	for _, p := range to {
		switch {
		case p == from:
		case p.TakesGSO():
			n += l.units
		default:
			n += l.frames
		}
	}
	return n
}

// fabrics has the fabrics of the process that have ports.
var fabrics = struct {
	mu      sync.Mutex
	list    atomic.Pointer[[]*Fabric] // replaced, with mu held
	uplinks atomic.Int64              // number of fabrics with an uplink
}{}

// enlist adds or removes a fabric.
func (f *Fabric) enlist(there bool) {
	fabrics.mu.Lock()
	defer fabrics.mu.Unlock()
	var list []*Fabric
	if old := fabrics.list.Load(); old != nil {
		list = slices.DeleteFunc(slices.Clone(*old), func(g *Fabric) bool { return g == f })
	}
	if there {
		list = append(list, f)
	}
	fabrics.list.Store(&list)
}

// SetUplink says whether the fabric has an uplink to a switch of the kernel; at first it has
// none. With an uplink it counts as busy: the kernel may carry packets that are not seen
// here.
func (f *Fabric) SetUplink(has bool) {
	switch {
	case f.uplink.Swap(has) == has:
	case has:
		fabrics.uplinks.Add(1)
	default:
		fabrics.uplinks.Add(-1)
	}
}

// alone reports whether no other fabric is busy.
func (f *Fabric) alone() bool {
	if others := fabrics.uplinks.Load(); others > 1 || others == 1 && !f.uplink.Load() {
		return false
	}
	list := fabrics.list.Load()
	return list == nil || !slices.ContainsFunc(*list, func(g *Fabric) bool {
		return g != f && g.now()-time.Duration(g.active.Load()) < idleAfter
	})
}
