package netem

import (
	"cmp"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// reorderTimeout is how long a frame is held back at most.
const reorderTimeout = 10 * time.Millisecond

// A pipe is one direction of an impaired network. It decides what happens to a frame, and
// puts it into a queue with the time at which it is due. Receivers or a sender take frames
// from the queue; one timer wakes them.
type pipe struct {
	now      func() time.Duration // since the start
	dropped  *atomic.Uint64       // of the transport
	incoming bool                 // receivers take from the queue, and wait for arrived
	onTimer  func()               // outgoing: sends packets that are due; called with mu held
	// active is set with the first impairment, and stays set: all packets then go
	// through the queue.
	active atomic.Bool

	mu        sync.Mutex // guards the fields below; not held while packets are sent
	settings  Impairment
	source    rand.PCG
	counts    Counts
	queue     queue
	busyUntil time.Duration // when the rate allows the next packet
	lastDue   time.Duration // when the last packet of the queue is due
	held      reorderSlot
	closed    bool
	err       error // the end of the network

	timer    *time.Timer // nil until it is needed
	timerAt  time.Duration
	timerSet bool // the timer fires at timerAt

	sending       bool      // outgoing: a goroutine takes from the queue
	reading       bool      // incoming: readAll runs
	arrived, room sync.Cond // incoming: of the queue
}

// A reorderSlot has the frame that is held back until the next one has passed.
type reorderSlot struct {
	full     bool
	frame    []byte
	decision decision
	until    time.Duration
}

func (p *pipe) init(start time.Time, dropped *atomic.Uint64) {
	p.now = func() time.Duration { return time.Since(start) }
	p.dropped = dropped
	p.arrived.L, p.room.L = &p.mu, &p.mu
}

func (p *pipe) impairment() Impairment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settings
}

func (p *pipe) count() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// set changes the settings, and the times of the packets in the queue.
func (p *pipe) set(to Impairment, restart bool, seed, direction uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if restart {
		p.source.Seed(seed, direction)
	}
	p.settings = to
	if !to.isZero() {
		p.active.Store(true)
	}
	now := p.now()
	p.busyUntil, p.lastDue = now, 0
	p.queue.update(func(r *record) {
		if r.left > now {
			p.busyUntil += p.transmitTime(r.n)
			r.left = p.busyUntil
		}
		r.due = p.due(r.left, r.jitter)
	})
	p.schedule(now)
	p.room.Signal() // packets that were due may not be any more
}

// transmitTime returns how long n bytes take at the rate.
func (p *pipe) transmitTime(n int) time.Duration {
	if p.settings.Rate == 0 {
		return 0
	}
	return time.Duration(float64(n) * 8 * float64(time.Second) / float64(p.settings.Rate))
}

// due returns when a packet is due that is appended to the queue.
func (p *pipe) due(left time.Duration, jitter float64) time.Duration {
	p.lastDue = max(p.lastDue, left+p.settings.Delay+time.Duration(jitter*float64(p.settings.Jitter)))
	return p.lastDue
}

// A decision says what happens to a frame.
type decision struct {
	lose, duplicate, corrupt, reorder bool
	bit                               uint64  // to change, modulo the number of bits
	jitter                            float64 // from 0 to 1, times the setting
}

// decide makes the decision for the next frame. It uses the same number of random numbers
// for each frame, so that one setting does not change the effect of another.
func (p *pipe) decide() (d decision) {
	part := func() float64 { return float64(p.source.Uint64()>>11) / (1 << 53) } // less than 1
	d.lose = part() < p.settings.Loss
	d.duplicate = part() < p.settings.Duplicate
	d.corrupt = part() < p.settings.Corrupt
	d.reorder = part() < p.settings.Reorder
	d.bit = p.source.Uint64()
	d.jitter = part()
	return d
}

// accept takes a packet that enters the pipe at the time now. p.mu is held.
func (p *pipe) accept(cut *virtio.Segmenter, pkt *packet.Packet, now time.Duration) {
	single := pkt.Offload.GSOType == virtio.GSONone
	if len(pkt.Data) < ether.HeaderLen || single && len(pkt.Data) > ether.MaxFrame || len(pkt.Data) > virtio.MaxPacket {
		p.dropped.Add(1)
		return
	}
	if p.settings.delayOnly() {
		frames, _ := virtio.Count(pkt.Offload, pkt.Data)
		p.counts.Frames += uint64(frames)
		if p.push(pkt.Offload, nil, pkt.Data, 0, now) == nil {
			p.countDropped(frames)
		}
		p.release(now)
		return
	}
	segments, err := cut.Split(pkt.Offload, pkt.Data, 0)
	if err != nil {
		p.dropped.Add(1)
		return
	}
	for i := range segments {
		s := &segments[i]
		if n := len(s.Head) + len(s.Data); n < ether.HeaderLen || n > ether.MaxFrame {
			p.dropped.Add(1)
			continue
		}
		p.acceptFrame(s, now)
	}
}

