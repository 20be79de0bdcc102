package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var be = binary.BigEndian

// A flow makes the frames of one sender, with complete checksums. Its fields
// may be changed between frames.
type flow struct {
	v6, udp bool
	mac     byte   // last byte of the source
	tags    []byte // VLAN tags, four bytes each
	ipOpts  []byte // IPv4 options, or an IPv6 extension header of type ext
	ext     byte
	tos     byte
	frag    uint16 // flags and offset
	ttl     byte
	id      uint16
	idStep  uint16
	label   uint32
	port    uint16
	seq     uint32
	ack     uint32
	flags   byte
	window  uint16
	opts    []byte
	off     int // of the next frame's payload in all that the flow sends
}

// timestamps is what Linux puts into every segment.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

func tcp4() *flow {
	return &flow{frag: 0x4000, ttl: 64, id: 0xfffe, idStep: 1, port: 1000, seq: 0xfffff000, ack: 7, flags: flagACK, window: 500, opts: timestamps}
}

func tcp6() *flow {
	f := tcp4()
	f.v6, f.label = true, 0x12345
	return f
}

func udp4() *flow { f := tcp4(); f.udp = true; return f }
func udp6() *flow { f := tcp6(); f.udp = true; return f }

// zeroSum gives a flow of IPv4 a port with which the checksum of its first frame, of n
// bytes, is 0, which UDP sends as 0xffff.
func zeroSum(f *flow, n int) *flow {
	at := 14 + 20 + tcpCheck
	if f.udp {
		at = 14 + 20 + udpCheck
	}
	for f.port = range uint16(0xffff) {
		if c := be.Uint16(f.with(func(*flow) {}).frame(n)[at:]); c == 0xffff || c == 0 {
			break
		}
	}
	return f
}

// with returns a changed copy.
func (f *flow) with(change func(*flow)) *flow {
	g := *f
	change(&g)
	return &g
}

// frame makes the next frame, of n bytes of payload.
func (f *flow) frame(n int) []byte {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte((f.off + i) ^ (f.off+i)>>7)
	}
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, f.mac}, f.tags...)
	l4 := tcpLen + len(f.opts)
	proto := byte(protoTCP)
	if f.udp {
		l4, proto = udpLen, protoUDP
	}
	if f.v6 {
		frame = append(frame, 0x86, 0xdd)
		frame = be.AppendUint32(frame, 6<<28|uint32(f.tos)<<20|f.label)
		frame = be.AppendUint16(frame, uint16(len(f.ipOpts)+l4+n))
		next := proto
		if f.ipOpts != nil {
			next = f.ext
			f.ipOpts[0] = proto
		}
		frame = append(frame, next, f.ttl)
		frame = append(frame, "\xfd\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"...)
		frame = append(frame, "\xfd\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"...)
	} else {
		frame = append(frame, 8, 0, 0x45+byte(len(f.ipOpts)/4), f.tos)
		frame = be.AppendUint16(frame, uint16(ipv4Len+len(f.ipOpts)+l4+n))
		frame = be.AppendUint16(frame, f.id)
		frame = be.AppendUint16(frame, f.frag)
		frame = append(frame, f.ttl, proto, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2)
	}
	frame = append(frame, f.ipOpts...)
	frame = be.AppendUint16(frame, f.port)
	frame = be.AppendUint16(frame, 2000)
	if f.udp {
		frame = be.AppendUint16(frame, uint16(l4+n))
		frame = append(frame, 0, 0)
	} else {
		frame = be.AppendUint32(frame, f.seq)
		frame = be.AppendUint32(frame, f.ack)
		frame = append(frame, byte(l4/4)<<4, f.flags)
		frame = be.AppendUint16(frame, f.window)
		frame = append(frame, 0, 0, 0, 0)
		frame = append(frame, f.opts...)
	}
	frame = append(frame, payload...)
	f.id += f.idStep
	f.seq += uint32(n)
	f.off += n
	setChecksums(frame)
	return frame
}

