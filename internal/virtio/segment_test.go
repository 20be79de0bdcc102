package virtio

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// segmentTests are packets that become frames of a network, in this package
// and in the kernel.
var segmentTests = []struct {
	name    string
	flow    *flow
	n, size int
	ecn     bool // GSOECN
}{
	{"tcp4", tcp4(), 64 * 1024 * 9 / 10, 1448, false},
	{"exact multiple", tcp4(), 4344, 1448, false},
	{"one byte more", tcp4(), 4345, 1448, false},
	{"odd size", tcp4(), 5000, 777, false},
	{"no options", tcp4().with(func(f *flow) { f.opts = nil }), 8000, 1460, false},
	{"FIN and PSH", tcp4().with(func(f *flow) { f.flags |= flagFIN | flagPSH }), 4000, 1000, false},
	{"CWR", tcp4().with(func(f *flow) { f.flags |= flagCWR; f.tos = 2 }), 4000, 1000, true},
	{"ECE, congestion experienced", tcp4().with(func(f *flow) { f.flags |= 0x40; f.tos = 3 }), 4000, 1000, false},
	{"fragments allowed", tcp4().with(func(f *flow) { f.frag = 0 }), 4000, 1000, false},
	{"ids and sequence numbers start again", tcp4().with(func(f *flow) { f.id, f.seq = 0xfffe, 0xfffffc00 }), 4000, 1000, false},
	{"IPv4 options", tcp4().with(func(f *flow) { f.ipOpts = []byte{7, 7, 4, 0, 0, 0, 0, 0} }), 4000, 1000, false},
	{"smallest MSS", tcp4(), 65535 - 20 - 32, 36, false},
	{"tcp6", tcp6(), 60000, 1428, false},
	{"tcp6, extension header", tcp6().with(func(f *flow) { f.ext, f.ipOpts = 60, []byte{0, 0, 1, 4, 0, 0, 0, 0} }), 4000, 1000, false},
	{"VLAN", tcp4().with(func(f *flow) { f.tags = []byte{0x81, 0, 0, 5} }), 4000, 1000, false},
	{"VLAN in VLAN", tcp6().with(func(f *flow) { f.tags = []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6} }), 4000, 1000, false},
	{"udp4", udp4(), 20000, 1472, false},
	{"udp6", udp6(), 20000, 1452, false},
	{"udp, equal sizes", udp4(), 5000, 1000, false},
	{"udp, checksum 0", zeroSum(udp4(), 1000), 3000, 1000, false},
}

// wantFrames makes what the packet of a flow is to become: the frames that the
// flow makes by itself.
func wantFrames(f *flow, n, size int) (frames [][]byte) {
	g := *f
	for off := 0; off < n; off += size {
		g.flags = f.flags
		if off > 0 {
			g.flags &^= flagCWR
		}
		if off+size < n {
			g.flags &^= flagFIN | flagPSH
		}
		frames = append(frames, g.frame(min(size, n-off)))
	}
	return frames
}

func TestSplit(t *testing.T) {
	var s Segmenter
	for _, tt := range segmentTests {
		t.Run(tt.name, func(t *testing.T) {
			want := wantFrames(tt.flow, tt.n, tt.size)
			for _, needsCsum := range []bool{true, false} {
				h, packet := tt.flow.with(func(*flow) {}).packet(tt.n, tt.size)
				if tt.ecn {
					h.GSOType |= GSOECN
				}
				if !needsCsum {
					if tt.flow.ipOpts != nil {
						continue
					}
					h = Header{GSOType: h.GSOType, GSOSize: h.GSOSize}
					setChecksums(packet)
				}
				before := bytes.Clone(packet)
				for _, headroom := range []int{0, 8} {
					segments := testenv.Must(s.Split(h, packet, headroom))(t)
					for i, seg := range segments {
						copy(seg.Head[:headroom], "\xff\xff\xff\xff\xff\xff\xff\xff")
						if cap(seg.Head) != len(seg.Head) {
							t.Errorf("segment %d: an append to Head would write over the next", i)
						}
					}
					equalFrames(t, join(segments, headroom), want)
				}
				if !bytes.Equal(packet, before) {
					t.Error("the packet was changed")
				}
			}
			for _, f := range want {
				checkFrame(t, f)
			}
		})
	}
}

