// Package ether has what is common to everything that carries Ethernet frames: their
// sizes, the addresses of stations, a table of where stations were seen, and a queue
// of frames.
package ether

// Sizes of Ethernet frames, in bytes, without frame check sequence.
const (
	AddrsLen  = 2 * 6 // destination and source
	HeaderLen = AddrsLen + 2
	MaxMTU    = 9216
	MaxFrame  = MaxMTU + HeaderLen + 4 // with one VLAN tag
)

// Sendable reports whether a frame has a length that plugs carry; others are
// dropped.
func Sendable(frame []byte) bool { return HeaderLen <= len(frame) && len(frame) <= MaxFrame }
