// Package fabric implements a switch inside the process: it carries frames and GSO packets
// between ports. A port of the process is a [LocalPort], which queues for its receiver;
// others, such as the clients of a VDE switch, have a [Receiver] of their own. The switch
// never waits for a slow receiver. While other fabrics are busy, floods get only a share of
// a processor.
package fabric

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
	// DefaultStations is the number of stations that a switch remembers by default.
	DefaultStations = 4096
	// DefaultExpire is how long it remembers a silent one, as VDE switches do.
	DefaultExpire = 120 * time.Second
	// batchSize is the number of packets routed together.
	batchSize = 64
)

// A Kind says how a fabric forwards packets.
type Kind string

const (
	// Switch sends a packet to the port where its destination was seen last, or
	// floods it to all ports.
	Switch Kind = "switch"
	// Hub floods every packet.
	Hub Kind = "hub"
	// Multi sends packets of the process to all clients, and packets of clients to
	// the process only.
	Multi Kind = "multi"
	// Bonding is like Multi, but sends each packet to one client, round robin.
	Bonding Kind = "bonding"
)

// A Fabric carries packets between its ports. The sender delivers them to their ports, and
// never waits for these.
type Fabric struct {
	kind Kind
	now  func() time.Duration

	mu       sync.Mutex // guards the fields below, and fields of ports; held for lookups only
	ports    []*Port    // never changed in place, like locals and remotes
	locals   []*Port
	remotes  []*Port
	stations *ether.MACTable[ether.VLANMAC, *Port]
	round    int    // packets that Bonding has sent
	frames   uint64 // that were routed, and their bytes
	bytes    uint64
	past     uint64  // dropped by ports that have left
	flooded  account // of all ports together

	active atomic.Int64 // when the last packets came
	uplink atomic.Bool  // see SetUplink
}

// A Port connects a receiver to one fabric.
type Port struct {
	Receiver
	Remote bool // of a client, not of the process

	gone    bool    // it has left; guarded by Fabric.mu
	flooded account // guarded by Fabric.mu
}

// A Receiver takes the packets that arrive at a port.
type Receiver interface {
	// Deliver takes packets and keeps no reference to them. It does not wait:
	// packets without room are dropped and counted. Invalid packets have no Data.
	Deliver(packets []packet.Packet)
	// Dropped returns how many frames from the port, and for it, were dropped.
	Dropped() (recv, send uint64)
	// TakesGSO reports whether Deliver passes GSO packets on. Otherwise it cuts them,
	// which costs more.
	TakesGSO() bool
}

// New returns a fabric without ports. It remembers up to the given number of stations, each
// until it has been silent for the time expire.
func New(kind Kind, stations int, expire time.Duration) *Fabric {
	start := time.Now()
	f := &Fabric{
		kind:     kind,
		now:      func() time.Duration { return time.Since(start) },
		stations: ether.NewMACTable[ether.VLANMAC, *Port](stations, expire),
	}
	f.active.Store(int64(-idleAfter))
	return f
}

// Join adds a port. Its exported fields must be set.
func (f *Fabric) Join(p *Port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	side := f.side(p)
	*side = append(slices.Clip(*side), p)
	f.ports = append(slices.Clip(f.ports), p)
	if len(f.ports) == 1 {
		f.enlist(true)
	}
}

// Leave removes a port. Packets that are on their way may still be delivered to it.
func (f *Fabric) Leave(p *Port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.gone {
		return
	}
	p.gone = true
	recv, send := p.Dropped()
	f.past += recv + send
	f.stations.Forget(p)
	for _, list := range []*[]*Port{&f.ports, f.side(p)} {
		*list = slices.DeleteFunc(slices.Clone(*list), func(q *Port) bool { return q == p })
	}
	if len(f.ports) == 0 {
		f.enlist(false)
	}
}

// Stats are counters of a fabric, and what it has now.
type Stats struct {
	Locals, Remotes, Stations int
	// Frames, with their Bytes, came from the ports. Dropped are those that were invalid or
	// found no room in a port.
	Frames, Bytes, Dropped uint64
}

// Stats returns the counters, none of which goes down.
func (f *Fabric) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Stats{
		Locals: len(f.locals), Remotes: len(f.remotes), Stations: f.stations.Len(),
		Frames: f.frames, Bytes: f.bytes, Dropped: f.past,
	}
	for _, p := range f.ports {
		recv, send := p.Dropped()
		s.Dropped += recv + send
	}
	return s
}

// side returns the list of ports on the side of p: locals or remotes.
func (f *Fabric) side(p *Port) *[]*Port {
	if p.Remote {
		return &f.remotes
	}
	return &f.locals
}

