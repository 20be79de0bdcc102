package virtio

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// maxJoined is the largest packet made by joining, in bytes: the limit of lengths in
	// IP headers, and of the kernel's own receive offload.
	maxJoined = 65535
	// maxJoinTCP is how many frames are joined at most: about as many as fill a packet
	// with the smallest MSS in use, 536.
	maxJoinTCP = 128
	// maxJoinUDP is UDP_MAX_SEGMENTS of the first kernels with UDP_L4 on a TAP, which
	// reject packets of more.
	maxJoinUDP = 64
	// maxOpen is how many packets wait for more frames at the same time. A batch rarely
	// has more flows, and each frame is compared with all of them.
	maxOpen = 8
)

// A Coalescer joins the frames of a batch that continue each other into packets that cost
// the kernel as much as one frame: consecutive segments of a TCP flow, and datagrams of a UDP
// flow of equal size.
//
//   - Only verified frames are joined, all checksums included.
//   - Cutting a packet gives the same frames again, except for the padding of short frames,
//     and for IPv4 ids that stay the same: where fragments are forbidden, ids do not matter
//     (RFC 6864).
//   - Everything else passes untouched, and the frames of a flow stay in order.
//
// The zero Coalescer is ready; it serves one goroutine.
type Coalescer struct {
	// UDP says that the kernel accepts GSOUDPL4, as Linux does since 6.2, where
	// TUNSETOFFLOAD knows TUN_F_USO4 and TUN_F_USO6. Otherwise datagrams are not
	// joined.
	UDP bool
	// IP says that there are no link headers: frames are the IP packets of a TUN.
	IP bool

	flushed bool // the next Add begins a batch
	frames  []piece
	groups  []group

	// The keys of the packets that wait for more, and their indices in groups.
	openKeys [maxOpen]uint64
	open     [maxOpen]int
	nopen    int

	packets []Packet
	parts   [][]byte
	headers []byte
}

// A Packet is written to a TAP by one system call.
type Packet struct {
	// Parts are what writev takes: the encoded [Header], then the packet.
	Parts [][]byte
	// Frames is how many frames were joined; 1 is a frame as it came.
	Frames int
	// Bytes is the size of all frames together, without the padding of short ones.
	Bytes int
}

// A piece is a frame's contribution to a packet: a whole frame, or a payload.
type piece struct {
	data []byte
	next int // index of the next piece of the packet
}

// A group is a packet in the making.
type group struct {
	layout          // of the first frame
	first, last int // indices of pieces
	n           int // pieces
	size        int // of the packet, in bytes
	mss         int // payload of the first frame

	seq      uint32 // of the frame to come
	id, step uint16 // IPv4 id of the last frame, and its distance from the one before
	flags    uint8  // FIN and PSH of the last frame
	addrs    uint32 // sum of the pseudo header without the length, once verified
	verified bool   // the first frame's checksums are right
}

// Add adds a frame to the batch. The frame must stay unchanged until the result
// of Flush is no longer used, and may be changed by Flush.
func (c *Coalescer) Add(frame []byte) {
	if c.flushed {
		c.flushed = false
		c.frames, c.groups, c.nopen = c.frames[:0], c.groups[:0], 0
	}
	var l layout
	var ok bool
	if c.IP {
		l, ok = parseIP(frame)
	} else {
		l, ok = parse(frame)
	}
	if !ok || !l.plain {
		// It may belong to any flow, as fragments do, so no frame may overtake it.
		c.nopen = 0
		c.begin(frame, &l)
		return
	}
	if l.proto == protoUDP && !c.UDP {
		c.begin(frame, &l)
		return
	}
	key, more := l.key(frame), l.joinable(frame)
	slot := slices.Index(c.openKeys[:c.nopen], key)
	if slot >= 0 {
		if more {
			if done, ok := c.join(&c.groups[c.open[slot]], frame, &l); ok {
				if done {
					c.close(slot)
				}
				return
			}
		}
		c.close(slot)
	}
	c.begin(frame, &l)
	if more && !l.final(frame) {
		c.openLast(key)
	}
}

