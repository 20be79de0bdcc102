package vdeplug

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/carrier"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// memStations is how many stations a switch remembers.
	memStations = 4096
	// memBatch is how many packets are received at once.
	memBatch = 64
	// memExpire is how long it remembers a silent one, as the switches of
	// VDE do.
	memExpire = 120 * time.Second
)

func init() {
	Register("mem", openMem)
	Describe("mem", Usage{Form: "mem://[NAME]", About: "a switch inside the process"})
	memnet.Attach = attachMem
}

// memNets are the switches of the process by name. A switch is there as long
// as it has plugs or an uplink.
var memNets = struct {
	mu       sync.Mutex // guards switches, and the plugs and uplink of each
	switches map[string]*memSwitch
}{switches: make(map[string]*memSwitch)}

// openMem connects to a learning switch inside the process. All of the body is
// its name, which may be empty.
func openMem(_ context.Context, l Locator, _ *Options) (Conn, error) {
	memNets.mu.Lock()
	sw := memSwitchOf(l.Body())
	sw.plugs++
	memNets.mu.Unlock()
	p := sw.join(false)
	if err := sw.link(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// memSwitchOf returns the switch of a name. memNets.mu is held.
func memSwitchOf(name string) *memSwitch {
	sw := memNets.switches[name]
	if sw == nil {
		sw = newMemSwitch(name)
		memNets.switches[name] = sw
	}
	return sw
}

// attachMem gives the switch of a name its uplink.
func attachMem(name string, u memnet.Uplink) (detach func(), err error) {
	memNets.mu.Lock()
	sw := memSwitchOf(name)
	sw.uplink = u
	memNets.mu.Unlock()
	detach = func() {
		memNets.mu.Lock()
		sw.uplink = nil
		sw.release()
		memNets.mu.Unlock()
		sw.link()
	}
	if err := sw.link(); err != nil {
		detach()
		return nil, err
	}
	return detach, nil
}

// A memSwitch carries frames between its ports. Every frame is copied to the
// queue of the port where its station was seen last, or to all; so nobody
// waits for a slow receiver.
type memSwitch struct {
	name string
	now  func() time.Duration

	plugs  int           // guarded by memNets.mu
	uplink memnet.Uplink // guarded by memNets.mu; nil: there is none

	linking sync.Mutex    // held while linked comes and goes
	linked  memnet.Uplink // the uplink that is connected; nil: none

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

// release forgets a switch that nobody uses. memNets.mu is held.
func (sw *memSwitch) release() {
	if sw.plugs == 0 && sw.uplink == nil && memNets.switches[sw.name] == sw {
		delete(memNets.switches, sw.name)
	}
}

// link connects the uplink if there are plugs, and disconnects it if there are
// none any more. When it returns that is done, whoever did it.
func (sw *memSwitch) link() error {
	sw.linking.Lock()
	defer sw.linking.Unlock()
	memNets.mu.Lock()
	u := sw.uplink
	if sw.plugs == 0 {
		u = nil
	}
	memNets.mu.Unlock()
	if sw.linked != nil && sw.linked != u {
		sw.linked.Disconnect()
		sw.linked = nil
	}
	if u == nil || sw.linked == u {
		return nil
	}
	p := sw.join(true)
	if err := u.Connect(p); err != nil {
		p.Close()
		return err
	}
	sw.linked = u
	return nil
}

func (sw *memSwitch) join(uplink bool) *memPort {
	p := &memPort{sw: sw, uplink: uplink}
	p.arrived.L = &p.mu
	sw.mu.Lock()
	defer sw.mu.Unlock()
	sw.ports = append(slices.Clip(sw.ports), p)
	return p
}

// leave removes a port.
func (sw *memSwitch) leave(p *memPort) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	p.gone = true
	sw.stations.forget(p)
	sw.ports = slices.DeleteFunc(slices.Clone(sw.ports), func(q *memPort) bool { return q == p })
}

// route learns where the source of a frame is, and returns the port of its
// destination; nil and all ports if that is unknown, no ports if the frame is
// none.
func (sw *memSwitch) route(from *memPort, p *carrier.Packet) (to *memPort, all []*memPort, err error) {
	now := sw.now()
	sw.mu.Lock()
	defer sw.mu.Unlock()
	switch {
	case from.gone:
		return nil, nil, net.ErrClosed
	case len(p.Data) < HeaderLen, p.Offload.GSOType == virtio.GSONone && len(p.Data) > MaxFrame:
		from.droppedSend.Add(1)
		return nil, nil, nil
	}
	dst, src := macs(p.Data)
	sw.stations.learn(src, from, now)
	if to, ok := sw.stations.lookup(dst, now); ok {
		return to, nil, nil
	}
	return nil, sw.ports, nil
}

// A memPort is a plug of a memSwitch, or the port of its uplink.
type memPort struct {
	dropCounter
	sw     *memSwitch
	uplink bool
	gone   bool // guarded by sw.mu
	// whole is set once packets are received: the port takes what stands for
	// several frames as it is.
	whole atomic.Bool

	mu      sync.Mutex // guards queue, closed and the fields of the receivers
	arrived sync.Cond  // there is something in queue, or closed was set
	queue   frameQueue
	closed  bool

	closing sync.Once
}

var (
	_ Conn         = (*memPort)(nil)
	_ Dropper      = (*memPort)(nil)
	_ carrier.Conn = (*memPort)(nil)
)

func (p *memPort) Send(frame []byte) error {
	packet := carrier.Packet{Data: frame}
	return p.sendPacket(&packet)
}

// SendPackets is that of [carrier.Conn].
func (p *memPort) SendPackets(packets []carrier.Packet) error {
	for i := range packets {
		if err := p.sendPacket(&packets[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *memPort) sendPacket(packet *carrier.Packet) error {
	to, all, err := p.sw.route(p, packet)
	if err != nil {
		return err
	}
	one := [1]*memPort{to}
	if to != nil {
		all = one[:]
	}
	// Ports that take frames come last: making these changes the packet.
	cut := false
	for _, to := range all {
		switch {
		case to == p:
		case packet.Offload == virtio.Header{} || to.whole.Load():
			to.deliver(packet.Offload, packet.Data)
		default:
			cut = true
		}
	}
	if !cut {
		return nil
	}
	c := memCutters.Get().(*memCutter)
	defer memCutters.Put(c)
	segments, err := c.Split(packet.Offload, packet.Data, 0)
	if err != nil {
		p.droppedSend.Add(1)
		return nil
	}
	for _, g := range segments {
		c.frame = append(append(c.frame[:0], g.Head...), g.Data...)
		for _, to := range all {
			if to != p && !to.whole.Load() {
				to.deliver(virtio.Header{}, c.frame)
			}
		}
	}
	return nil
}

// A memCutter makes frames for ports that take no packets.
type memCutter struct {
	virtio.Segmenter
	frame []byte
}

var memCutters = sync.Pool{New: func() any { return new(memCutter) }}

// deliver queues a packet for Recv.
func (p *memPort) deliver(h virtio.Header, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if !p.queue.push(h, data) {
		frames, _ := virtio.Count(h, data)
		p.droppedRecv.Add(uint64(frames))
		return
	}
	p.arrived.Signal()
}

func (p *memPort) Recv(frame []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.wait() {
		if h, n := p.queue.pop(frame); n <= len(frame) && h == (virtio.Header{}) {
			return n, nil
		}
		p.droppedRecv.Add(1)
	}
	return 0, net.ErrClosed
}

// wait waits until there is something in the queue; it reports false if the port
// is closed and nothing is left. p.mu is held.
func (p *memPort) wait() bool {
	for p.queue.empty() && !p.closed {
		p.arrived.Wait()
	}
	return !p.queue.empty()
}

// RecvPackets is that of [carrier.Conn]. Once it was called, Recv must not be.
func (p *memPort) RecvPackets(b *carrier.Buffer) ([]carrier.Packet, error) {
	b.Release()
	p.whole.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wait() {
		return nil, net.ErrClosed
	}
	mem := b.Bytes()
	for !p.queue.empty() && len(b.Packets) < memBatch && len(mem) >= virtio.MaxPacket {
		h, n := p.queue.pop(mem)
		if n <= len(mem) {
			b.Add(h, mem[:n:n])
			mem = mem[n:]
		}
	}
	return b.Packets, nil
}

// Close leaves the switch. What has arrived at a plug by then is lost; an uplink
// takes it to those who are still there.
func (p *memPort) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.closed = true
		if !p.uplink {
			p.queue = frameQueue{}
		}
		p.arrived.Broadcast()
		p.mu.Unlock()

		p.sw.leave(p)
		if p.uplink {
			return
		}
		memNets.mu.Lock()
		p.sw.plugs--
		p.sw.release()
		memNets.mu.Unlock()
		p.sw.link()
	})
	return nil
}
