package vxlan

import (
	"net/netip"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/sockio"
)

// A remoteSet says where frames for all go. It is replaced, and does not change itself: each
// frame goes to one set.
type remoteSet struct {
	all []sockio.Sockaddr // the group, or all remotes
	// at has the remotes by address and port and, with port 0, by address alone. Nil
	// means that stations may be behind anybody.
	at map[sockio.Sockaddr]sockio.Sockaddr
}

// remoteSet returns the first set of a network.
func (s *sockets) remoteSet(cfg Config) *remoteSet {
	if cfg.Group.IsValid() {
		return &remoteSet{all: []sockio.Sockaddr{s.group}}
	}
	set := s.changingSet(cfg.Remotes)
	if !cfg.Changing {
		set.at = nil
	}
	return set
}

func (s *sockets) changingSet(remotes []netip.AddrPort) *remoteSet {
	set := &remoteSet{all: make([]sockio.Sockaddr, len(remotes)), at: make(map[sockio.Sockaddr]sockio.Sockaddr)}
	for i, a := range remotes {
		r := sockio.MakeSockaddr(a, s.scope(a.Addr()))
		set.all[i], set.at[r] = r, r
		any := r
		any.SetPort(0)
		if _, ok := set.at[any]; !ok {
			set.at[any] = r
		}
	}
	return set
}

// SetRemotes replaces the remotes of a network with Config.Changing. When it returns, what
// was learned of those that have left is forgotten, and later frames go to the new set.
func (e *Endpoint) SetRemotes(remotes []netip.AddrPort) {
	set := e.sockets.changingSet(remotes)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.remotes.Store(set)
	e.table.Retain(func(at sockio.Sockaddr) bool {
		_, ok := set.at[at]
		return ok
	})
}

// learn notes that a station is behind the endpoint that a packet came from. Endpoints that
// have left a changing set teach nothing: their last packets would bring back what
// SetRemotes has made forgotten, for as long as stations are remembered.
func (e *Endpoint) learn(station ether.MAC, from sockio.Sockaddr) {
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if set := e.remotes.Load().at; set != nil {
		at, ok := set[from]
		if !ok {
			// The kernel's endpoints send from any port.
			from.SetPort(0)
			if at, ok = set[from]; !ok {
				return
			}
		}
		from = at
	} else if e.vxlan {
		from.SetPort(e.sockets.port)
	}
	e.table.Learn(station, from, now)
}