// TestSplitOrdinary gives frames that need no segmentation.
func TestSplitOrdinary(t *testing.T) {
	for _, f := range []*flow{tcp4(), tcp6(), udp4(), udp6(), zeroSum(udp4(), 20)} {
		want := f.with(func(*flow) {}).frame(20)
		h, packet := f.packet(20, 0)
		h.GSOType = GSONone
		for range 2 {
			equalFrames(t, split(t, h, packet), [][]byte{want})
			h.Flags = FlagDataValid // complete now, nothing to be done
		}
	}
	// A checksum of TCP that is 0 may be 0xffff too, as the kernel's is where it completes one.
	h, packet := zeroSum(tcp4(), 20).packet(20, 0)
	h.GSOType = GSONone
	checkFrame(t, split(t, h, packet)[0])
	short := []byte{1, 2, 3}
	equalFrames(t, split(t, Header{}, short), [][]byte{short})
}

// TestSplitUDPWithoutChecksum: what a sender left out stays out.
func TestSplitUDPWithoutChecksum(t *testing.T) {
	_, packet := udp4().packet(3000, 1000)
	packet[14+20+6], packet[14+20+7] = 0, 0
	for i, f := range split(t, Header{GSOType: GSOUDPL4, GSOSize: 1000}, packet) {
		if c := be.Uint16(f[14+20+6:]); c != 0 {
			t.Errorf("frame %d has checksum %#x", i, c)
		}
		if c := slowSum(f[14 : 14+20]); c != 0xffff {
			t.Errorf("frame %d has a wrong IP checksum", i)
		}
	}
	// In IPv6 there must be one.
	_, packet = udp6().packet(3000, 1000)
	for _, f := range split(t, Header{GSOType: GSOUDPL4, GSOSize: 1000}, packet) {
		checkFrame(t, f)
	}
}

func TestSplitError(t *testing.T) {
	ok := func() (Header, []byte) { return tcp4().packet(3000, 1000) }
	tests := []struct {
		name   string
		change func(h *Header, p []byte) []byte
		want   error
	}{
		{"type 2", func(h *Header, p []byte) []byte { h.GSOType = 2; return p }, errGSOType},
		{"UFO", func(h *Header, p []byte) []byte { h.GSOType = GSOUDP; return p }, errGSOType},
		{"ECN alone", func(h *Header, p []byte) []byte { h.GSOType = GSOECN; return p }, errGSOType},
		{"TCP over IPv6 is over IPv4", func(h *Header, p []byte) []byte { h.GSOType = GSOTCPv6; return p }, errGSO},
		{"UDP is TCP", func(h *Header, p []byte) []byte { h.GSOType = GSOUDPL4; return p }, errGSO},
		{"size 0", func(h *Header, p []byte) []byte { h.GSOSize = 0; return p }, errGSOSize},
		{"size 1", func(h *Header, p []byte) []byte { h.GSOSize = 1; return p }, errGSOSize},
		{"empty", func(h *Header, p []byte) []byte { return nil }, errGSO},
		{"cut", func(h *Header, p []byte) []byte { return p[:len(p)-1] }, errGSO},
		{"a fragment", func(h *Header, p []byte) []byte { p[14+6] |= 0x20; return p }, errGSO},
		{"SYN", func(h *Header, p []byte) []byte { p[14+20+13] |= flagSYN; return p }, errGSO},
		{"RST", func(h *Header, p []byte) []byte { p[14+20+13] |= flagRST; return p }, errGSO},
		{"TCP header of 16 bytes", func(h *Header, p []byte) []byte { p[14+20+12] = 4 << 4; return p }, errGSO},
		{"IPv4 header of 16 bytes", func(h *Header, p []byte) []byte { p[14] = 0x44; return p }, errGSO},
		{"ARP", func(h *Header, p []byte) []byte { p[13] = 6; return p }, errGSO},
		{"checksum begins elsewhere", func(h *Header, p []byte) []byte { h.CsumStart++; return p }, errChecksum},
		{"checksum stored elsewhere", func(h *Header, p []byte) []byte { h.CsumOffset++; return p }, errChecksum},
		{"not segmented, checksum behind the end", func(h *Header, p []byte) []byte { h.GSOType = GSONone; return p[:34+17] }, errChecksum},
		{"not segmented, largest offsets", func(h *Header, p []byte) []byte {
			h.GSOType, h.CsumStart, h.CsumOffset = GSONone, 0xffff, 0xffff
			return p
		}, errChecksum},
		{"IPv4 options and no pseudo header", func(h *Header, p []byte) []byte {
			f := tcp4().with(func(f *flow) { f.ipOpts = []byte{1, 1, 1, 1} })
			*h = Header{GSOType: GSOTCPv4, GSOSize: 1000}
			return f.frame(3000)
		}, errGSO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, packet := ok()
			packet = tt.change(&h, packet)
			var s Segmenter
			if segments, err := s.Split(h, packet, 0); !errors.Is(err, tt.want) || segments != nil {
				t.Errorf("Split returns %d segments, %v, want %v", len(segments), err, tt.want)
			}
		})
	}
}

