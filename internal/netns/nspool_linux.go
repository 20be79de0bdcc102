//go:build amd64 || arm64

package netns

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/teardown"
	"golang.org/x/sys/unix"
)

const (
	// series is the longest time between two namespaces of a series, and how long the
	// next ones stay in the pool.
	series   = time.Second
	poolSize = 2 // in a series, and one after its first
	// settling is how long after Settle the next are made: that keeps the helper busy for
	// half a millisecond, when the user of the new namespace may need it.
	settling = 2 * time.Millisecond
	// busySettling is that after a request that comes sooner than settling after a Settle. What
	// the stack needs next from the kernel keeps it as busy as another namespace: that is made
	// beside it, by another processor.
	busySettling = 200 * time.Microsecond
	// aloneSettling is that after a request that comes alone: a program that has just begun
	// makes its first sockets, and nothing presses.
	aloneSettling = 20 * time.Millisecond
)

// nsPool has namespaces that are made in advance: one after a request that comes alone, for
// many programs make a second, and more while a program makes one after the other. It is
// empty in a program at rest.
var nsPool struct {
	mu      sync.Mutex // guards all; not held while a namespace is made
	spaces  []*NS
	last    time.Time     // of the last request
	settled time.Time     // of the last Settle
	wanted  int           // the next Settle has the pool filled to this, unless it is 0
	filling int           // to this
	tap     TAP           // that they have
	prepare Prepare       // of the last request; nil: none
	making  chan struct{} // closed when those being made are in the pool; nil: none are
	timer   *time.Timer   // makes the next, or closes them
}

// Ready is what was prepared in a namespace of the pool for its user. Close closes what
// belongs to it.
type Ready interface {
	io.Closer
	// Plain reports whether the namespace is as others are: there is no interface that
	// only some could use.
	Plain() bool
}

// Prepare prepares a namespace of the pool for its user, who finds the result by TakeReady. t
// is the TAP that it has; zero if it has none. After an error the namespace is closed.
type Prepare func(n *NS, t TAP) (Ready, error)

// FromPool returns a namespace with the TAP from the pool, or nil: one that fits or, if there
// is none, a plain one. Those that do not fit leave the pool, for others to be made. prepare is
// for these; nil: they stay as they are.
func FromPool(t TAP, prepare Prepare, fits func(Ready) bool) *NS {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	nsPool.prepare = prepare
	if !requested(t) {
		return nil
	}
	var misfits []*NS
	found := -1
	nsPool.spaces = slices.DeleteFunc(nsPool.spaces, func(n *NS) bool {
		misfit := !n.isPlain() && !fits(n.ready())
		if misfit {
			misfits = append(misfits, n)
		}
		return misfit
	})
	if len(misfits) > 0 {
		teardown.Go(func() { closeSpaces(misfits) })
	}
	for i, n := range nsPool.spaces {
		if found = i; !n.isPlain() {
			break
		}
	}
	return takeFromPool(found)
}

// plainFromPool is FromPool for a plain one without a TAP, and leaves the others.
func plainFromPool() *NS {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	if !requested(TAP{}) {
		return nil
	}
	return takeFromPool(slices.IndexFunc(nsPool.spaces, (*NS).isPlain))
}

// besideFromPool is plainFromPool without a request.
func besideFromPool() *NS {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	if nsPool.tap != (TAP{}) || !usablePool() {
		return nil
	}
	return takeFromPool(slices.IndexFunc(nsPool.spaces, (*NS).isPlain))
}

// requested notes a request. It reports false if the pool has nothing for it. nsPool.mu is held.
func requested(t TAP) bool {
	now := time.Now()
	again := now.Sub(nsPool.last) < series
	nsPool.last = now
	if nsPool.tap != t {
		discardPool()
		nsPool.tap = t
	}
	if nsPool.wanted = 1; again {
		nsPool.wanted = poolSize
	}
	if now.Sub(nsPool.settled) < settling {
		fillLater(busySettling)
	}
	return usablePool()
}

// usablePool reports whether there is something in the pool. nsPool.mu is held.
func usablePool() bool {
	if slices.ContainsFunc(nsPool.spaces, func(n *NS) bool { return n.h.calls.lost() || !n.h.has() }) {
		discardPool() // nothing can be done in them
	}
	return len(nsPool.spaces) > 0
}

// takeFromPool takes the one at an index; nil for -1. nsPool.mu is held.
func takeFromPool(at int) *NS {
	if at < 0 {
		return nil
	}
	n := nsPool.spaces[at]
	nsPool.spaces = slices.Delete(nsPool.spaces, at, at+1)
	return n
}

// fillLater fills the pool after a while if that is wanted. nsPool.mu is held.
func fillLater(after time.Duration) {
	if nsPool.wanted == 0 {
		return
	}
	nsPool.filling, nsPool.wanted = nsPool.wanted, 0
	if nsPool.filling == 1 {
		after = aloneSettling
	}
	switch {
	case nsPool.making != nil: // then more are made
	case nsPool.timer == nil:
		nsPool.timer = time.AfterFunc(after, tend)
	default:
		nsPool.timer.Reset(after)
	}
}

// settle tells the pool that a namespace is set up. It reports whether that comes soon
// after the last one.
func settle() (burst bool) {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	now := time.Now()
	burst = now.Sub(nsPool.settled) < idleTimeout
	nsPool.settled = now
	fillLater(settling)
	return burst
}

