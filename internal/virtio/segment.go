package virtio

import (
	"encoding/binary"
	"errors"
	"slices"
)

const (
	// maxSegments is how many frames a packet may become, whatever they carry. The kernel
	// makes no more of a UDP packet (UDP_MAX_SEGMENTS), and joins fewer small segments.
	maxSegments = 128
	// minSegment is the least payload of the segments of a TCP packet that becomes more
	// frames: the smallest MSS that Linux agrees to (TCP_MIN_SND_MSS, 48) without
	// timestamps. Otherwise a packet of 2 KB with a size of 1 would become 2,000 frames,
	// for each port of a switch.
	minSegment = 36
)

// Errors of Split. The packet cannot be cut into frames; callers drop and
// count it.
var (
	errGSOType  = errors.New("virtio: unknown type of segmentation (was the offload asked for?)")
	errGSOSize  = errors.New("virtio: segments are too small, or too many")
	errGSO      = errors.New("virtio: packet is not what its header says is to be segmented")
	errChecksum = errors.New("virtio: place of the checksum is not in the packet")
)

// A Segment is a frame in two pieces.
type Segment struct {
	// Head is the headroom, for the caller to fill, and the headers.
	Head []byte
	// Data is the rest of the frame, in the memory of the packet.
	Data []byte
}

// A Segmenter cuts packets without copying what they carry. The zero Segmenter
// is ready; it serves one goroutine.
type Segmenter struct {
	// IP says that packets begin with the IP header, as those of a TUN: what is called a
	// frame here is an IP packet then.
	IP bool

	heads    []byte
	segments []Segment
}

// Split returns the frames that a packet with the header h stands for, with complete
// checksums.
//
//   - Before each frame there are headroom bytes with any content, for encapsulation.
//   - A packet that is one frame becomes Data; a missing checksum is stored in it.
//   - The result is valid until the next call, and while packet is unchanged.
func (s *Segmenter) Split(h Header, packet []byte, headroom int) ([]Segment, error) {
	if h.GSOType == GSONone {
		if err := complete(h, packet); err != nil {
			return nil, err
		}
		s.heads = slices.Grow(s.heads[:0], headroom)
		s.segments = append(s.segments[:0], Segment{s.heads[:headroom:headroom], packet})
		return s.segments, nil
	}
	var c cut
	if err := c.shape(h, packet, s.IP); err != nil {
		return nil, err
	}
	c.sums(h)
	size := headroom + c.data
	s.heads = slices.Grow(s.heads[:0], c.segments*size)
	s.segments = s.segments[:0]
	for i := range c.segments {
		off := c.data + i*c.mss
		head, data := s.heads[i*size:(i+1)*size:(i+1)*size], packet[off:min(off+c.mss, c.end):c.end]
		c.putHead(head[headroom:], i, data)
		s.segments = append(s.segments, Segment{head, data})
	}
	return s.segments, nil
}

// complete stores the checksum of a packet that is one frame.
func complete(h Header, packet []byte) error {
	if h.Flags&FlagNeedsCsum == 0 {
		return nil
	}
	start, at := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
	if at+2 > len(packet) {
		return errChecksum
	}
	c := ^sum(packet[start:])
	if c == 0 {
		c = 0xffff // the same number; in UDP, 0 means no checksum
	}
	binary.BigEndian.PutUint16(packet[at:], c)
	return nil
}

// A cut is a packet that is being cut, and what its segments have in common.
type cut struct {
	layout
	packet   []byte
	mss      int
	segments int

	// Sums of the headers without the fields that differ between segments.
	ipSum, l4Sum uint32
	noCheck      bool // UDP without checksum
}

