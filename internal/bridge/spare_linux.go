//go:build amd64 || arm64

package bridge

import (
	"errors"
	"sync"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"golang.org/x/sys/unix"
)

// mostSparePorts is how many ports a hub may still have to be kept: they are looked for
// one by one.
const mostSparePorts = 4

// linger is a variable for tests.
var linger = netns.Linger

// theSpare is what is left of the network that ended last, for a second: a hub with a bridge.
// The next network takes it, if all ports are gone by then: to make both takes as long as to
// make the stack.
var theSpare struct {
	mu    sync.Mutex // guards all
	hub   *hub       // nil: there is none
	root  int
	ports []*Port // that were abandoned
	take  func() bool
}

// spare keeps the hub of a switch that has ended, unless there is or may be more in it than
// a bridge and abandoned ports.
func (s *Switch) spare() bool {
	s.mu.Lock()
	ports := append(s.loud, s.leaving...)
	clean := s.path == "" && len(s.bridges) == 1 && s.bridges[0].ports == len(ports) && (s.uplink == nil || s.uplink.near == 0)
	if clean && s.reaper != nil {
		clean = s.reaper.Stop()
	}
	s.mu.Unlock()
	if !clean || len(ports) > mostSparePorts || !s.ns.Current() {
		return false
	}
	take := linger(func() { s.hub.close() })
	if take == nil {
		return false
	}
	theSpare.mu.Lock()
	defer theSpare.mu.Unlock()
	if old := theSpare.hub; old != nil && theSpare.take() {
		teardown.Go(func() { old.close() })
	}
	theSpare.hub, theSpare.root, theSpare.ports, theSpare.take = s.hub, s.root, ports, take
	return true
}

// takeSpare returns a switch that has the spare hub; nil if there is none.
func takeSpare() *Switch {
	theSpare.mu.Lock()
	defer theSpare.mu.Unlock()
	h, ports := theSpare.hub, theSpare.ports
	theSpare.hub, theSpare.ports = nil, nil
	if h == nil || !theSpare.take() {
		return nil
	}
	for _, p := range ports {
		if _, err := h.nl.Link(p.index); !errors.Is(err, unix.ENODEV) {
			teardown.Go(func() { h.close() }) // somebody has the namespace of a stack
			return nil
		}
	}
	if !h.ns.Current() {
		teardown.Go(func() { h.close() })
		return nil
	}
	return &Switch{hub: h, root: theSpare.root, bridges: []segment{{index: theSpare.root}}}
}
