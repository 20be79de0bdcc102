package virtio

import (
	"encoding/binary"
	"math/bits"
)

// sum returns the one's complement sum of the big-endian 16-bit words of b,
// the Internet checksum before it is inverted; an odd last byte is the upper
// half of a word. It is zero only if all of b is.
//
// The sum does not depend on the width of the words or their byte order
// (RFC 1071, section 2): eight bytes are added at a time, and the result is
// turned around once. Two chains of additions run side by side, as one is bound
// by the latency of its carries.
func sum(b []byte) uint16 {
	var s, t, carries, c uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[0:]), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[24:]), c)
		carries += c
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(w[32:]), 0)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(w[40:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(w[48:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(w[56:]), c)
		carries += c
		b = b[64:]
	}
	s, c = bits.Add64(s, t, 0)
	s, c = bits.Add64(s, carries, c)
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	if len(b) >= 4 {
		s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint32(b)), c)
		b = b[4:]
	}
	if len(b) >= 2 {
		s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint16(b)), c)
		b = b[2:]
	}
	if len(b) == 1 {
		s, c = bits.Add64(s, uint64(b[0]), c)
	}
	s, c = bits.Add64(s, 0, c)
	s += c // cannot overflow: if there is a carry, s is 0
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	return bits.ReverseBytes16(fold(uint32(s)))
}

// fold adds the halves of a sum of 16-bit words. It is zero only if s is.
func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