// Forward delivers packets from a port. It returns how many it drops: invalid ones, and
// floods of a port that is in debt, unless it may wait. The error is [net.ErrClosed] once
// the port has left.
func (f *Fabric) Forward(r *Routes, from *Port, packets []packet.Packet, wait bool) (bad int, err error) {
	for len(packets) > 0 && err == nil {
		n, there := f.route(r, from, packets[:min(len(packets), batchSize)])
		batch := packets[:n]
		switch {
		case !there:
			err = net.ErrClosed
		case r.debt > 0 && !wait && !f.alone():
			bad += len(batch)
		default:
			bad += r.bad
			r.deliver(from, batch)
			if wait {
				f.pause(from, r.debt)
			}
		}
		packets = packets[n:]
		r.clear(n)
	}
	return bad, err
}

// Routes has the destinations of a batch of packets. It is reused, by one goroutine at a
// time.
type Routes struct {
	to    [batchSize]*Port
	flood []*Port       // the ports that everybody stands for
	bad   int           // invalid packets
	debt  time.Duration // of the sender, for its floods
	run   []packet.Packet
	cut   virtio.Segmenter
	turn  packet.Turn
}

// everybody and nobody stand in Routes.to in place of a port.
var everybody, nobody = new(Port), new(Port)

// NewRoutes returns Routes for [Fabric.Forward].
func NewRoutes() *Routes { return &Routes{run: make([]packet.Packet, 0, batchSize)} }

// clear drops all references to the ports and packets of a batch of n.
func (r *Routes) clear(n int) {
	clear(r.to[:n])
	clear(r.run[:n])
	r.flood, r.bad, r.debt = nil, 0, 0
}

// route fills in r for the first n packets, and learns the places of their sources. n is
// small if the packets become many frames to flood. there is false if from has left.
func (f *Fabric) route(r *Routes, from *Port, packets []packet.Packet) (n int, there bool) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if from.gone {
		return 0, false
	}
	switch {
	case f.kind == Switch || f.kind == Hub:
		r.flood = f.ports
	case from.Remote:
		r.flood = f.locals
	default:
		r.flood = f.remotes
	}
	if int64(now) > f.active.Load()+int64(idleAfter/8) { // storing it each time would be slow
		f.active.Store(int64(now))
	}
	var all load               // of the floods
	var dst, src ether.VLANMAC // of the previous packet
	var before *Port           // where the previous packet goes
	for ; n < len(packets) && all.frames < floodBatch; n++ {
		i, p := n, &packets[n]
		if len(p.Data) < ether.HeaderLen || p.Offload.GSOType == virtio.GSONone && len(p.Data) > ether.MaxFrame {
			r.to[i] = nobody
			r.bad++
			continue
		}
		frames, bytes := virtio.Count(p.Offload, p.Data)
		f.frames += uint64(frames)
		f.bytes += uint64(bytes)
		switch f.kind {
		case Switch:
			d, s := ether.VLANMACs(p.Data)
			if before == nil || d != dst || s != src { // most packets continue a flow
				dst, src, before = d, s, f.lookup(from, d, s, now)
			}
			r.to[i] = before
			if before == everybody {
				all.add(p)
			}
		case Bonding:
			r.to[i] = everybody
			if !from.Remote && len(r.flood) > 0 {
				r.to[i] = r.flood[f.round%len(r.flood)]
				f.round++
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

// lookup returns the port of dst, everybody or nobody, and learns that src is at from. f.mu
// is held.
func (f *Fabric) lookup(from *Port, dst, src ether.VLANMAC, now time.Duration) *Port {
	f.stations.Learn(src, from, now)
	to, ok := f.stations.Lookup(dst, now)
	switch {
	case !ok:
		return everybody
	case to == from:
		return nobody
	}
	return to
}

// deliver delivers packets in runs that are as long as possible.
func (r *Routes) deliver(from *Port, packets []packet.Packet) {
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
					p.Deliver(run)
					if many {
						r.turn.End()
					}
				}
			}
			continue
		}
		// Later packets for the same port join the run, but only up to the next flood,
		// which must not overtake them.
		r.run = append(r.run[:0], run...)
		for j := n; j < len(packets) && r.to[j] != everybody; j++ {
			if r.to[j] == to {
				r.run = append(r.run, packets[j])
				r.to[j] = nobody
			}
		}
		to.Deliver(r.run)
	}
}

// complete adds the missing checksums of frames once for all receivers: a second time would
// spoil them.
func (r *Routes) complete(packets []packet.Packet) {
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
