package vdeplug

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// fabricStations is how many stations a switch remembers.
	fabricStations = 4096
	// fabricExpire is how long it remembers a silent one, as the switches of
	// VDE do.
	fabricExpire = 120 * time.Second
	// fabricBatch is how many packets are looked at together.
	fabricBatch = 64
)

// A fabricKind is what a fabric does with packets.
type fabricKind string

const (
	// kindSwitch sends a packet where its station was seen last, or to all.
	kindSwitch fabricKind = "switch"
	// kindHub sends a packet to all.
	kindHub fabricKind = "hub"
	// kindMulti sends the packets of the process to all clients, and those of
	// clients to the process only.
	kindMulti fabricKind = "multi"
	// kindBonding is kindMulti, but sends to the clients in turn.
	kindBonding fabricKind = "bonding"
)

// A fabric carries packets between its ports. Whoever sends hands them to
// the ports that they are for, and waits for none.
type fabric struct {
	kind fabricKind
	now  func() time.Duration

	mu       sync.Mutex // guards the fields below and port.gone; held for look-ups only
	ports    []*port    // replaced, never changed in place, as the next two
	locals   []*port
	remotes  []*port
	stations *ether.MACTable[*port]
	turn     int     // counts what bonding has sent
	flooded  account // by all ports

	active atomic.Int64 // when packets came last
	uplink atomic.Bool  // it has one
}

// A port is where a fabric hands packets over.
type port struct {
	taker
	remote bool // of a client, not of the process
	gone   bool // guarded by fabric.mu
	// flooded is what was sent to many; guarded by fabric.mu.
	flooded account
}

// A taker has the other side of a port.
type taker interface {
	// deliver takes packets, and keeps nothing of them. It does not wait: what
	// there is no room for is lost, and counted. What is no packet has no Data.
	deliver(packets []packet.Packet)
	// takesWhole reports whether it takes what stands for several frames as it is.
	// Otherwise deliver cuts it.
	takesWhole() bool
}

func newFabric(kind fabricKind, stations int, expire time.Duration) *fabric {
	start := time.Now()
	f := &fabric{
		kind:     kind,
		now:      func() time.Duration { return time.Since(start) },
		stations: ether.NewMACTable[*port](stations, expire),
	}
	f.active.Store(int64(-fabricIdle))
	return f
}

func (f *fabric) join(p *port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	side := f.side(p)
	*side = append(slices.Clip(*side), p)
	f.ports = append(slices.Clip(f.ports), p)
	if len(f.ports) == 1 {
		f.enlist(true)
	}
}

// leave removes a port that is there.
func (f *fabric) leave(p *port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.gone = true
	f.stations.Forget(p)
	for _, list := range []*[]*port{&f.ports, f.side(p)} {
		*list = slices.DeleteFunc(slices.Clone(*list), func(q *port) bool { return q == p })
	}
	if len(f.ports) == 0 {
		f.enlist(false)
	}
}

// side returns the list of the ports that are where p is.
func (f *fabric) side(p *port) *[]*port {
	if p.remote {
		return &f.remotes
	}
	return &f.locals
}

// forward carries packets that come from a port. It returns how many it does not:
// those that are none, and what a port that may not wait has sent to too many.
func (f *fabric) forward(r *routing, from *port, packets []packet.Packet, wait bool) (bad int, err error) {
	for len(packets) > 0 && err == nil {
		n, there := f.route(r, from, packets[:min(len(packets), fabricBatch)])
		batch := packets[:n]
		switch {
		case !there:
			err = net.ErrClosed
		case r.debt <= 0 || f.alone():
			bad += r.bad
			r.deliver(from, batch)
		case wait:
			bad += r.bad
			r.deliver(from, batch)
			f.pause(from, r.debt)
		default:
			bad += len(batch)
		}
		packets = packets[n:]
		r.clear(n)
	}
	return bad, err
}

// A routing says where each packet of a batch goes. It serves one goroutine.
type routing struct {
	to    [fabricBatch]*port
	flood []*port // everybody
	bad   int
	debt  time.Duration // of who sends, for what goes to everybody
	run   []packet.Packet
	cut   virtio.Segmenter
	turn  packet.Turn
}

