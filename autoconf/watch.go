package autoconf

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"syscall"
)

// An Event is news from a source. Lease is what it knows now: without addresses and the
// rest if a lease has ended. Err is nil if that has changed or was renewed; else it says why
// an attempt had no result, or what could not be configured. Errors of the interface itself,
// which was removed for example, have the Source [Static].
type Event struct {
	Source Source
	Lease  Lease
	Err    error
}

// maxEvents is how many events wait for a loop.
const maxEvents = 64

// A watch is what one Watch has still to say.
type watch struct {
	mu     sync.Mutex // guards the fields below
	events []Event
	lost   bool // events were dropped
	ended  bool // the client is closed
	used   bool
	wake   chan struct{} // has room for one
}

// add never waits for the loop.
func (w *watch) add(f func(w *watch)) {
	w.mu.Lock()
	f(w)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) event(e Event) {
	w.add(func(w *watch) {
		if len(w.events) == maxEvents {
			w.events, w.lost = w.events[1:], true
		}
		w.events = append(w.events, e)
	})
}

// next returns what is to be said; false if nothing is.
func (w *watch) next() (e Event, err error, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.lost:
		w.lost = false
		return Event{}, fmt.Errorf("autoconf: events were lost: see Leases: %w", syscall.ENOBUFS), true
	case len(w.events) > 0:
		e, w.events = w.events[0], w.events[1:]
		return e, nil, true
	case w.ended:
		return Event{}, net.ErrClosed, true
	}
	return Event{}, nil, false
}

// Watch returns the events after the call, all to each who calls it. For a complete picture call
// Watch, then Leases, then range over the events.
//
//   - It can be ranged over once. It ends when ctx does, without an error and without the
//     events that have not been read; when the client is closed, with net.ErrClosed as
//     the last error; and when the loop is left.
//   - ENOBUFS means that the loop was too slow and the oldest events were lost; it goes
//     on. Nothing waits for a loop.
func (c *Client) Watch(ctx context.Context) iter.Seq2[Event, error] {
	w := &watch{wake: make(chan struct{}, 1)}
	c.mu.Lock()
	if c.closed {
		w.ended = true
	} else {
		c.watches[w] = struct{}{}
	}
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		delete(c.watches, w)
		c.mu.Unlock()
	}
	stop := context.AfterFunc(ctx, forget)
	return func(yield func(Event, error) bool) {
		w.mu.Lock()
		used := w.used
		w.used = true
		w.mu.Unlock()
		if used {
			yield(Event{}, errors.New("autoconf: a Watch can be ranged over once"))
			return
		}
		defer forget()
		defer stop()
		for ctx.Err() == nil {
			e, err, ok := w.next()
			switch {
			case !ok:
				select {
				case <-w.wake:
				case <-ctx.Done():
				}
			case !yield(e, err), errors.Is(err, net.ErrClosed):
				return
			}
		}
	}
}