// packet makes a packet of n bytes of payload as the kernel gives it, to be cut
// into segments of size bytes.
func (f *flow) packet(n, size int) (Header, []byte) {
	p := f.frame(n)
	ip, l4 := offsets(p)
	h := Header{Flags: FlagNeedsCsum, GSOSize: uint16(size), CsumStart: uint16(l4), HdrLen: uint16(l4 + tcpLen + len(f.opts))}
	switch {
	case f.udp:
		h.GSOType, h.CsumOffset, h.HdrLen = GSOUDPL4, udpCheck, uint16(l4+udpLen)
	case f.v6:
		h.GSOType, h.CsumOffset = GSOTCPv6, tcpCheck
	default:
		h.GSOType, h.CsumOffset = GSOTCPv4, tcpCheck
	}
	be.PutUint16(p[l4+int(h.CsumOffset):], slowSum(pseudoHeader(p, ip, l4)))
	return h, p
}

// slowSum follows the definition of the Internet checksum, RFC 1071, but does
// not invert it.
func slowSum(b []byte) uint16 {
	var s uint64
	for i, x := range b {
		if i%2 == 0 {
			s += uint64(x) << 8
		} else {
			s += uint64(x)
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// offsets finds the IP and the transport header of a frame of a flow. It shares
// nothing with parse.
func offsets(frame []byte) (ip, l4 int) {
	for ip = 12; frame[ip] == 0x81 || frame[ip] == 0x88; {
		ip += 4
	}
	ip += 2
	if frame[ip-2] == 8 {
		return ip, ip + int(frame[ip]&15)*4
	}
	l4 = ip + ipv6Len
	if next := frame[ip+6]; next != protoTCP && next != protoUDP {
		l4 += 8 + 8*int(frame[l4+1])
	}
	return ip, l4
}

func pseudoHeader(frame []byte, ip, l4 int) []byte {
	var b []byte
	proto := frame[ip+9]
	total := int(be.Uint16(frame[ip+2:]))
	if frame[ip]>>4 == 4 {
		b = append(b, frame[ip+12:ip+20]...)
	} else {
		b = append(b, frame[ip+8:ip+40]...)
		proto = frame[ip+6]
		if l4 > ip+ipv6Len {
			proto = frame[ip+ipv6Len]
		}
		total = ipv6Len + int(be.Uint16(frame[ip+4:]))
	}
	b = append(b, 0, proto)
	return be.AppendUint16(b, uint16(ip+total-l4))
}

// setChecksums completes a frame of a flow.
func setChecksums(frame []byte) {
	ip, l4 := offsets(frame)
	v4 := frame[ip]>>4 == 4
	if v4 {
		frame[ip+10], frame[ip+11] = 0, 0
		be.PutUint16(frame[ip+10:], ^slowSum(frame[ip:l4]))
	}
	pseudo := pseudoHeader(frame, ip, l4)
	end := l4 + int(be.Uint16(pseudo[len(pseudo)-2:]))
	at, udp := l4+tcpCheck, pseudo[len(pseudo)-3] == protoUDP
	if udp {
		at = l4 + udpCheck
	}
	old := be.Uint16(frame[at:])
	frame[at], frame[at+1] = 0, 0
	c := ^slowSum(append(pseudo, frame[l4:end]...))
	if c == 0 && (udp || old == 0xffff) { // the same number in TCP
		c = 0xffff
	}
	be.PutUint16(frame[at:], c)
}

// checkFrame wants all checksums of a frame of a flow right.
func checkFrame(t testing.TB, frame []byte) {
	t.Helper()
	want := bytes.Clone(frame)
	setChecksums(want)
	if !bytes.Equal(frame, want) {
		t.Errorf("wrong checksum: got\n%x, want\n%x", frame, want)
	}
}

// join returns the frames of Split, without headroom.
func join(segments []Segment, headroom int) (frames [][]byte) {
	for _, s := range segments {
		frames = append(frames, append(bytes.Clone(s.Head[headroom:]), s.Data...))
	}
	return frames
}

func split(t testing.TB, h Header, packet []byte) [][]byte {
	t.Helper()
	var s Segmenter
	segments, err := s.Split(h, packet, 0)
	if err != nil {
		t.Fatalf("%+v: %v, packet %x", h, err, packet[:min(len(packet), 100)])
	}
	return join(segments, 0)
}

// equalFrames compares lists of frames.
func equalFrames(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d frames, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(got[i], want[i]) {
			n := min(100, len(got[i]), len(want[i]))
			t.Fatalf("frame %d has %d bytes, want %d:\n%x\n%x", i, len(got[i]), len(want[i]), got[i][:n], want[i][:n])
		}
	}
}
