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
	Remotes    []netip.AddrPort // in place of the group
	Changing   bool             // the remotes change, and stations are behind them only
	Listen     netip.AddrPort   // without a group: 0.0.0.0 or ::, and the port; of this family are the remotes
	VNI        uint32           // number of the network
	TTL        int
	Interface  string        // of the group; empty: the routing table decides
	Bind       netip.Addr    // the local address; invalid: any
	RecvBuffer int           // bytes; 0: the default of package sockio
	Stations   int           // how many are learned
	Expire     time.Duration // when a silent station is forgotten
}

// family returns an address of the family of the network, and the port of all endpoints
// or, without a group, of this one.
func (cfg *Config) family() netip.AddrPort {
	if cfg.Group.IsValid() {
		return cfg.Group
	}
	return cfg.Listen
}

func (cfg *Config) scheme() string {
	if cfg.VXLAN {
		return "vxlan"
	}
	return "vxvde"
}