// shape finds out how a packet is cut, or why it cannot be.
func (c *cut) shape(h Header, packet []byte, ip bool) error {
	l, ok := layout{}, false
	if ip {
		l, ok = parseIP(packet)
	} else {
		l, ok = parseTags(packet, maxTags)
	}
	switch h.GSOType &^ GSOECN {
	case GSOTCPv4:
		ok = ok && l.proto == protoTCP && !l.v6
	case GSOTCPv6:
		ok = ok && l.proto == protoTCP && l.v6
	case GSOUDPL4:
		ok = ok && l.proto == protoUDP
	default:
		return errGSOType
	}
	c.layout, c.packet = l, packet
	if !ok || l.proto == protoTCP && packet[l.l4+13]&(flagSYN|flagRST) != 0 {
		return errGSO
	}
	c.mss = int(h.GSOSize)
	if c.mss == 0 {
		return errGSOSize
	}
	c.segments = max(1, (l.end-l.data+c.mss-1)/c.mss)
	if c.segments > maxSegments && (l.proto == protoUDP || c.mss < minSegment) {
		return errGSOSize
	}
	check := c.check() - l.l4
	switch {
	case h.Flags&FlagNeedsCsum != 0:
		if int(h.CsumStart) != l.l4 || int(h.CsumOffset) != check {
			return errChecksum
		}
	case l.proto == protoUDP && !l.v6 && binary.BigEndian.Uint16(packet[l.l4+check:]) == 0:
		c.noCheck = true
	case !l.plain:
		return errGSO
	}
	return nil
}

// sums prepares the checksums of the segments, except for the fields that differ.
func (c *cut) sums(h Header) {
	if !c.v6 {
		b := c.packet[c.ip:c.l4]
		c.ipSum = uint32(sum(b[:2])) + uint32(sum(b[6:10])) + uint32(sum(b[12:]))
	}
	b := c.packet[c.l4:c.data]
	check := c.check() - c.l4
	old := binary.BigEndian.Uint16(b[check:])
	switch {
	case h.Flags&FlagNeedsCsum != 0:
		// The sum of the pseudo header is there, and knows the final
		// destination of packets with a routing header. Its length goes.
		c.l4Sum = uint32(old) + uint32(^uint16(c.end-c.l4))
	case c.noCheck:
		return
	default:
		c.l4Sum = c.pseudo(c.packet)
	}
	c.l4Sum += uint32(sum(b[:4])) // ports
	if c.proto == protoTCP {
		c.l4Sum += uint32(sum(b[8:12])) + uint32(sum(b[14:16])) + uint32(sum(b[18:]))
	}
}

// putHead writes the headers of segment i, which has the payload data.
func (c *cut) putHead(dst []byte, i int, data []byte) {
	dst = dst[:c.data]
	copy(dst, c.packet)

	ip := dst[c.ip:c.l4]
	if c.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(c.data-c.ip-ipv6Len+len(data)))
	} else {
		total := uint16(c.data - c.ip + len(data))
		id := binary.BigEndian.Uint16(ip[4:]) + uint16(i)
		binary.BigEndian.PutUint16(ip[2:], total)
		binary.BigEndian.PutUint16(ip[4:], id)
		binary.BigEndian.PutUint16(ip[10:], ^fold(c.ipSum+uint32(total)+uint32(id)))
	}

	l4 := dst[c.l4:]
	length := len(l4) + len(data)
	s := c.l4Sum + uint32(length) + uint32(sum(data))
	if c.proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
		if c.noCheck {
			return
		}
		check := ^fold(s + uint32(length))
		if check == 0 {
			check = 0xffff // RFC 768: 0 means no checksum
		}
		binary.BigEndian.PutUint16(l4[udpCheck:], check)
		return
	}
	seq := binary.BigEndian.Uint32(l4[4:]) + uint32(i*c.mss)
	binary.BigEndian.PutUint32(l4[4:], seq)
	if i > 0 {
		l4[13] &^= flagCWR // RFC 3168, section 6.1.2: in the first segment only
	}
	if i < c.segments-1 {
		l4[13] &^= flagFIN | flagPSH
	}
	s += seq>>16 + seq&0xffff + uint32(l4[12])<<8 + uint32(l4[13])
	binary.BigEndian.PutUint16(l4[tcpCheck:], ^fold(s))
}

// Count returns how many frames Split makes of a packet, and their bytes. A packet that
// Split rejects counts as one frame.
func Count(h Header, packet []byte) (frames, bytes int) {
	var c cut
	if h.GSOType == GSONone || c.shape(h, packet, false) != nil {
		return 1, len(packet)
	}
	return c.segments, c.end + (c.segments-1)*c.data
}
