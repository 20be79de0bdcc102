// Package capture records frames in the format pcapng, which Wireshark and many
// other programs read.
//
// A sender of frames never waits for the writer: what the writer does not take in time is
// dropped, and counted in the file. Frames are in the file in the order of their times, even
// if they get here in another order.
package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

const (
	// bufferSize bounds what waits for the writer: about 10,000 frames of 1514 bytes, as
	// many as a fast network brings while a busy machine does not let the writer run.
	// While it writes, the same amount is kept a second time.
	bufferSize = 16 << 20
	// keptSize is how much memory is kept though less than a sixteenth of it was used.
	keptSize = 1 << 20
	// writeSize is how much is written at once. Each write shows that the writer still
	// works.
	writeSize = 256 << 10
	// stallTime is how long Close waits for a writer that makes no progress.
	stallTime = 5 * time.Second

	// holdSize bounds what waits for earlier frames of other interfaces, and holdStep is the
	// interval of looking for them. The bound is no time, since on a busy machine nobody can
	// say when a socket is read.
	holdSize = bufferSize / 2
	holdStep = time.Millisecond

	headerLen = 14 // of Ethernet
)

// recorders are the recorders in use, by their writer.
var recorders = struct {
	mu  sync.Mutex // guards all, and recorder.users
	all map[io.Writer]*recorder
}{all: make(map[io.Writer]*recorder)}

// A recorder writes one section, with all interfaces that have the same writer.
type recorder struct {
	w      io.Writer
	users  int           // interfaces that are open
	writes atomic.Uint64 // how often w was called
	done   chan struct{} // closed when write has returned

	mu         sync.Mutex // guards what follows, and the fields of interfaces; not held while it writes
	arrived    sync.Cond  // pending or closing has changed
	interfaces []*Interface
	pending    []byte
	blocks     []block // of pending
	sorted     bool    // blocks are in the order of their times
	cut        virtio.Segmenter
	closing    bool
	err        error
}

// A block of pending, with the time that it belongs to and the time when it came.
type block struct {
	ns      int64
	arrived time.Time
	begin   int
	end     int
}

// An Interface records frames. Its methods may be called from several goroutines at once.
type Interface struct {
	r      *recorder
	id     int
	failed func(error)

	// Guarded by r.mu:
	closed bool
	stats  statistics
	missed uint64      // since the last recorded frame
	quiet  func() bool // nil: frames get here at their time
	last   int64       // time of the last frame that came with one
	empty  time.Time   // all of before are here; only write uses it
	newest int64       // of the times of all frames
}

// Open begins to record an interface. Interfaces with the same writer share a section, if
// the writer can be compared. failed is called once, with the error that ends the recording;
// it may be nil. A writer that wants no more returns [io.EOF], which is no error.
func Open(w io.Writer, name, description string, failed func(error)) *Interface {
	if failed == nil {
		failed = func(error) {}
	}
	i := &Interface{failed: failed}
	if err := i.join(w, name, description); err != nil && err != errEnough {
		failed(err)
	}
	return i
}

// errEnough is the end of a recording whose writer wants no more.
var errEnough = errors.New("the writer wants no more")

// join joins the recorder of a writer, and returns the error that has ended it.
func (i *Interface) join(w io.Writer, name, description string) error {
	recorders.mu.Lock()
	defer recorders.mu.Unlock()
	comparable := reflect.ValueOf(w).Comparable()
	var r *recorder
	if comparable {
		r = recorders.all[w]
	}
	if r == nil {
		r = &recorder{w: w, done: make(chan struct{}), pending: appendSection(nil), sorted: true}
		r.ended(math.MinInt64, time.Now())
		r.arrived.L = &r.mu
		if comparable {
			recorders.all[w] = r
		}
		go r.write()
	}
	r.users++
	r.mu.Lock()
	defer r.mu.Unlock()
	i.r, i.id = r, len(r.interfaces)
	i.stats.start = time.Now().UnixNano()
	if r.err == nil {
		r.interfaces = append(r.interfaces, i)
		r.pending = appendInterface(r.pending, name, description)
		r.ended(math.MinInt64, time.Now()) // before all of its frames, in the order of the numbers
		r.arrived.Signal()
	}
	return r.err
}

// ended records that a block of pending is complete. r.mu is held.
func (r *recorder) ended(ns int64, arrived time.Time) {
	b := block{ns: ns, arrived: arrived, end: len(r.pending)}
	if n := len(r.blocks); n > 0 {
		b.begin = r.blocks[n-1].end
		r.sorted = r.sorted && r.blocks[n-1].ns <= ns
	}
	r.blocks = append(r.blocks, b)
}

// Late says that frames get here, with SeenAt, later than at their time. quiet reports
// whether all are here. Frames of other interfaces with the same writer wait for them. Nil
// says that no more come.
func (i *Interface) Late(quiet func() bool) {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	i.quiet = quiet
}