// tend fills the pool, or empties it when the series has ended.
func tend() {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	if nsPool.making != nil {
		return
	}
	done := make(chan struct{})
	nsPool.making = done
	defer func() {
		nsPool.making = nil
		close(done)
	}()
	if ended := time.Since(nsPool.last) >= series; ended || !roomForPool() {
		old := takePool()
		nsPool.mu.Unlock() // closing them waits for the helper, which may be stopped
		closeSpaces(old)
		nsPool.mu.Lock()
		if ended && time.Since(nsPool.last) < series { // a request came meanwhile
			nsPool.timer.Reset(settling)
		}
		return
	}
	for len(nsPool.spaces) < nsPool.filling {
		t, prepare := nsPool.tap, nsPool.prepare
		nsPool.mu.Unlock()
		n, err := createAhead(t, prepare)
		nsPool.mu.Lock()
		if err != nil {
			break // the next request reports the error
		}
		if nsPool.tap == t {
			nsPool.spaces = append(nsPool.spaces, n)
		} else {
			teardown.Go(func() { n.Close() })
		}
	}
	nsPool.timer.Reset(time.Until(nsPool.last.Add(series)))
}

// createAhead makes a namespace for the pool.
func createAhead(t TAP, prepare Prepare) (*NS, error) {
	if !hasHelper() {
		return nil, errHelper
	}
	n, err := Create(t, nil)
	if err != nil || prepare == nil || t != (TAP{}) && !n.pool.hasTAP() {
		return n, err
	}
	ready, err := prepare(n, t)
	if err != nil {
		n.Close()
		return nil, err
	}
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	n.pool.ready = ready
	return n, nil
}

// ready returns what was prepared, until it is taken.
func (n *NS) ready() Ready {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	return n.pool.ready
}

func (n *NS) isPlain() bool {
	ready := n.ready()
	return ready == nil || ready.Plain()
}

// TakeReady returns what was prepared, once; else nil.
func (n *NS) TakeReady() Ready {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	ready := n.pool.ready
	n.pool.ready = nil
	return ready
}

// closeReady closes what was prepared, and reports whether there was something.
func (n *NS) closeReady() bool {
	ready := n.TakeReady()
	if ready == nil {
		return false
	}
	ready.Close()
	return true
}

const (
	// descriptorReserve is how many descriptors must be free for the pool to be filled.
	descriptorReserve = 64
	// fewNamespaces is a limit of namespaces that somebody has set: the kernel's own is half
	// as many as the machine takes threads. How many there are it does not say.
	fewNamespaces = 256
)

// roomForPool reports whether the program is far from its limit of descriptors, and its user
// may have many namespaces. Else the pool could keep a stack from being opened, of this
// program or another.
func roomForPool() bool {
	free, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return false
	}
	unix.Close(free)
	if uint64(free)+descriptorReserve > softLimit(unix.RLIMIT_NOFILE) {
		return false
	}
	limit, err := strconv.Atoi(sysctl("user.max_net_namespaces"))
	return err != nil || limit >= fewNamespaces // /proc may be missing
}

// takePool takes all out of the pool. nsPool.mu is held.
func takePool() []*NS {
	all := nsPool.spaces
	nsPool.spaces = nil
	return all
}

// discardPool closes all in the pool in the background. nsPool.mu is held.
func discardPool() {
	if old := takePool(); len(old) > 0 {
		teardown.Go(func() { closeSpaces(old) })
	}
}

func closeSpaces(spaces []*NS) {
	for _, n := range spaces {
		n.Close()
	}
}

// lingering is what Linger keeps.
var lingering struct {
	ending sync.Mutex // held while something is ended
	mu     sync.Mutex // guards all
	all    map[*kept]struct{}
}

// kept is one of these, until it is ended or taken back.
type kept struct {
	end   func()
	timer *time.Timer
}

// Linger keeps for a series what the next namespaces may need again: end is called after a
// second. take prevents that; it reports false if it was called. Near the limit of
// descriptors nothing is kept, and take is nil.
func Linger(end func()) (take func() bool) {
	if !roomForPool() {
		return nil
	}
	k := &kept{end: end}
	lingering.mu.Lock()
	defer lingering.mu.Unlock()
	if lingering.all == nil {
		lingering.all = make(map[*kept]struct{})
	}
	lingering.all[k] = struct{}{}
	k.timer = time.AfterFunc(series, k.over)
	return k.take
}

func (k *kept) take() bool {
	lingering.mu.Lock()
	defer lingering.mu.Unlock()
	_, still := lingering.all[k]
	delete(lingering.all, k)
	k.timer.Stop()
	return still
}

func (k *kept) over() {
	lingering.ending.Lock()
	defer lingering.ending.Unlock()
	if k.take() {
		k.end()
	}
}

// EmptyPool closes the namespaces of the pool, ends what lingers, and ends the series. It is
// for tests.
func EmptyPool() {
	lingering.mu.Lock()
	all := slices.Collect(maps.Keys(lingering.all))
	lingering.mu.Unlock()
	lingering.ending.Lock() // then what is being ended has ended
	for _, k := range all {
		if k.take() {
			k.end()
		}
	}
	lingering.ending.Unlock()
	nsPool.mu.Lock()
	for nsPool.making != nil {
		making := nsPool.making
		nsPool.mu.Unlock()
		<-making
		nsPool.mu.Lock()
	}
	defer nsPool.mu.Unlock()
	if nsPool.timer != nil {
		nsPool.timer.Stop()
	}
	nsPool.last, nsPool.settled, nsPool.wanted, nsPool.prepare = time.Time{}, time.Time{}, 0, nil
	closeSpaces(takePool())
}
