package stack

import "net/netip"

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
}
