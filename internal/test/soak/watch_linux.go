package main

import (
	"runtime"
	"sync"
	"time"
)

// watched are the running tasks.
type watched struct {
	mu    sync.Mutex // guards tasks
	tasks map[*task]struct{}
}

func (w *watched) add(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tasks == nil {
		w.tasks = make(map[*task]struct{})
	}
	w.tasks[t] = struct{}{}
}

func (w *watched) remove(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tasks, t)
}

// watch waits until over is closed, or returns a task that hangs.
func (w *watched) watch(over <-chan struct{}) *task {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return nil
		case <-tick.C:
		}
		w.mu.Lock()
		for t := range w.tasks {
			if time.Since(t.start) > opLimit {
				w.mu.Unlock()
				return t
			}
		}
		w.mu.Unlock()
	}
}

// goroutines returns the stacks of all goroutines.
func goroutines() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
