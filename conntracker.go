package vdestack

import (
	"io"
	"net"
	"slices"
	"sync"
	"weak"

	"github.com/vdestack/vdestack/stack"
)

// connTracker are the connections and listeners that a stack handed out and that
// somebody still holds: Close closes them, so that calls which wait on them
// report net.ErrClosed. They are held weakly, for their owners may forget them.
type connTracker struct {
	mu   sync.Mutex // guards the rest; not held while a handle is closed
	all  []ref
	full int // so many are swept
	done bool

	closing sync.Once
}

// A ref is held weakly.
type ref interface {
	// get returns what is held, nil when its owner has forgotten it.
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

// fewHandles are not worth a sweep.
const fewHandles = 64

// trackRef notes a handle. It reports false when the stack is closed.
func trackRef[T any, P interface {
	*T
	io.Closer
}](h *connTracker, p P) bool {
	w := weakRef[T, P]{weak.Make((*T)(p))}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return false
	}
	if len(h.all) >= max(h.full, fewHandles) {
		h.all = slices.DeleteFunc(h.all, func(w ref) bool { return w.get() == nil })
		h.full = 2 * len(h.all)
	}
	h.all = append(h.all, w)
	return true
}

// closeAll closes the handles, and has track refuse later ones. Every call
// returns when that is done: what comes next ends the sockets, and their users
// would see that instead.
func (h *connTracker) closeAll() {
	h.closing.Do(func() {
		h.mu.Lock()
		all := h.all
		h.all, h.done = nil, true
		h.mu.Unlock()
		for _, w := range all {
			if c := w.get(); c != nil {
				stack.CloseSocket(c)
			}
		}
	})
}

// track tracks a connection or listener of package net that is about to be
// handed out. One that the stack's end has overtaken is closed.
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
		var none C
		return none, s.st.ErrClosed()
	}
	return c, nil
}