// complete returns the time of frames, and that of their arrival, before which nothing earlier
// is still to come.
//
// The sender's socket has a frame before the frame gets its time at the receiver. So if the
// sender's socket is found empty after now, everything is here that was sent before a frame
// that was received before now.
func (r *recorder) complete() (ns int64, arrived time.Time) {
	now := time.Now()
	ns, arrived = math.MaxInt64, now
	r.mu.Lock()
	interfaces, closing := r.interfaces, r.closing
	r.mu.Unlock()
	if closing {
		return ns, now
	}
	for _, i := range interfaces {
		r.mu.Lock()
		quiet, last := i.quiet, i.last
		if i.closed {
			quiet = nil
		}
		r.mu.Unlock()
		if quiet == nil {
			continue
		}
		ns = min(ns, now.UnixNano())
		if quiet() { // no lock is held: what comes meanwhile is later than now
			i.empty = now
		} else {
			ns = min(ns, last)
		}
		if i.empty.Before(arrived) {
			arrived = i.empty
		}
	}
	return ns, arrived
}

// take moves to out what belongs to a time up to ns, or has arrived before the given one. If
// too much waits, it moves all.
func (r *recorder) take(out []byte, ns int64, arrived time.Time) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ns == math.MaxInt64 && r.sorted {
		out, r.pending, r.blocks = r.pending, out[:0], r.blocks[:0]
		return out
	}
	if !r.sorted {
		slices.SortStableFunc(r.blocks, func(a, b block) int { return cmp.Compare(a.ns, b.ns) })
	}
	n := 0
	for i, b := range r.blocks {
		if b.ns <= ns || b.arrived.Before(arrived) || len(r.pending) > holdSize {
			n = i + 1
		}
	}
	out = out[:0]
	for _, b := range r.blocks {
		out = append(out, r.pending[b.begin:b.end]...)
	}
	size := 0
	for _, b := range r.blocks[:n] {
		size += b.end - b.begin
	}
	r.pending, r.sorted = append(r.pending[:0], out[size:]...), true
	r.blocks = append(r.blocks[:0], r.blocks[n:]...)
	end := 0
	for i := range r.blocks {
		b := &r.blocks[i]
		b.begin, b.end = end, end+b.end-b.begin
		end = b.end
	}
	return out[:size]
}

// write writes what is pending, until the recording ends.
func (r *recorder) write() {
	defer close(r.done)
	var out []byte
	for {
		r.mu.Lock()
		if n := cap(r.pending) + cap(out); n > keptSize && len(out) < n/16 && len(r.pending) == 0 {
			r.pending, r.blocks, out = nil, nil, nil
		}
		for len(r.pending) == 0 && !r.closing {
			r.arrived.Wait()
		}
		over := len(r.pending) == 0 || r.err != nil
		r.mu.Unlock()
		if over {
			return
		}
		ns, arrived := r.complete()
		if out = r.take(out, ns, arrived); len(out) == 0 {
			time.Sleep(holdStep) // until more is complete
			continue
		}
		for rest := out; len(rest) > 0; {
			n, err := r.writeTo(rest[:min(len(rest), writeSize)])
			if err == nil && n != min(len(rest), writeSize) {
				err = io.ErrShortWrite
			}
			r.writes.Add(1)
			if !r.end(err) {
				return
			}
			rest = rest[n:]
		}
	}
}

// writeTo calls the writer. A writer that panics, or ends the goroutine, ends the recording;
// the program could not recover in this goroutine.
func (r *recorder) writeTo(b []byte) (n int, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("the writer has panicked: %v", p)
		} else {
			r.end(errGoexit)
		}
	}()
	n, err = r.w.Write(b)
	returned = true
	return n, err
}

// errGoexit says that a writer does not return.
var errGoexit = errors.New("the writer has ended the goroutine that called it")

// end ends the recording if err is not nil. It reports whether the recording goes on.
func (r *recorder) end(err error) bool {
	r.mu.Lock()
	if err == nil || r.err != nil {
		defer r.mu.Unlock()
		return r.err == nil // Close may not have waited
	}
	if err == io.EOF {
		err = errEnough
	} else {
		err = fmt.Errorf("writing the capture: %w", err)
	}
	r.err, r.pending, r.blocks = err, nil, nil
	interfaces := r.interfaces
	r.mu.Unlock()
	if err == errEnough {
		return false
	}
	for _, i := range interfaces {
		i.failed(err)
	}
	return false
}

// Packets records the frames that packets stand for. out says that the interface has sent
// them. It does not change the packets.
func (i *Interface) Packets(out bool, packets []packet.Packet) {
	i.record(func(now time.Time) {
		for j := range packets {
			i.packet(now.UnixNano(), now, out, packets[j].Offload, packets[j].Data)
		}
	})
}

