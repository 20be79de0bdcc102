package virtio

import "encoding/binary"

// Partial returns the header that a packet has lost: the kernel leaves checksums,
// and cutting TCP, to network cards inside tunnels too, and a virtual one passes
// the packets on as they are. Such a checksum is that of the pseudo header alone.
// If it is by chance that of a complete packet too, making it again changes
// nothing. The frames of a packet of TCP get mtu bytes at most behind the Ethernet
// header. It is the zero Header for all other packets.
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
