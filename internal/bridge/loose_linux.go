//go:build amd64 || arm64

package bridge

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/vdestack/vdestack/rtnl"
)

// lastJoined is the network that was joined last; nil if its hub has ended.
var lastJoined atomic.Pointer[Switch]

// A Loose is an interface in a namespace of the pool, which is up, and whose other end is in
// the hub of a network, but in no bridge: what it sends is lost.
type Loose struct {
	hub *hub
	far int
	end End
}

// A Place is where an interface is to be plugged.
type Place struct{ hub *hub }

// PlaceOf returns the place of a network; zero if it has none yet, or one that a Loose does
// not suit.
func PlaceOf(name string) Place {
	switches.mu.Lock()
	defer switches.mu.Unlock()
	s := switches.all[name]
	switch {
	case s == nil:
		theSpare.mu.Lock()
		defer theSpare.mu.Unlock()
		return Place{theSpare.hub}
	case s.uplink.plugged():
		// Switches of a network outside may want to know its groups.
		return Place{}
	}
	return Place{s.hub}
}

// NewLoose makes one for the network that was joined last; nil if it has ended, if a Loose does
// not suit it, or in a crowd, where another way costs less. An error may leave an interface in
// the namespace, also that of a network that ends meanwhile.
func NewLoose(ctx context.Context, end End) (_ *Loose, err error) {
	s := lastJoined.Load()
	if s == nil || s.uplink.plugged() || s.hosts.crowded() || !s.ns.Current() {
		return nil, nil
	}
	l := &Loose{hub: s.hub, end: end}
	number := s.next()
	if l.far, _, err = s.addEnd(ctx, rtnl.LinkSpec{Name: fmt.Sprintf("port%d", number), Index: number}, end); err != nil {
		return nil, err
	}
	if err := end.Netlink.LinkSetUp(end.Index); err != nil {
		return nil, err
	}
	_, err = AwaitCarrier(ctx, s.nl, l.far)
	return l, err
}

// Ended reports whether its other end went with the network.
func (l *Loose) Ended() bool { return l.hub.ended.Load() }

// Fits reports whether it becomes the interface of an end at a place.
func (l *Loose) Fits(p Place, end End) bool {
	return p.hub == l.hub && end.Name == l.end.Name && end.Index == l.end.Index && end.MTU == l.end.MTU && end.MAC == nil && !end.Shared
}

// plugLoose makes it a port. After an error it is gone.
func (s *Switch) plugLoose(l *Loose) (*Port, error) {
	place, bridge, err := s.reserve()
	if err == nil {
		if err = s.nl.LinkSetMaster(l.far, bridge); err != nil {
			s.unreserve(place)
		}
	}
	if err != nil {
		l.end.Netlink.LinkDel(l.end.Index)
		return nil, err
	}
	return &Port{sw: s, ns: l.end.NS, index: l.far, place: place, awake: true}, nil
}