// SeenAt is Packets for those whose direction and time in ns are known.
func (i *Interface) SeenAt(packets []packet.Packet, of func(j int) (out bool, ns int64)) {
	i.record(func(now time.Time) {
		for j := range packets {
			out, ns := of(j)
			i.packet(ns, now, out, packets[j].Offload, packets[j].Data)
			i.last = ns
		}
	})
}

// Frame is Packets for a single frame.
func (i *Interface) Frame(out bool, frame []byte) {
	i.record(func(now time.Time) { i.packet(now.UnixNano(), now, out, virtio.Header{}, frame) })
}

// record calls add with r.mu held, unless the interface is closed.
func (i *Interface) record(add func(now time.Time)) {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	if i.closed {
		return
	}
	add(time.Now())
	if len(i.r.pending) > 0 {
		i.r.arrived.Signal()
	}
}

// packet records the frames of a packet. r.mu is held.
func (i *Interface) packet(ns int64, now time.Time, out bool, h virtio.Header, data []byte) {
	r := i.r
	if len(data) < headerLen || r.err == errEnough {
		return // the network does not carry it, or nobody wants it
	}
	frames, bytes := virtio.Count(h, data)
	if r.err != nil || len(r.pending)+bytes+frames*packetMore > bufferSize {
		i.stats.dropped += uint64(frames)
		i.missed += uint64(frames)
		return
	}
	if h.GSOType == virtio.GSONone {
		at := len(r.pending) + packetHead
		i.frame(ns, now, out, nil, data)
		// A missing checksum is completed in the copy; on an error it is left out.
		r.cut.Split(h, r.pending[at:at+len(data)], 0)
		return
	}
	segments, err := r.cut.Split(h, data, 0)
	if err != nil {
		return // the network does not carry it
	}
	for _, s := range segments {
		i.frame(ns, now, out, s.Head, s.Data)
	}
}

func (i *Interface) frame(ns int64, now time.Time, out bool, head, data []byte) {
	i.r.pending = appendPacket(i.r.pending, i.id, ns, out, i.missed, head, data)
	i.r.ended(ns, now)
	i.missed, i.newest = 0, max(i.newest, ns)
	i.stats.recorded++
}

// Missed counts frames that were lost on the way to here.
func (i *Interface) Missed(frames uint64) {
	if frames == 0 {
		return
	}
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	i.stats.osDropped += frames
	i.missed += frames
}

// Counts returns how many frames were recorded, and how many were not.
func (i *Interface) Counts() (recorded, dropped uint64) {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	return i.stats.recorded, i.stats.dropped + i.stats.osDropped
}

// Recording reports whether the recording goes on.
func (i *Interface) Recording() bool {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	return i.r.err == nil && !i.closed
}

// Err returns the error that has ended the recording.
func (i *Interface) Err() error {
	i.r.mu.Lock()
	defer i.r.mu.Unlock()
	if i.r.err == errEnough {
		return nil
	}
	return i.r.err
}

// Close ends the recording of the interface. The last interface of a writer waits until all
// is written, or until nothing was written for five seconds. Close returns the error that has
// ended the recording. The writer stays open. Closing twice is harmless.
func (i *Interface) Close() error {
	r := i.r
	r.mu.Lock()
	if i.closed {
		r.mu.Unlock()
		return nil
	}
	i.closed = true
	now := time.Now()
	i.stats.end = now.UnixNano()
	if r.err == nil {
		r.pending = appendStatistics(r.pending, i.id, i.stats)
		r.ended(max(i.stats.end, i.newest), now) // after all of its frames, even if the clock was set
		r.arrived.Signal()
	}
	r.mu.Unlock()
	if r.leave() {
		r.wait()
	}
	return i.Err()
}

// leave reports whether the last user has left.
func (r *recorder) leave() bool {
	recorders.mu.Lock()
	defer recorders.mu.Unlock()
	if r.users--; r.users > 0 {
		return false
	}
	if reflect.ValueOf(r.w).Comparable() {
		delete(recorders.all, r.w)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	r.arrived.Signal()
	return true
}

// errStalled says that Close did not wait for all to be written.
var errStalled = fmt.Errorf("the writer has taken nothing for %v", stallTime)

// wait waits for the end of write, while that makes progress.
func (r *recorder) wait() {
	timer := time.NewTimer(stallTime)
	defer timer.Stop()
	for last := r.writes.Load(); ; timer.Reset(stallTime) {
		select {
		case <-r.done:
			return
		case <-timer.C:
		}
		var err error
		if last == r.writes.Load() {
			err = errStalled
		}
		if !r.end(err) {
			return
		}
		last = r.writes.Load()
	}
}
