//go:build amd64 || arm64

package bridge

import (
	"sync"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"golang.org/x/sys/unix"
)

// mostSparePorts is how many ports a hub may still have to be kept: the kernel takes long to
// remove many.
const mostSparePorts = 4

// linger is a variable for tests.
var linger = netns.Linger

// theSpare is what is left of the network that ended last, for a second: a hub with a bridge.
// The next network takes it, if the bridge is empty by then: to make both takes as long as to
// make the stack.
var theSpare struct {
	mu   sync.Mutex // guards all
	hub  *hub       // nil: there is none
	root int
	take func() bool
}

// spare keeps the hub of a switch that has ended, unless there is or may be more in it than
// a bridge and abandoned ports. A command can make interfaces on a bridge that are no ports, such
// as a macvlan in its own namespace: the kernel does not show them here.
func (s *Switch) spare() bool {
	s.mu.Lock()
	ports := len(s.loud) + len(s.leaving)
	clean := s.path == "" && len(s.bridges) == 1 && s.bridges[0].ports == ports && !s.uplink.plugged()
	if clean && s.reaper != nil {
		clean = s.reaper.Stop()
	}
	s.mu.Unlock()
	if !clean || s.lent.Load() || ports > mostSparePorts || !s.ns.Current() {
		return false
	}
	take := linger(func() {
		theSpare.mu.Lock()
		if theSpare.hub == s.hub {
			theSpare.hub = nil
		}
		theSpare.mu.Unlock()
		s.hub.close()
	})
	if take == nil {
		return false
	}
	theSpare.mu.Lock()
	defer theSpare.mu.Unlock()
	if old := theSpare.hub; old != nil && theSpare.take() {
		teardown.Go(func() { old.close() })
	}
	theSpare.hub, theSpare.root, theSpare.take = s.hub, s.root, take
	return true
}

// takeSpare returns a switch that has the spare hub; nil if there is none.
func takeSpare() *Switch {
	theSpare.mu.Lock()
	defer theSpare.mu.Unlock()
	h, root := theSpare.hub, theSpare.root
	theSpare.hub = nil
	if h == nil || !theSpare.take() {
		return nil
	}
	// The program may have made a port, or somebody may have the namespace of a stack.
	if used, err := h.hasPorts(root); err != nil || used || !h.ns.Current() {
		teardown.Go(func() { h.close() })
		return nil
	}
	return &Switch{hub: h, root: root, bridges: []segment{{index: root}}}
}

// hasPorts reports whether a bridge has ports. The kernel looks for them: to read the whole list
// of links takes a third of a millisecond.
func (h *hub) hasPorts(bridge int) (bool, error) {
	ports, err := h.execute(netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Dump}, 0, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_MASTER, uint32(bridge))
	})
	return len(ports) > 0, err
}
