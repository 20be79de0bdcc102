package vdeplug

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// emuLate is how long a frame is held back for a next one.
const emuLate = 10 * time.Millisecond

// An emuLine is one direction of a network that is impaired. What becomes of a
// frame (draw) does not depend on time; when it arrives is its place in a queue in
// order of time. One timer wakes whoever takes it from there.
type emuLine struct {
	now     func() time.Duration // since the start
	dropped *atomic.Uint64       // of the plug
	// on is set with the first impairment, for ever: all goes through the queue.
	on atomic.Bool

	mu      sync.Mutex // guards what follows; not held while a packet is sent
	imp     Impairment
	source  rand.PCG
	counts  EmulationCounts
	queue   emuQueue
	busy    time.Duration // when the rate has room for the next
	last    time.Duration // when the last in the queue arrives
	late    emuHeld
	closed  bool
	err     error       // the end of the network
	timer   *time.Timer // nil: it was not needed yet
	wake    time.Duration
	waking  bool   // the timer goes off at wake
	expired func() // outward: takes from the queue what is due; called with mu held

	sending       bool      // outward: somebody takes from the queue
	inward        bool      // who receives takes from the queue, and arm wakes them
	reading       bool      // inward: somebody puts into it
	arrived, room sync.Cond // inward: of the queue
}

// An emuHeld is a frame that is held back.
type emuHeld struct {
	held  bool
	frame []byte
	fate  fate
	until time.Duration
}

func (l *emuLine) init(start time.Time) {
	l.now = func() time.Duration { return time.Since(start) }
	l.arrived.L, l.room.L = &l.mu, &l.mu
}

func (l *emuLine) impairment() Impairment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.imp
}

func (l *emuLine) count() EmulationCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// set changes the impairment, and gives the packets in the queue new times.
func (l *emuLine) set(to Impairment, anew bool, seed, direction uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if anew {
		l.source.Seed(seed, direction)
	}
	l.imp = to
	if !to.none() {
		l.on.Store(true)
	}
	now := l.now()
	l.busy, l.last = now, 0
	l.queue.change(func(r *emuRecord) {
		if r.left > now {
			l.busy += l.takes(r.n)
			r.left = l.busy
		}
		r.due = l.due(r.left, r.jitter)
	})
	l.arm(now)
	l.room.Signal() // what was due may no longer be
}

// takes returns how long n bytes take at the rate.
func (l *emuLine) takes(n int) time.Duration {
	if l.imp.Rate == 0 {
		return 0
	}
	return time.Duration(float64(n) * 8 * float64(time.Second) / float64(l.imp.Rate))
}

// due returns when a packet arrives, which is the last.
func (l *emuLine) due(left time.Duration, jitter float64) time.Duration {
	l.last = max(l.last, left+l.imp.Delay+time.Duration(jitter*float64(l.imp.Jitter)))
	return l.last
}

// A fate is what becomes of a frame.
type fate struct {
	lost, twice, corrupt, late bool
	bit                        uint64  // that is changed, modulo their number
	jitter                     float64 // the part of it
}

// draw returns the fate of the next frame. It takes the same number of random
// numbers for each, so that one setting does not change what another one does.
func (l *emuLine) draw() (f fate) {
	part := func() float64 { return float64(l.source.Uint64()>>11) / (1 << 53) } // less than 1
	f.lost = part() < l.imp.Loss
	f.twice = part() < l.imp.Duplicate
	f.corrupt = part() < l.imp.Corrupt
	f.late = part() < l.imp.Reorder
	f.bit = l.source.Uint64()
	f.jitter = part()
	return f
}

// put takes a packet that has come now. l.mu is held.
func (l *emuLine) put(cut *virtio.Segmenter, p *packet.Packet, now time.Duration) {
	single := p.Offload.GSOType == virtio.GSONone
	if len(p.Data) < ether.HeaderLen || single && len(p.Data) > ether.MaxFrame || len(p.Data) > virtio.MaxPacket {
		l.dropped.Add(1)
		return
	}
	if l.imp.whole() {
		frames, _ := virtio.Count(p.Offload, p.Data)
		l.counts.Frames += uint64(frames)
		if l.Push(p.Offload, nil, p.Data, 0, now) == nil {
			l.full(frames)
		}
		l.release(now)
		return
	}
	segments, err := cut.Split(p.Offload, p.Data, 0)
	if err != nil {
		l.dropped.Add(1)
		return
	}
	for i := range segments {
		s := &segments[i]
		if n := len(s.Head) + len(s.Data); n < ether.HeaderLen || n > ether.MaxFrame {
			l.dropped.Add(1)
			continue
		}
		l.frame(s, now)
	}
}