// Flush ends the batch and returns its packets in the order of their first
// frames. They are valid until the next call of Add.
func (c *Coalescer) Flush() []Packet {
	c.packets, c.parts, c.headers = c.packets[:0], c.parts[:0], c.headers[:0]
	if c.flushed {
		return c.packets
	}
	c.flushed = true
	// The slices of earlier packets must not move while the rest is appended.
	c.parts = slices.Grow(c.parts, len(c.frames)+len(c.groups))
	c.headers = slices.Grow(c.headers, len(c.groups)*HeaderLen)
	for i := range c.groups {
		g := &c.groups[i]
		n := len(c.headers)
		c.headers = c.headers[:n+HeaderLen]
		header := c.headers[n : n+HeaderLen : n+HeaderLen]
		var h Header
		if g.n > 1 {
			h = g.finish(c.frames[g.first].data)
		}
		h.Encode(header)
		n = len(c.parts)
		c.parts = append(c.parts, header)
		for k, p := 0, g.first; k < g.n; k++ {
			c.parts = append(c.parts, c.frames[p].data)
			p = c.frames[p].next
		}
		bytes := len(c.frames[g.first].data)
		if g.n > 1 {
			bytes = g.size + (g.n-1)*g.data
		}
		c.packets = append(c.packets, Packet{c.parts[n:len(c.parts):len(c.parts)], g.n, bytes})
	}
	return c.packets
}

// begin makes frame the first of a packet.
func (c *Coalescer) begin(frame []byte, l *layout) {
	c.frames = append(c.frames, piece{data: frame})
	last := len(c.frames) - 1
	c.groups = append(c.groups, group{layout: *l, first: last, last: last, n: 1})
}

// openLast lets the newest packet wait for more frames. If too many wait, the oldest stops
// waiting: its flow has probably ended.
func (c *Coalescer) openLast(key uint64) {
	if c.nopen == maxOpen {
		c.close(0)
	}
	g := &c.groups[len(c.groups)-1]
	frame := c.frames[g.first].data
	g.size, g.mss = g.end, g.end-g.data
	if !g.v6 {
		g.id = binary.BigEndian.Uint16(frame[g.ip+4:])
	}
	if g.proto == protoTCP {
		g.seq = binary.BigEndian.Uint32(frame[g.l4+4:]) + uint32(g.mss)
	}
	c.openKeys[c.nopen], c.open[c.nopen] = key, len(c.groups)-1
	c.nopen++
}

// close lets a packet wait no longer. The others stay in order of their age.
func (c *Coalescer) close(slot int) {
	copy(c.openKeys[slot:c.nopen], c.openKeys[slot+1:c.nopen])
	copy(c.open[slot:c.nopen], c.open[slot+1:c.nopen])
	c.nopen--
}

// join appends a frame to the packet if it continues it, and reports whether
// it did and whether that was the last.
func (c *Coalescer) join(g *group, frame []byte, l *layout) (done, ok bool) {
	head := c.frames[g.first].data
	n := l.end - l.data
	limit := maxJoinTCP
	if l.proto == protoUDP {
		limit = maxJoinUDP
	}
	if l.ip != g.ip || l.data != g.data || l.v6 != g.v6 || l.proto != g.proto ||
		n > g.mss || g.size+n > maxJoined || g.n == limit {
		return false, false
	}
	step, ok := g.continues(head, frame)
	if !ok {
		return false, false
	}
	if !g.verified {
		g.addrs = g.pseudo(head)
		if g.verified = g.verify(head, g.addrs); !g.verified {
			return false, false
		}
	}
	if !l.verify(frame, g.addrs) {
		return false, false
	}

	c.frames = append(c.frames, piece{data: frame[l.data:l.end]})
	last := len(c.frames) - 1
	if g.n == 1 {
		c.frames[g.first].data = head[:g.end] // without padding
	}
	c.frames[g.last].next = last
	g.last = last
	g.n++
	g.size += n
	g.seq += uint32(n)
	g.id += step
	g.step = step
	done = n < g.mss
	if l.final(frame) {
		g.flags = frame[l.l4+13] & (flagFIN | flagPSH)
		done = true
	}
	return done, true
}

