package vdeplug

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// memStations is how many stations a switch remembers.
	memStations = 4096
	// memExpire is how long it remembers a silent one, as the switches of
	// VDE do.
	memExpire = 120 * time.Second
)

func init() { Register("mem", openMem) }

// memNets are the switches of the process by name. A switch is there as long
// as it has ports.
var memNets = struct {
	mu       sync.Mutex // guards switches, and which switch has ports
	switches map[string]*memSwitch
}{switches: make(map[string]*memSwitch)}

// openMem connects to a learning switch inside the process. All of the body is
// its name, which may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (Conn, error) {
	memNets.mu.Lock()
	defer memNets.mu.Unlock()
	sw := memNets.switches[l.Body()]
	if sw == nil {
		sw = newMemSwitch(l.Body())
		memNets.switches[sw.name] = sw
	}
	return sw.join(), nil
}

// A memSwitch carries frames between its ports. Every frame is copied to the
// queue of the port where its station was seen last, or to all; so nobody
// waits for a slow receiver.
type memSwitch struct {
	name string
	now  func() time.Duration

	mu       sync.Mutex // guards the fields below and memPort.gone; held for a look-up only
	ports    []*memPort // replaced, never changed in place
	stations *macTable[*memPort]
}

func newMemSwitch(name string) *memSwitch {
	start := time.Now()
	return &memSwitch{
		name:     name,
		now:      func() time.Duration { return time.Since(start) },
		stations: newMACTable[*memPort](memStations, memExpire),
	}
}

func (sw *memSwitch) join() *memPort {
	p := &memPort{sw: sw}
	p.arrived.L = &p.mu
	sw.mu.Lock()
	defer sw.mu.Unlock()
	sw.ports = append(slices.Clip(sw.ports), p)
	return p
}

// leave removes a port, and returns whether it was the last.
func (sw *memSwitch) leave(p *memPort) (last bool) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	p.gone = true
	sw.stations.forget(p)
	sw.ports = slices.DeleteFunc(slices.Clone(sw.ports), func(q *memPort) bool { return q == p })
	return len(sw.ports) == 0
}

// route learns where the source of a frame is, and returns the port of its
// destination; nil and all ports if that is unknown, no ports if the frame is
// none.
func (sw *memSwitch) route(from *memPort, frame []byte) (to *memPort, all []*memPort, err error) {
	now := sw.now()
	sw.mu.Lock()
	defer sw.mu.Unlock()
	switch {
	case from.gone:
		return nil, nil, net.ErrClosed
	case !sendable(frame):
		from.droppedSend.Add(1)
		return nil, nil, nil
	}
	dst, src := macs(frame)
	sw.stations.learn(src, from, now)
	if to, ok := sw.stations.lookup(dst, now); ok {
		return to, nil, nil
	}
	return nil, sw.ports, nil
}

// A memPort is a plug of a memSwitch.
type memPort struct {
	dropCounter
	sw   *memSwitch
	gone bool // guarded by sw.mu

	mu      sync.Mutex // guards queue and closed
	arrived sync.Cond  // there is something in queue, or closed was set
	queue   frameQueue
	closed  bool

	closing sync.Once
}

var (
	_ Conn    = (*memPort)(nil)
	_ Dropper = (*memPort)(nil)
)

func (p *memPort) Send(frame []byte) error {
	to, all, err := p.sw.route(p, frame)
	if err != nil {
		return err
	}
	if to != nil {
		if to != p {
			to.deliver(frame)
		}
		return nil
	}
	for _, to := range all {
		if to != p {
			to.deliver(frame)
		}
	}
	return nil
}

// deliver queues a frame for Recv.
func (p *memPort) deliver(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if !p.queue.push(frame) {
		p.droppedRecv.Add(1)
		return
	}
	p.arrived.Signal()
}

func (p *memPort) Recv(frame []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.queue.empty() && !p.closed {
			p.arrived.Wait()
		}
		if p.closed {
			return 0, net.ErrClosed
		}
		if n := p.queue.pop(frame); n <= len(frame) {
			return n, nil
		}
		p.droppedRecv.Add(1)
	}
}

func (p *memPort) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.closed = true
		p.queue = frameQueue{}
		p.arrived.Broadcast()
		p.mu.Unlock()

		memNets.mu.Lock()
		defer memNets.mu.Unlock()
		if p.sw.leave(p) {
			delete(memNets.switches, p.sw.name)
		}
	})
	return nil
}
