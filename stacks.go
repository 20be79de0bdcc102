package vdestack

import (
	"slices"
	"sync"

	"github.com/vdestack/vdestack/vdeplug"
)

// A list has what is in use, in the order in which it was added.
type list[T any] struct {
	mu  sync.Mutex // guards all
	all []*T
}

func (l *list[T]) add(e *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
}

// remove is harmless if e is not there.
func (l *list[T]) remove(e *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.all, e); i >= 0 {
		l.all = slices.Delete(l.all, i, i+1)
	}
}

func (l *list[T]) get() []*T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

var stacks list[Stack]

// Stacks returns the stacks of the process that are in use, the oldest first. A stack is there
// from when Open or New returns until Close is called. Names need not be unique.
func Stacks() []*Stack { return stacks.get() }

// Forwards returns the forwards of the stack that are in use, the oldest first.
func (s *Stack) Forwards() []*Forward {
	if s.core() == nil {
		return nil
	}
	return s.forwards.get()
}

// Vars returns the counters of all that the process has in use, for package expvar, which
// writes them as JSON:
//
//	expvar.Publish("vdestack", expvar.Func(vdestack.Vars))
//
// It is a map of "stacks", a list of objects with Name, [Stats], [SocketStats] and
// [ForwardStats], and of "switches", a list of [vdeplug.SwitchStats]. Module metrics has them
// for Prometheus.
func Vars() any {
	type stackVars struct {
		Name       string
		Interfaces []InterfaceStats
		Sockets    *SocketStats // nil if they cannot be read
		Forwards   []ForwardStats
	}
	all := []stackVars{}
	for _, s := range Stacks() {
		v := stackVars{Name: s.Name(), Interfaces: s.Stats().Interfaces}
		if st, err := s.SocketStats(); err == nil {
			v.Sockets = &st
		}
		for _, f := range s.Forwards() {
			v.Forwards = append(v.Forwards, f.Stats())
		}
		all = append(all, v)
	}
	return map[string]any{"stacks": all, "switches": vdeplug.Switches()}
}