func TestSplitAllocs(t *testing.T) {
	var s Segmenter
	h, packet := tcp4().packet(64000, 1448)
	if n := testing.AllocsPerRun(1000, func() {
		if segments, err := s.Split(h, packet, 8); len(segments) != 45 || err != nil {
			t.Errorf("%d segments, %v", len(segments), err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestSplitTags cuts packets with more tags than are joined: the frames are those
// of the packet without, tagged.
func TestSplitTags(t *testing.T) {
	for n := range maxTags + 2 {
		tags := bytes.Repeat([]byte{0x81, 0, 0, 5}, n)
		h, packet := tcp4().packet(4000, 1000)
		_, tagged := tcp4().with(func(f *flow) { f.tags = tags }).packet(4000, 1000)
		want := split(t, h, packet)
		h.CsumStart += uint16(len(tags))
		h.HdrLen += uint16(len(tags))
		if n > maxTags {
			if _, err := new(Segmenter).Split(h, tagged, 0); err == nil {
				t.Errorf("%d tags: no error", n)
			}
			continue
		}
		for i, frame := range want {
			want[i] = slices.Insert(frame, 12, tags...)
		}
		equalFrames(t, split(t, h, tagged), want)
		if frames, _ := Count(h, tagged); frames != len(want) {
			t.Errorf("%d tags: %d frames counted", n, frames)
		}
	}
}

// TestSplitBound has headers that would make more frames of a packet than it has a
// use for. They are refused, and counted as one frame.
func TestSplitBound(t *testing.T) {
	for _, tt := range []struct {
		name       string
		udp        bool
		n, gsoSize int // bytes of the packet's payload
		want       int // frames; 0: refused
	}{
		{name: "one byte each", n: 2000, gsoSize: 1},
		{name: "one byte each, few", n: 128, gsoSize: 1, want: 128},
		{name: "one byte each, one too many", n: 129, gsoSize: 1},
		{name: "TCP_MIN_GSO_SIZE", n: 16000, gsoSize: 8},
		{name: "least MSS", n: 65000, gsoSize: 36, want: 1806},
		{name: "below the least MSS", n: 65000, gsoSize: 35},
		{name: "UDP", udp: true, n: 128 * 500, gsoSize: 500, want: 128},
		{name: "UDP, more than the kernel makes", udp: true, n: 129 * 500, gsoSize: 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tcp4()
			if tt.udp {
				f = udp4()
			}
			h, packet := f.packet(tt.n, tt.gsoSize)
			var s Segmenter
			segments, err := s.Split(h, packet, 0)
			if len(segments) != tt.want || (err != nil) != (tt.want == 0) {
				t.Fatalf("%d frames, %v, want %d", len(segments), err, tt.want)
			}
			frames, bytes := Count(h, packet)
			want, wantBytes := 1, len(packet)
			if tt.want > 0 {
				want, wantBytes = len(segments), 0
				for _, s := range segments {
					wantBytes += len(s.Head) + len(s.Data)
				}
			}
			if frames != want || bytes != wantBytes {
				t.Errorf("counted %d frames of %d bytes, want %d of %d", frames, bytes, want, wantBytes)
			}
		})
	}
}

// FuzzSplit takes any packet with any header. Frames must add up to the packet,
// and, if it had the checksum that its header promises, have right checksums.
func FuzzSplit(f *testing.F) {
	for _, tt := range segmentTests {
		h, packet := tt.flow.with(func(*flow) {}).packet(min(tt.n, 1000), min(tt.size, 300))
		b := make([]byte, HeaderLen)
		h.Encode(b)
		f.Add(append(b, packet...))
		Header{GSOType: h.GSOType, GSOSize: h.GSOSize}.Encode(b)
		f.Add(append(b, packet...))
		Header{Flags: FlagNeedsCsum, CsumStart: h.CsumStart, CsumOffset: h.CsumOffset}.Encode(b)
		f.Add(append(b, packet...))
	}
	var s Segmenter
	ip := Segmenter{IP: true}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		if h.Decode(b) != nil {
			return
		}
		// A capacity that ends with the packet makes every read beyond it panic.
		packet := slices.Clip(bytes.Clone(b[HeaderLen:]))
		original := bytes.Clone(packet)
		ip.Split(h, bytes.Clone(packet), 0) // TestIP compares results
		if len(packet) > etherLen {
			ip.Split(h, bytes.Clone(packet[etherLen:]), 0)
		}
		counted, bytesCounted := Count(h, packet)
		segments, err := s.Split(h, packet, 4)
		count, bytesCount := 1, len(packet)
		if err == nil {
			count, bytesCount = len(segments), 0
			for _, g := range segments {
				bytesCount += len(g.Head) - 4 + len(g.Data)
			}
		}
		if counted != count || bytesCounted != bytesCount {
			t.Fatalf("Count says %d frames of %d bytes, Split %d of %d (%v)", counted, bytesCounted, count, bytesCount, err)
		}
		frames := join(segments, 4)
		if err != nil {
			return
		}
		if h.GSOType == GSONone {
			if h.Flags&FlagNeedsCsum == 0 {
				equalFrames(t, frames, [][]byte{original})
			}
			return
		}
		l, _ := parseTags(original, maxTags)
		n := l.end - l.data
		for i, f := range frames {
			fl, ok := parseTags(f, maxTags)
			if !ok || fl.end != len(f) || fl.data != l.data {
				t.Fatalf("frame %d is malformed: %x", i, f)
			}
			if want := min(int(h.GSOSize), n); fl.end-fl.data != want {
				t.Fatalf("frame %d has %d bytes of payload, want %d", i, fl.end-fl.data, want)
			}
			n -= fl.end - fl.data
			if !bytes.Equal(f[fl.data:], original[l.data+i*int(h.GSOSize):][:fl.end-fl.data]) {
				t.Fatalf("frame %d has another payload", i)
			}
			if !l.v6 && slowSum(f[l.ip:l.l4]) != 0xffff {
				t.Errorf("frame %d: wrong IP checksum", i)
			}
			if l.plain && h.Flags&FlagNeedsCsum == 0 {
				pseudo := pseudoHeader(f, l.ip, l.l4)
				noCheck := l.proto == protoUDP && !l.v6 && be.Uint16(original[l.l4+udpCheck:]) == 0
				if noCheck != (l.proto == protoUDP && be.Uint16(f[l.l4+udpCheck:]) == 0) {
					t.Errorf("frame %d: checksum 0", i)
				}
				if !noCheck && slowSum(append(pseudo, f[l.l4:]...)) != 0xffff {
					t.Errorf("frame %d: wrong checksum", i)
				}
			}
		}
		if n != 0 {
			t.Errorf("%d bytes of payload are missing", n)
		}
	})
}

func BenchmarkSplit(b *testing.B) {
	for _, tt := range []struct {
		name string
		flow *flow
		size int
	}{{"tcp4", tcp4(), 1448}, {"tcp6", tcp6(), 1428}, {"udp4", udp4(), 1472}} {
		h, packet := tt.flow.packet(64000, tt.size)
		b.Run(tt.name, func(b *testing.B) {
			var s Segmenter
			b.SetBytes(int64(len(packet)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := s.Split(h, packet, 8)
				testenv.Check(b, err)
			}
		})
	}
}
