package vxlan

import "github.com/vdestack/vdestack/internal/ether"

// A packet is a header of 8 bytes (RFC 7348, section 5) and a frame. In vxvde, the
// header alone says that the endpoint leaves.
const (
	headerLen = 8
	flagVNI   = 0x08 // the VNI is valid
)

// MaxVNI is the largest number of a network.
const MaxVNI = 1<<24 - 1

type header = [headerLen]byte

func makeHeader(vni uint32) header {
	return header{flagVNI, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
}

type packetKind int

const (
	kindForeign packetKind = iota // of another network or protocol
	kindBye                       // the endpoint leaves
	kindShort                     // too short for a frame
	kindFrame
)

// classifyVXVDE returns the kind of a packet of n bytes, header included. All bytes of
// the header must match, reserved ones too, as in the C implementation.
func classifyVXVDE(own, got *header, n int) packetKind {
	switch {
	case n < headerLen || *own != *got:
		return kindForeign
	case n == headerLen:
		return kindBye
	case n <= headerLen+ether.HeaderLen: // the C implementation wants a payload
		return kindShort
	}
	return kindFrame
}

// classifyVXLAN returns the kind of a packet of n bytes, header included. Only the
// flag "the VNI is valid" and the VNI must match (RFC 7348, section 5).
func classifyVXLAN(own, got *header, n int) packetKind {
	switch {
	case n < headerLen || got[0]&flagVNI == 0 || [3]byte(got[4:7]) != [3]byte(own[4:7]):
		return kindForeign
	case n < headerLen+ether.HeaderLen:
		return kindShort
	}
	return kindFrame
}
