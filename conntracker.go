package vdestack

import (
	"io"
	"net"
	"slices"
	"sync"
	"weak"

	"github.com/vdestack/vdestack/internal/sockets"
)

// A connTracker has the connections and listeners that a stack handed out and that are
// still in use: Close closes them, so that calls that wait on them report
// net.ErrClosed. The references are weak, for programs may forget connections.
type connTracker struct {
	mu      sync.Mutex // guards the fields below; not held while a connection is closed
	all     []ref
	sweepAt int // sweep when len(all) reaches this
	done    bool

	closing sync.Once
}

// A ref is a weak reference.
type ref interface {
	// get returns the connection, nil when its owner has forgotten it.
	get() io.Closer
}

type weakRef[T any, P interface {
	*T
	io.Closer
}] struct{ weak.Pointer[T] }

func (w weakRef[T, P]) get() io.Closer {
	if p := w.Value(); p != nil {
		return P(p)
	}
	return nil
}

// minSweep is how many connections make a sweep worth while.
const minSweep = 64

// trackRef notes a connection. It reports false when the stack is closed.
func trackRef[T any, P interface {
	*T
	io.Closer
}](t *connTracker, p P) bool {
	w := weakRef[T, P]{weak.Make((*T)(p))}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return false
	}
	if len(t.all) >= max(t.sweepAt, minSweep) {
		t.all = slices.DeleteFunc(t.all, func(w ref) bool { return w.get() == nil })
		t.sweepAt = 2 * len(t.all)
	}
	t.all = append(t.all, w)
	return true
}

// closeAll closes the connections, and has track refuse later ones. Every call returns
// when that is done: Close then ends the sockets, and calls that still wait would
// report that instead of net.ErrClosed.
func (t *connTracker) closeAll() {
	t.closing.Do(func() {
		t.mu.Lock()
		all := t.all
		t.all, t.done = nil, true
		t.mu.Unlock()
		for _, w := range all {
			if c := w.get(); c != nil {
				sockets.Close(c)
			}
		}
	})
}

// isClosed reports whether closeAll was called.
func (t *connTracker) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

// track tracks a connection or listener of package net before it is handed out. If the
// stack was closed meanwhile, it closes it.
func track[C io.Closer](s *Stack, c C, err error) (C, error) {
	if err != nil {
		return c, err
	}
	ok := true
	switch c := any(c).(type) {
	case *net.TCPConn:
		ok = trackRef(&s.conns, c)
	case *net.UDPConn:
		ok = trackRef(&s.conns, c)
	case *net.UnixConn:
		ok = trackRef(&s.conns, c)
	case *net.IPConn:
		ok = trackRef(&s.conns, c)
	case *net.TCPListener:
		ok = trackRef(&s.conns, c)
	case *net.UnixListener:
		ok = trackRef(&s.conns, c)
	}
	if !ok {
		c.Close()
		var zero C
		return zero, s.closed()
	}
	return c, nil
}