// What routing.to says in place of a port. They are no ports.
var everybody, nobody = new(port), new(port)

func newRouting() *routing { return &routing{run: make([]packet.Packet, 0, fabricBatch)} }

// clear lets go of the ports and packets of a batch of n.
func (r *routing) clear(n int) {
	clear(r.to[:n])
	clear(r.run[:n])
	r.flood, r.bad, r.debt = nil, 0, 0
}

// route fills in r for the first packets, and learns where their sources are. It
// returns how many these are: few, if they become many frames for everybody. there is
// false if from has left.
func (f *fabric) route(r *routing, from *port, packets []packet.Packet) (n int, there bool) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if from.gone {
		return 0, false
	}
	switch {
	case f.kind == kindSwitch || f.kind == kindHub:
		r.flood = f.ports
	case from.remote:
		r.flood = f.locals
	default:
		r.flood = f.remotes
	}
	if int64(now) > f.active.Load()+int64(fabricIdle/8) { // or each packet pays for it
		f.active.Store(int64(now))
	}
	var all load               // that goes to everybody
	var dst, src ether.VLANMAC // of the packet before
	var before *port           // where that goes
	for ; n < len(packets) && all.frames < floodBatch; n++ {
		i, p := n, &packets[n]
		if len(p.Data) < ether.HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame {
			r.to[i] = nobody
			r.bad++
			continue
		}
		switch f.kind {
		case kindSwitch:
			d, s := ether.VLANMACs(p.Data)
			if before == nil || d != dst || s != src { // most packets are of the same flow
				dst, src, before = d, s, f.Lookup(from, d, s, now)
			}
			r.to[i] = before
			if before == everybody {
				all.add(p)
			}
		case kindBonding:
			r.to[i] = everybody
			if !from.remote && len(r.flood) > 0 {
				r.to[i] = r.flood[f.turn%len(r.flood)]
				f.turn++
			}
		default:
			r.to[i] = everybody
			all.add(p)
		}
	}
	if all.frames > 0 && len(r.flood) > 2 {
		r.debt = f.charge(from, now, all.copies(r.flood, from))
	}
	return n, true
}

// Lookup returns the port of dst, and learns that src is at from. f.mu is held.
func (f *fabric) Lookup(from *port, dst, src ether.VLANMAC, now time.Duration) *port {
	f.stations.LearnVLAN(src, from, now)
	to, ok := f.stations.LookupVLAN(dst, now)
	switch {
	case !ok:
		return everybody
	case to == from:
		return nobody
	}
	return to
}

// deliver hands over the packets, as many as may go together at once.
func (r *routing) deliver(from *port, packets []packet.Packet) {
	for i, n := 0, 0; i < len(packets); i = n {
		to := r.to[i]
		for n = i + 1; n < len(packets) && r.to[n] == to; n++ {
		}
		run := packets[i:n]
		switch to {
		case nobody:
			continue
		case everybody:
			r.complete(run)
			many := len(r.flood) > 2
			if many {
				r.turn.Begin()
			}
			for _, p := range r.flood {
				if p != from {
					p.deliver(run)
					if many {
						r.turn.End()
					}
				}
			}
			continue
		}
		// What is for all must not overtake what is for one.
		r.run = append(r.run[:0], run...)
		for j := n; j < len(packets) && r.to[j] != everybody; j++ {
			if r.to[j] == to {
				r.run = append(r.run, packets[j])
				r.to[j] = nobody
			}
		}
		to.deliver(r.run)
	}
}

// complete stores the checksums that are missing in frames, which may be done
// once only.
func (r *routing) complete(packets []packet.Packet) {
	for i := range packets {
		p := &packets[i]
		if p.Offload.GSOType != virtio.GSONone || p.Offload.Flags&virtio.FlagNeedsCsum == 0 {
			continue
		}
		if _, err := r.cut.Split(p.Offload, p.Data, 0); err != nil {
			p.Data = nil
		}
		p.Offload = virtio.Header{}
	}
}
