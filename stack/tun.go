package stack

import (
	"net/netip"
	"time"
)

const (
	// tunBatchSize is how many packets a call of Read or Write of a [TUN] best takes: a packet
	// that stands for several, of TCP or UDP, rarely stands for more.
	tunBatchSize = 128
	// maxTUN is the largest packet, and MTU, of a TUN: what the length fields of IP can say.
	maxTUN = 65535
)

// A TUNConfig describes the interface of a [TUN].
type TUNConfig struct {
	// Name has 1 to 15 characters. Empty means tun0, or the next one whose name is free.
	Name string
	// MTU is the largest packet in bytes, 68 to 65535. 0 means 1500. IPv6 needs 1280.
	MTU int
	// Addrs are the interface's addresses, as those of an [Interface]. There are no other
	// hosts in their networks but those that the owner of the TUN plays.
	Addrs []netip.Prefix
	// Down leaves the interface down.
	Down bool
	// Peers returns what the owner knows about the other ends of a tunnel, which are then in
	// [InterfaceStats]; nil if there are none. Stats calls it, from several goroutines, until
	// the TUN is closed and maybe for a moment after that. It must not wait for them, nor call
	// Stats.
	Peers func() []PeerStats
}

// PeerStats are what the owner of a [TUN] knows about one of the other ends of its tunnel.
type PeerStats struct {
	// Name tells it from the other peers: for WireGuard the public key in base64.
	Name string
	// Endpoint is where it was last seen, or where it was configured; invalid if that is
	// not known.
	Endpoint netip.AddrPort
	// LastHandshake is when the two have last agreed on keys; zero if they have not.
	LastHandshake time.Time
	// RxBytes and TxBytes count what came from the peer, and what was sent to it, as it is on
	// the network outside of the tunnel.
	RxBytes, TxBytes uint64
}
