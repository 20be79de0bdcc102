// Package vxlan carries Ethernet frames in UDP packets with the header of VXLAN (RFC
// 7348). It speaks two protocols: VXLAN, as the kernel and hardware do, and vxvde,
// where each endpoint has a port of its own and says goodbye. Endpoints learn the places
// of stations, and send frames for unknown ones to a multicast group or to all remotes.
package vxlan

import (
	"net/netip"
	"time"
)

// A Config says which network an endpoint joins, and how.
type Config struct {
	VXLAN      bool             // VXLAN, where all endpoints have the same port; else vxvde
	Group      netip.AddrPort   // the multicast group; invalid: use the remotes
	Remotes    []netip.AddrPort // of one family, and with one port
	VNI        uint32           // number of the network
	TTL        int
	Interface  string        // of the group; empty: the routing table decides
	Bind       netip.Addr    // the local address; invalid: any
	RecvBuffer int           // bytes; 0: the default of package sockio
	Stations   int           // how many are learned
	Expire     time.Duration // when a silent station is forgotten
}

// Peer returns the group or the first remote.
func (cfg *Config) Peer() netip.AddrPort {
	if len(cfg.Remotes) > 0 {
		return cfg.Remotes[0]
	}
	return cfg.Group
}

func (cfg *Config) scheme() string {
	if cfg.VXLAN {
		return "vxlan"
	}
	return "vxvde"
}