func (p *pipe) acceptFrame(s *virtio.Segment, now time.Duration) {
	p.counts.Frames++
	d := p.decide()
	switch {
	case d.lose:
		p.counts.Lost++
	case d.reorder && !p.held.full:
		p.counts.Reordered++
		frame := append(append(p.held.frame[:0], s.Head...), s.Data...)
		p.held = reorderSlot{full: true, frame: frame, decision: d, until: now + reorderTimeout}
	default:
		p.pushFrame(s.Head, s.Data, d, now)
		p.release(now)
	}
}

func (p *pipe) countDropped(frames int) {
	p.counts.Dropped += uint64(frames)
	p.dropped.Add(uint64(frames))
}

// release puts the frame that was held back, if any, into the queue.
func (p *pipe) release(now time.Duration) {
	if p.held.full {
		p.held.full = false
		p.pushFrame(nil, p.held.frame, p.held.decision, now)
	}
}

// pushFrame puts a frame into the queue once or twice, with or without a wrong bit.
func (p *pipe) pushFrame(head, data []byte, d decision, now time.Duration) {
	copies := 1
	if d.duplicate {
		copies = 2
		p.counts.Duplicated++
	}
	bits := 8 * uint64(len(head)+len(data)-ether.HeaderLen)
	d.corrupt = d.corrupt && bits > 0
	if d.corrupt {
		p.counts.Corrupted++
	}
	for range copies {
		frame := p.push(virtio.Header{}, head, data, d.jitter, now)
		if frame == nil {
			p.countDropped(1)
		} else if d.corrupt {
			bit := d.bit % bits
			frame[ether.HeaderLen+bit/8] ^= 1 << (bit % 8)
		}
	}
}

// push puts a packet into the queue with the time at which it is due. It returns its bytes
// there, or nil if the queue is full.
func (p *pipe) push(h virtio.Header, head, data []byte, jitter float64, now time.Duration) []byte {
	n := len(head) + len(data)
	if p.queue.bytes+n > MaxQueue {
		return nil
	}
	if wait := p.busyUntil - now; p.settings.Rate > 0 && wait > 0 {
		if wait+p.transmitTime(n) > p.transmitTime(cmp.Or(p.settings.Queue, defaultQueue)) {
			return nil
		}
	}
	p.busyUntil = max(p.busyUntil, now) + p.transmitTime(n)
	return p.queue.push(record{left: p.busyUntil, due: p.due(p.busyUntil, jitter), jitter: jitter, header: h}, head, data)
}

// isDue reports whether the first packet of the queue is due.
func (p *pipe) isDue(now time.Duration) bool {
	r, _, ok := p.queue.peek()
	return ok && r.due <= now
}

// readable reports whether a receiver need not wait: a packet is due, or the network has
// ended and the queue is empty.
func (p *pipe) readable(now time.Duration) bool {
	return p.isDue(now) || p.err != nil && p.queue.head == nil && !p.held.full
}

// schedule wakes a receiver if it need not wait, and otherwise sets the timer to the next
// event. p.mu is held. now is the time at which the caller checked what is due: with a later
// time, neither the caller nor schedule might handle a packet that has become due.
func (p *pipe) schedule(now time.Duration) {
	r, _, ok := p.queue.peek()
	next := r.due
	if p.incoming && p.readable(now) {
		p.arrived.Signal()
		ok = false // the receiver schedules again
	}
	if p.held.full && (!ok || p.held.until < next) {
		next, ok = p.held.until, true
	}
	if !ok || p.closed || p.timerSet && p.timerAt <= next {
		return
	}
	p.timerAt, p.timerSet = next, true
	wait := max(next-p.now(), 0)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.timerFired)
	} else {
		p.timer.Reset(wait)
	}
}

func (p *pipe) timerFired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timerSet = false
	if p.closed {
		return
	}
	now := p.now()
	if p.held.full && p.held.until <= now {
		p.release(now)
	}
	if p.incoming {
		p.schedule(now)
	} else {
		p.onTimer()
	}
}

// close drops the packets of the queue, and wakes all receivers.
func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	if !p.sending { // the sender uses memory of the queue, and clears it
		p.queue.clear()
	}
	p.held = reorderSlot{}
	p.arrived.Broadcast()
	p.room.Broadcast()
}
