package virtio

import "encoding/binary"

const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	tcpLen   = 20
	udpLen   = 8

	protoTCP = 6
	protoUDP = 17

	// Offsets of the checksums in the TCP and in the UDP header.
	tcpCheck = 16
	udpCheck = 6

	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
	flagCWR = 0x80
)

// A layout says where the parts of a frame with TCP or UDP over IPv4 or IPv6 are. Its offsets
// are in order and within the frame.
type layout struct {
	ip   int // the IP header
	l4   int // the TCP or UDP header
	data int // the payload
	end  int // of the payload; what follows pads the frame to Ethernet's minimum

	proto uint8
	v6    bool
	plain bool // the IP header has no options, and no extension header follows
}

// maxTags is how many VLAN tags a packet may have to be cut, the kernel's VLAN_MAX_DEPTH.
const maxTags = 8

// parse finds the layout of a frame with up to two VLAN tags. It reports false for other
// protocols, fragments, and lengths that contradict each other.
func parse(frame []byte) (l layout, ok bool) { return parseTags(frame, 2) }

// parseTags is parse for up to the given number of tags.
func parseTags(frame []byte, tags int) (l layout, ok bool) {
	l.ip = etherLen
	for range tags + 1 {
		if len(frame) < l.ip {
			return l, false
		}
		switch binary.BigEndian.Uint16(frame[l.ip-2:]) {
		case 0x0800:
			return l, l.parseIPv4(frame[l.ip:]) && l.parseTransport(frame)
		case 0x86dd:
			return l, l.parseIPv6(frame[l.ip:]) && l.parseTransport(frame)
		case 0x8100, 0x88a8:
			l.ip += 4
		default:
			return l, false
		}
	}
	return l, false
}

// parseIP is parse for a packet without a link header.
func parseIP(packet []byte) (l layout, ok bool) {
	if len(packet) == 0 {
		return l, false
	}
	switch packet[0] >> 4 {
	case 4:
		ok = l.parseIPv4(packet)
	case 6:
		ok = l.parseIPv6(packet)
	}
	return l, ok && l.parseTransport(packet)
}

func (l *layout) parseIPv4(b []byte) bool {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < ipv4Len || total < head || total > len(b) {
		return false
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return false // more fragments, or an offset
	}
	l.proto = b[9]
	l.plain = head == ipv4Len
	l.l4, l.end = l.ip+head, l.ip+total
	return true
}

func (l *layout) parseIPv6(b []byte) bool {
	if len(b) < ipv6Len || b[0]>>4 != 6 {
		return false
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return false
	}
	next, off := b[6], ipv6Len
	for {
		switch next {
		case 0, 43, 60: // hop-by-hop options, routing, destination options
			if total < off+8 {
				return false
			}
			next, off = b[off], off+8+8*int(b[off+1])
		default:
			if total < off {
				return false
			}
			l.v6 = true
			l.proto = next
			l.plain = off == ipv6Len
			l.l4, l.end = l.ip+off, l.ip+total
			return true
		}
	}
}

func (l *layout) parseTransport(frame []byte) bool {
	b := frame[l.l4:l.end]
	head := udpLen
	switch {
	case l.proto == protoTCP && len(b) >= tcpLen:
		head = int(b[12]>>4) * 4
		if head < tcpLen || head > len(b) {
			return false
		}
	case l.proto == protoUDP && len(b) >= udpLen:
		if int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			return false
		}
	default:
		return false
	}
	l.data = l.l4 + head
	return true
}

// check returns the offset of the transport's checksum in the frame.
func (l *layout) check() int {
	if l.proto == protoTCP {
		return l.l4 + tcpCheck
	}
	return l.l4 + udpCheck
}

// pseudo returns the sum of the pseudo header without its length. It is right for plain
// packets only: a routing header or source route hides the destination.
func (l *layout) pseudo(frame []byte) uint32 {
	addrs := frame[l.ip+12 : l.ip+ipv4Len]
	if l.v6 {
		addrs = frame[l.ip+8 : l.ip+ipv6Len]
	}
	return uint32(sum(addrs)) + uint32(l.proto)
}
