package virtio

import "encoding/binary"

// Partial returns the header that a packet has lost inside a tunnel. There too, the kernel
// leaves checksums, and cutting TCP, to network cards, and a virtual card passes the packets
// on unfinished. Their checksum is the sum of the pseudo header alone. If that is by chance
// the right checksum of a complete packet, computing it again changes nothing.
//
// The frames of a TCP packet get at most mtu bytes after the Ethernet header. For all other
// packets Partial returns the zero Header.
func Partial(packet []byte, mtu int) (h Header) {
	l, ok := parse(packet)
	if !ok || !l.plain || binary.BigEndian.Uint16(packet[l.check():]) != fold(l.pseudo(packet)+uint32(l.end-l.l4)) {
		return Header{}
	}
	h = Header{Flags: FlagNeedsCsum, CsumStart: uint16(l.l4), CsumOffset: uint16(l.check() - l.l4)}
	size := mtu - (l.data - l.ip)
	if l.proto != protoTCP || size <= 0 || l.end-l.data <= size || packet[l.l4+13]&(flagSYN|flagRST) != 0 {
		return h
	}
	h.GSOType = GSOTCPv4
	if l.v6 {
		h.GSOType = GSOTCPv6
	}
	if packet[l.l4+13]&flagCWR != 0 {
		h.GSOType |= GSOECN
	}
	h.HdrLen, h.GSOSize = uint16(l.data), uint16(size)
	return h
}
