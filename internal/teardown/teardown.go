// Package teardown runs slow kernel cleanup in the background. At most a few
// goroutines of the process wait for the kernel, each of which takes a thread; there
// are none while there is nothing to do.
package teardown

import (
	"sync"
	"time"
)

// workers is how many functions run at once: the kernel does most of their work one after
// the other anyway.
const workers = 4

var work = struct {
	mu      sync.Mutex // guards all
	queue   []func()
	running int
	idle    *sync.Cond
}{}

func init() { work.idle = sync.NewCond(&work.mu) }

// Go calls f soon.
func Go(f func()) {
	work.mu.Lock()
	defer work.mu.Unlock()
	work.queue = append(work.queue, f)
	if work.running < workers {
		work.running++
		go run()
	}
}

func run() {
	work.mu.Lock()
	defer work.mu.Unlock()
	for len(work.queue) > 0 {
		f := work.queue[0]
		work.queue[0] = nil
		work.queue = work.queue[1:]
		work.mu.Unlock()
		f()
		work.mu.Lock()
	}
	work.queue = nil
	work.running--
	if work.running == 0 {
		work.idle.Broadcast()
	}
}

// Limit is how long Within waits.
const Limit = 500 * time.Millisecond

// Within calls f in a goroutine of its own, and waits until it has ended, for about
// Limit at most: then it returns false, and f goes on. It is for closing things that
// another process can slow down: descriptors that came with a message are destroyed in
// the call that reads the message, or closes the socket, and their sender decides how
// long that takes the kernel.
func Within(f func()) (ended bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(Limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Wait waits until all functions have ended. It is for tests.
func Wait() {
	work.mu.Lock()
	defer work.mu.Unlock()
	for work.running > 0 {
		work.idle.Wait()
	}
}
