//go:build amd64 || arm64

package netns

import (
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/teardown"
	"golang.org/x/sys/unix"
)

const (
	// series is the longest time between two namespaces that are asked for in
	// series. So long the next ones are kept ready.
	series = time.Second
	// mostReady is how many are kept ready.
	mostReady = 2
	// settling is how long after one was asked for the next are made: that keeps
	// the helper busy for half a millisecond, in which its user needs it.
	settling = 2 * time.Millisecond
)

// nsPool are namespaces that are made before they are asked for, while a program
// asks for one after the other. A program that is at rest has none.
var nsPool struct {
	mu     sync.Mutex // guards all; not held while a namespace is made
	spaces []*NS
	last   time.Time     // when one was asked for
	tap    TAP           // what they have
	making chan struct{} // closed when those that are being made are ready; nil: none are
	timer  *time.Timer   // makes the next, or closes them
}

// Ready returns a namespace that NewWith has made ahead, or nil.
func Ready(t TAP) *NS {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	now := time.Now()
	again := now.Sub(nsPool.last) < series
	nsPool.last = now
	if nsPool.tap != t {
		if old := nsPool.spaces; len(old) > 0 {
			teardown.Go(func() { closeSpaces(old) })
		}
		nsPool.tap, nsPool.spaces = t, nil
	}
	if again && nsPool.making == nil {
		if nsPool.timer == nil {
			nsPool.timer = time.AfterFunc(settling, tend)
		} else {
			nsPool.timer.Reset(settling)
		}
	}
	last := len(nsPool.spaces) - 1
	if last < 0 {
		return nil
	}
	n := nsPool.spaces[last]
	if n.h.calls.lost() || !n.h.has() {
		dropReady() // nobody makes sockets in them, or sets them up
		return nil
	}
	nsPool.spaces[last] = nil
	nsPool.spaces = nsPool.spaces[:last]
	return n
}

// tend makes namespaces ready, or closes them when the series has ended.
func tend() {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	if nsPool.making != nil {
		return
	}
	if time.Since(nsPool.last) >= series || !roomForReady() {
		dropReady()
		return
	}
	done := make(chan struct{})
	nsPool.making = done
	for len(nsPool.spaces) < mostReady {
		t := nsPool.tap
		nsPool.mu.Unlock()
		n, err := Create(t, nil)
		nsPool.mu.Lock()
		if err != nil {
			break // the next caller sees the error
		}
		if nsPool.tap == t {
			nsPool.spaces = append(nsPool.spaces, n)
		} else {
			teardown.Go(func() { n.Close() })
		}
	}
	nsPool.making = nil
	close(done)
	nsPool.timer.Reset(time.Until(nsPool.last.Add(series)))
}

// descriptorReserve is how many descriptors must be free for namespaces to be made ready.
const descriptorReserve = 64

// roomForReady reports whether the program is far from its limit of descriptors. Near it,
// those of ready namespaces could be missing for a stack that is being opened.
func roomForReady() bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return false
	}
	free, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return false
	}
	unix.Close(free)
	return uint64(free)+descriptorReserve <= limit.Cur
}

func dropReady() {
	closeSpaces(nsPool.spaces)
	nsPool.spaces = nil
}

func closeSpaces(spaces []*NS) {
	for _, n := range spaces {
		n.Close()
	}
}

// DropReady closes the namespaces that are ready, as if none had been asked for.
// It is for tests.
func DropReady() {
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
	nsPool.last = time.Time{}
	dropReady()
}
