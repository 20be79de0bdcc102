// Package ether has the sizes of Ethernet frames, the addresses of stations, a table of the
// places where stations were seen, and a queue of packets.
package ether

// Sizes of Ethernet frames, in bytes, without frame check sequence.
const (
	AddrsLen  = 2 * 6 // destination and source
	HeaderLen = AddrsLen + 2
	MaxMTU    = 9216
	MaxFrame  = MaxMTU + HeaderLen + 4 // with one VLAN tag
)

// Sendable reports whether plugs carry frames of this length; they drop others.
func Sendable(frame []byte) bool { return HeaderLen <= len(frame) && len(frame) <= MaxFrame }
