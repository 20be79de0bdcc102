//go:build amd64 || arm64

package netns

import (
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/teardown"
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

// ready are namespaces that are made before they are asked for, while a program
// asks for one after the other. A program that is at rest has none.
var ready struct {
	mu     sync.Mutex // guards all; not held while a namespace is made
	spaces []*NS
	last   time.Time     // when one was asked for
	tap    TAP           // what they have
	making chan struct{} // closed when those that are being made are ready; nil: none are
	timer  *time.Timer   // makes the next, or closes them
}

// Ready is NewWith that returns only one that is ready, nil if there is none.
func Ready(t TAP) *NS {
	ready.mu.Lock()
	defer ready.mu.Unlock()
	now := time.Now()
	again := now.Sub(ready.last) < series
	ready.last = now
	if ready.tap != t {
		if old := ready.spaces; len(old) > 0 {
			teardown.Go(func() { closeSpaces(old) })
		}
		ready.tap, ready.spaces = t, nil
	}
	if again && ready.making == nil {
		if ready.timer == nil {
			ready.timer = time.AfterFunc(settling, tend)
		} else {
			ready.timer.Reset(settling)
		}
	}
	last := len(ready.spaces) - 1
	if last < 0 {
		return nil
	}
	n := ready.spaces[last]
	if n.h.box.lost() || !n.h.has() {
		dropReady() // nobody makes sockets in them, or sets them up
		return nil
	}
	ready.spaces[last] = nil
	ready.spaces = ready.spaces[:last]
	return n
}

// tend makes namespaces ready, or closes them when the series has ended.
func tend() {
	ready.mu.Lock()
	defer ready.mu.Unlock()
	if ready.making != nil {
		return
	}
	if time.Since(ready.last) >= series {
		dropReady()
		return
	}
	done := make(chan struct{})
	ready.making = done
	for len(ready.spaces) < mostReady {
		t := ready.tap
		ready.mu.Unlock()
		n, err := Create(t, nil)
		ready.mu.Lock()
		if err != nil {
			break // whoever asks for one sees that
		}
		if ready.tap == t {
			ready.spaces = append(ready.spaces, n)
		} else {
			teardown.Go(func() { n.Close() })
		}
	}
	ready.making = nil
	close(done)
	ready.timer.Reset(time.Until(ready.last.Add(series)))
}

func dropReady() {
	closeSpaces(ready.spaces)
	ready.spaces = nil
}

func closeSpaces(spaces []*NS) {
	for _, n := range spaces {
		n.Close()
	}
}

// DropReady closes the namespaces that are ready, as if none had been asked for.
// It is for tests.
func DropReady() {
	ready.mu.Lock()
	for ready.making != nil {
		making := ready.making
		ready.mu.Unlock()
		<-making
		ready.mu.Lock()
	}
	defer ready.mu.Unlock()
	if ready.timer != nil {
		ready.timer.Stop()
	}
	ready.last = time.Time{}
	dropReady()
}
