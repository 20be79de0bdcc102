package packet

import "sync"

// A waitLock is a mutex whose holder may wait for long. Unlike with [sync.Mutex], a goroutine
// that waits for it is durably blocked in the sense of testing/synctest.
type waitLock struct {
	mu   sync.Mutex // guards held
	free sync.Cond  // held became false
	held bool
}

func (l *waitLock) Lock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free.L = &l.mu
	for l.held {
		l.free.Wait()
	}
	l.held = true
}

func (l *waitLock) Unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	l.free.Signal()
}