// continues compares the headers of a frame with those of the packet's first frame, which
// have the same layout. Everything must be equal except sequence numbers and IPv4 ids; step is
// by how much the ids grow, 0 or 1.
func (g *group) continues(head, frame []byte) (step uint16, ok bool) {
	if !bytes.Equal(head[:g.ip], frame[:g.ip]) {
		return 0, false
	}
	a, b := head[g.ip:g.l4], frame[g.ip:g.l4]
	if g.v6 {
		// Version, traffic class and flow label; hop limit and addresses.
		if [4]byte(a) != [4]byte(b) || !bytes.Equal(a[6:], b[6:]) {
			return 0, false
		}
	} else {
		// TOS; flags, TTL and addresses.
		if a[1] != b[1] || [4]byte(a[6:]) != [4]byte(b[6:]) || [8]byte(a[12:]) != [8]byte(b[12:]) {
			return 0, false
		}
		step = binary.BigEndian.Uint16(b[4:]) - g.id
		dontFragment := a[6]&0x40 != 0
		if step > 1 || step == 0 && !dontFragment || g.n > 1 && step != g.step {
			return 0, false
		}
	}
	a, b = head[g.l4:g.data], frame[g.l4:g.data]
	if [4]byte(a) != [4]byte(b) { // ports
		return 0, false
	}
	if g.proto == protoUDP {
		return step, true
	}
	return step, binary.BigEndian.Uint32(b[4:]) == g.seq &&
		[5]byte(a[8:]) == [5]byte(b[8:]) && // acknowledgement, length
		(a[13]^b[13])&^(flagFIN|flagPSH) == 0 &&
		[2]byte(a[14:]) == [2]byte(b[14:]) && // window
		bytes.Equal(a[18:], b[18:]) // urgent pointer, options
}

// finish turns the headers of the first frame into those of the packet.
func (g *group) finish(head []byte) Header {
	h := Header{
		Flags:      FlagNeedsCsum,
		GSOType:    GSOTCPv4,
		HdrLen:     uint16(g.data),
		GSOSize:    uint16(g.mss),
		CsumStart:  uint16(g.l4),
		CsumOffset: uint16(g.check() - g.l4),
	}
	ip := head[g.ip:g.l4]
	if g.v6 {
		h.GSOType = GSOTCPv6
		binary.BigEndian.PutUint16(ip[4:], uint16(g.size-g.ip-ipv6Len))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(g.size-g.ip))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	}
	length := g.size - g.l4
	if g.proto == protoUDP {
		h.GSOType = GSOUDPL4
		binary.BigEndian.PutUint16(head[g.l4+4:], uint16(length))
	} else {
		head[g.l4+13] |= g.flags
	}
	binary.BigEndian.PutUint16(head[g.check():], fold(g.addrs+uint32(length)))
	return h
}

// joinable reports whether a frame may be part of a larger packet: it carries only data. A
// frame with CWR is left alone: cut again, the flag would be in the first segment only, but
// with AccECN (RFC 9768) it is a part of a counter.
func (l *layout) joinable(frame []byte) bool {
	if l.end == l.data {
		return false
	}
	if l.proto == protoUDP {
		return binary.BigEndian.Uint16(frame[l.l4+udpCheck:]) != 0 // 0: nothing to verify
	}
	return frame[l.l4+13]&(flagSYN|flagRST|flagURG|flagCWR|flagACK) == flagACK
}

// final reports whether a joinable frame is the last of its packet.
func (l *layout) final(frame []byte) bool {
	return l.proto == protoTCP && frame[l.l4+13]&(flagFIN|flagPSH) != 0
}

// verify checks the checksums of a plain frame; pseudo is the sum of its pseudo
// header without the length.
func (l *layout) verify(frame []byte, pseudo uint32) bool {
	if !l.v6 && sum(frame[l.ip:l.l4]) != 0xffff {
		return false
	}
	return fold(pseudo+uint32(l.end-l.l4)+uint32(sum(frame[l.l4:l.end]))) == 0xffff
}

// key returns a number that is the same for all frames of a flow. A collision is unlikely,
// and only keeps frames apart.
func (l *layout) key(frame []byte) uint64 {
	const k = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	mix := func(key, v uint64) uint64 { return (bits.RotateLeft64(key, 23) ^ v) * k }
	key := mix(uint64(l.proto), uint64(binary.LittleEndian.Uint32(frame[l.l4:])))
	if !l.v6 {
		return mix(key, binary.LittleEndian.Uint64(frame[l.ip+12:]))
	}
	for b := frame[l.ip+8 : l.ip+ipv6Len]; len(b) >= 8; b = b[8:] {
		key = mix(key, binary.LittleEndian.Uint64(b))
	}
	return key
}
