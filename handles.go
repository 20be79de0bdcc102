package vdestack

import (
	"io"
	"net"
	"slices"
	"sync"
	"weak"

	"github.com/vdestack/vdestack/stack"
)

// handles are the connections and listeners that a stack handed out and that
// somebody still holds: Close closes them, so that calls which wait on them
// report net.ErrClosed. They are held weakly, for their owners may forget them.
type handles struct {
	mu   sync.Mutex // guards the rest; not held while a handle is closed
	all  []handle
	full int // so many are swept
	done bool

	closing sync.Once
}

// A handle is held weakly.
type handle interface {
	// get returns what is held, nil when its owner has forgotten it.
	get() io.Closer
}

type held[T any, P interface {
	*T
	io.Closer
}] struct{ weak.Pointer[T] }

func (w held[T, P]) get() io.Closer {
	if p := w.Value(); p != nil {
		return P(p)
	}
	return nil
}

// fewHandles are not worth a sweep.
const fewHandles = 64

// track notes a handle. It reports false when the stack is closed.
func track[T any, P interface {
	*T
	io.Closer
}](h *handles, p P) bool {
	w := held[T, P]{weak.Make((*T)(p))}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return false
	}
	if len(h.all) >= max(h.full, fewHandles) {
		h.all = slices.DeleteFunc(h.all, func(w handle) bool { return w.get() == nil })
		h.full = 2 * len(h.all)
	}
	h.all = append(h.all, w)
	return true
}

// closeAll closes the handles, and has track refuse later ones. Every call
// returns when that is done: what comes next ends the sockets, and their users
// would see that instead.
func (h *handles) closeAll() {
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

// hand tracks a connection or listener of package net that is about to be
// handed out. One that the stack's end has overtaken is closed.
func hand[C io.Closer](s *Stack, c C, err error) (C, error) {
	if err != nil {
		return c, err
	}
	ok := true
	switch c := any(c).(type) {
	case *net.TCPConn:
		ok = track(&s.handles, c)
	case *net.UDPConn:
		ok = track(&s.handles, c)
	case *net.UnixConn:
		ok = track(&s.handles, c)
	case *net.IPConn:
		ok = track(&s.handles, c)
	case *net.TCPListener:
		ok = track(&s.handles, c)
	case *net.UnixListener:
		ok = track(&s.handles, c)
	}
	if !ok {
		c.Close()
		var none C
		return none, s.st.ErrClosed()
	}
	return c, nil
}