func (l *emuLine) full(frames int) {
	l.counts.Dropped += uint64(frames)
	l.dropped.Add(uint64(frames))
}

// frame decides what becomes of a frame.
func (l *emuLine) frame(s *virtio.Segment, now time.Duration) {
	l.counts.Frames++
	f := l.draw()
	switch {
	case f.lost:
		l.counts.Lost++
	case f.late && !l.late.held:
		l.counts.Reordered++
		frame := append(append(l.late.frame[:0], s.Head...), s.Data...)
		l.late = emuHeld{held: true, frame: frame, fate: f, until: now + emuLate}
	default:
		l.pass(s.Head, s.Data, f, now)
		l.release(now)
	}
}

// release passes the frame that was held back, if there is one.
func (l *emuLine) release(now time.Duration) {
	if l.late.held {
		l.late.held = false
		l.pass(nil, l.late.frame, l.late.fate, now)
	}
}

// pass puts a frame into the queue, with what its fate is.
func (l *emuLine) pass(head, data []byte, f fate, now time.Duration) {
	copies := 1
	if f.twice {
		copies = 2
		l.counts.Duplicated++
	}
	bits := 8 * uint64(len(head)+len(data)-ether.HeaderLen)
	f.corrupt = f.corrupt && bits > 0
	if f.corrupt {
		l.counts.Corrupted++
	}
	for range copies {
		frame := l.Push(virtio.Header{}, head, data, f.jitter, now)
		if frame == nil {
			l.full(1)
		} else if f.corrupt {
			bit := f.bit % bits
			frame[ether.HeaderLen+bit/8] ^= 1 << (bit % 8)
		}
	}
}

// Push puts a packet into the queue with the time when it arrives. It returns nil
// if the queue is full.
func (l *emuLine) Push(h virtio.Header, head, data []byte, jitter float64, now time.Duration) []byte {
	n := len(head) + len(data)
	if l.queue.bytes+n > emuMemory {
		return nil
	}
	if wait := l.busy - now; l.imp.Rate > 0 && wait > 0 {
		limit := l.imp.Queue
		if limit == 0 {
			limit = emuQueueBytes
		}
		if wait+l.takes(n) > l.takes(limit) {
			return nil
		}
	}
	l.busy = max(l.busy, now) + l.takes(n)
	return l.queue.Push(emuRecord{left: l.busy, due: l.due(l.busy, jitter), jitter: jitter, header: h}, head, data)
}

// isDue reports that the first in the queue has arrived.
func (l *emuLine) isDue(now time.Duration) bool {
	r, _, ok := l.queue.first()
	return ok && r.due <= now
}

// ready reports that there is something for who receives: a packet that has
// arrived, or the end of the network behind the last one.
func (l *emuLine) ready(now time.Duration) bool {
	return l.isDue(now) || l.err != nil && l.queue.head == nil && !l.late.held
}

// arm sees to what comes next: it wakes one who receives if that is possible now,
// and otherwise has the timer go off when it is. l.mu is held. now is when the
// caller looked what is due: at a later moment something else may be, which
// neither of the two would see to.
func (l *emuLine) arm(now time.Duration) {
	r, _, ok := l.queue.first()
	next := r.due
	if l.inward && l.ready(now) {
		l.arrived.Signal()
		ok = false // who is woken arms it again
	}
	if l.late.held && (!ok || l.late.until < next) {
		next, ok = l.late.until, true
	}
	if !ok || l.closed || l.waking && l.wake <= next {
		return
	}
	l.wake, l.waking = next, true
	wait := max(next-l.now(), 0)
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.expire)
	} else {
		l.timer.Reset(wait)
	}
}

// expire is called by the timer.
func (l *emuLine) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waking = false
	if l.closed {
		return
	}
	now := l.now()
	if l.late.held && l.late.until <= now {
		l.release(now)
	}
	if l.inward {
		l.arm(now)
	} else {
		l.expired()
	}
}

// close drops what is in the queue, and wakes all who wait.
func (l *emuLine) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.sending { // who sends has packets of the queue
		l.queue.clear()
	}
	l.late = emuHeld{}
	l.arrived.Broadcast()
	l.room.Broadcast()
}
