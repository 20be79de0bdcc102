package virtio

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// coalesce runs one batch and returns the packets; the frames stay as they are.
func coalesce(c *Coalescer, frames [][]byte) []Packet {
	for _, f := range frames {
		c.Add(slices.Clip(bytes.Clone(f)))
	}
	return c.Flush()
}

// decode takes a Packet apart.
func decode(t testing.TB, p Packet) (h Header, packet []byte) {
	t.Helper()
	testenv.Check(t, h.Decode(p.Parts[0]))
	return h, bytes.Join(p.Parts[1:], nil)
}

// TestCoalesce joins frames of one flow, and of flows that look like it.
func TestCoalesce(t *testing.T) {
	// Each frame of a test is 100 bytes of payload, made by the flow after its change.
	type change = func(f *flow)
	same := func(f *flow) {}
	tests := []struct {
		name   string
		frames []change
		want   []int // frames of each packet
	}{
		{"one", []change{same}, []int{1}},
		{"three", []change{same, same, same}, []int{3}},
		{"PSH ends a packet", []change{same, func(f *flow) { f.flags |= flagPSH }, func(f *flow) { f.flags &^= flagPSH }, same}, []int{2, 2}},
		{"PSH in the first", []change{func(f *flow) { f.flags |= flagPSH }, func(f *flow) { f.flags &^= flagPSH }}, []int{1, 1}},
		{"FIN ends a packet", []change{same, func(f *flow) { f.flags |= flagFIN }}, []int{2}},
		{"SYN", []change{func(f *flow) { f.flags = flagSYN | flagACK }, func(f *flow) { f.flags = flagACK }}, []int{1, 1}},
		{"RST", []change{same, func(f *flow) { f.flags |= flagRST }}, []int{1, 1}},
		{"URG", []change{func(f *flow) { f.flags |= flagURG }, same}, []int{1, 1}},
		{"no ACK", []change{func(f *flow) { f.flags = 0 }, same}, []int{1, 1}},
		{"CWR in the first", []change{func(f *flow) { f.flags |= flagCWR }, func(f *flow) { f.flags &^= flagCWR }, same}, []int{1, 2}},
		{"CWR in all", []change{func(f *flow) { f.flags |= flagCWR }, same}, []int{1, 1}},
		{"CWR between", []change{same, func(f *flow) { f.flags |= flagCWR }, func(f *flow) { f.flags &^= flagCWR }, same}, []int{1, 1, 2}},
		{"ECE in all", []change{func(f *flow) { f.flags |= 0x40 }, same}, []int{2}},
		{"ECE in one", []change{same, func(f *flow) { f.flags |= 0x40 }}, []int{1, 1}},
		{"congestion experienced by one", []change{func(f *flow) { f.tos = 2 }, func(f *flow) { f.tos = 3 }, func(f *flow) { f.tos = 2 }, same}, []int{1, 1, 2}},
		{"congestion experienced by all", []change{func(f *flow) { f.tos = 3 }, same}, []int{2}},
		{"other acknowledgement", []change{same, same, func(f *flow) { f.ack++ }, same}, []int{2, 2}},
		{"other window", []change{same, func(f *flow) { f.window++ }, same}, []int{1, 2}},
		{"a gap", []change{same, func(f *flow) { f.seq++ }, same}, []int{1, 2}},
		{"a repetition", []change{same, func(f *flow) { f.seq -= 100 }, same}, []int{1, 2}},
		{"sequence starts again", []change{func(f *flow) { f.seq = 0xffffffff }, same}, []int{2}},
		{"other TTL", []change{same, func(f *flow) { f.ttl-- }}, []int{1, 1}},
		{"other sender", []change{same, func(f *flow) { f.mac++ }}, []int{1, 1}},
		{"other VLAN", []change{same, func(f *flow) { f.tags = []byte{0x81, 0, 0, 5} }, same}, []int{1, 2}},
		{"VLANs of equal depth", []change{func(f *flow) { f.tags = []byte{0x81, 0, 0, 5} }, func(f *flow) { f.tags = []byte{0x81, 0, 0, 6} }}, []int{1, 1}},
		{"two VLAN tags", []change{func(f *flow) { f.tags = []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 5} }, same}, []int{2}},
		{"three VLAN tags", []change{func(f *flow) { f.tags = bytes.Repeat([]byte{0x81, 0, 0, 5}, 3) }, same}, []int{1, 1}},
		{"other time", []change{same, func(f *flow) { f.opts = []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 2} }, same}, []int{1, 2}},
		{"no options", []change{func(f *flow) { f.opts = nil }, same}, []int{2}},
		{"other options", []change{same, func(f *flow) { f.opts = nil }}, []int{1, 1}},
		{"id jumps", []change{same, func(f *flow) { f.id++ }, same}, []int{1, 2}},
		{"ids go back", []change{func(f *flow) { f.idStep = 0xffff }, same, same}, []int{1, 1, 1}},
		{"id stays", []change{func(f *flow) { f.idStep = 0 }, same, same}, []int{3}},
		{"id stays, fragments allowed", []change{func(f *flow) { f.idStep, f.frag = 0, 0 }, same}, []int{1, 1}},
		{"id counts, fragments allowed", []change{func(f *flow) { f.frag = 0 }, same}, []int{2}},
		{"id stays, then counts", []change{func(f *flow) { f.idStep = 0 }, same, func(f *flow) { f.id++ }}, []int{2, 1}},
		{"id counts, then stays", []change{same, same, func(f *flow) { f.id-- }}, []int{2, 1}},
		{"IPv4 options", []change{func(f *flow) { f.ipOpts = []byte{1, 1, 1, 1} }, same}, []int{1, 1}},
		{"fragments", []change{func(f *flow) { f.frag = 0x2000 }, same}, []int{1, 1}},
		{"last fragments", []change{func(f *flow) { f.frag = 8 }, same}, []int{1, 1}},
		{"fragment between", []change{same, func(f *flow) { f.frag = 0x2000 }, func(f *flow) { f.frag = 0x4000 }}, []int{1, 1, 1}},
		{"other port", []change{same, func(f *flow) { f.port++ }, same}, []int{1, 2}},
	}
	only4 := map[string]bool{ // what IPv6 has no field for
		"id jumps": true, "ids go back": true, "id stays, fragments allowed": true, "id stays, then counts": true, "id counts, then stays": true,
		"IPv4 options": true, "fragments": true, "last fragments": true, "fragment between": true}
	var c Coalescer
	for _, tt := range tests {
		for version, f := range map[string]*flow{"4": tcp4(), "6": tcp6()} {
			if f.v6 && only4[tt.name] {
				continue
			}
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				var frames [][]byte
				for _, change := range tt.frames {
					change(f)
					frames = append(frames, f.frame(100))
				}
				if f.idStep == 0 {
					checkNormal(t, coalesce(&c, frames), frames, tt.want, normal)
				} else {
					checkPackets(t, coalesce(&c, frames), frames, tt.want)
				}
			})
		}
	}
}

// checkPackets wants packets of so many frames each, which become frames again
// that are equal to the original ones, in the same order.
func checkPackets(t testing.TB, packets []Packet, frames [][]byte, want []int) {
	t.Helper()
	checkNormal(t, packets, frames, want, func(frame []byte) []byte { return frame })
}

// checkNormal compares frames in a form that some of their differences do not
// show in.
func checkNormal(t testing.TB, packets []Packet, frames [][]byte, want []int, form func([]byte) []byte) {
	t.Helper()
	var got []int
	var out [][]byte
	for _, p := range packets {
		got = append(got, p.Frames)
		h, packet := decode(t, p)
		if p.Frames == 1 && (h != Header{} || len(p.Parts) != 2) {
			t.Errorf("a single frame has header %+v and %d parts", h, len(p.Parts))
		}
		for _, f := range split(t, h, packet) {
			out = append(out, form(f))
		}
	}
	frames = slices.Clone(frames)
	for i, f := range frames {
		frames[i] = form(f)
	}
	if !slices.Equal(got, want) {
		t.Errorf("packets have %v frames, want %v", got, want)
	}
	equalFrames(t, out, frames)
}

// normal takes from a frame what joining and cutting may change: padding, IPv4
// ids where fragments are forbidden, and which of the two zeros of one's
// complement a checksum is.
func normal(frame []byte) []byte {
	l, ok := parse(frame)
	if !ok || !l.plain {
		return frame
	}
	frame = bytes.Clone(frame[:l.end])
	if !l.v6 {
		if frame[l.ip+6]&0x40 != 0 {
			frame[l.ip+4], frame[l.ip+5] = 0, 0
			frame[l.ip+10], frame[l.ip+11] = 0, 0
		} else if be.Uint16(frame[l.ip+10:]) == 0xffff {
			frame[l.ip+10], frame[l.ip+11] = 0, 0
		}
	}
	if l.proto == protoTCP && be.Uint16(frame[l.check():]) == 0xffff {
		frame[l.check()], frame[l.check()+1] = 0, 0
	}
	return frame
}

// TestCoalesceEveryBit changes each bit of the headers of a second frame. Few
// leave it joinable.
func TestCoalesceEveryBit(t *testing.T) {
	for name, f := range map[string]*flow{"tcp4": tcp4(), "tcp6": tcp6(), "udp4": udp4(), "udp6": udp6()} {
		f.id = 8
		f.tags = []byte{0x81, 0, 0, 5}
		first, second := f.frame(100), f.frame(100)
		l, _ := parse(second)
		may := make(map[int]byte) // bits that may change, by offset
		if l.v6 {
			may[l.ip+4], may[l.ip+5] = 0xff, 0xff // a length that is less: padding follows
		} else {
			may[l.ip+2], may[l.ip+3] = 0xff, 0xff
			may[l.ip+5] = 1                         // id as in the first frame
			may[l.ip+10], may[l.ip+11] = 0xff, 0xff // corrected below
		}
		may[l.check()], may[l.check()+1] = 0xff, 0xff
		if !f.udp {
			may[l.l4+13] = flagFIN | flagPSH
		}
		for bit := range l.data * 8 {
			at, mask := bit/8, byte(1<<(bit%8))
			frame := bytes.Clone(second)
			frame[at] ^= mask
			fl, ok := parse(frame)
			if ok && fl.plain {
				setChecksums(frame)
			}
			packets := coalesce(&Coalescer{UDP: true}, [][]byte{first, frame})
			if len(packets) == 1 && may[at]&mask == 0 {
				t.Errorf("%s: joined with bit %#02x of byte %d changed", name, mask, at)
			}
			if len(packets) == 2 && (at >= l.check() && at < l.check()+2 || may[at] == flagFIN|flagPSH && may[at]&mask != 0) {
				t.Errorf("%s: not joined with bit %#02x of byte %d changed", name, mask, at)
			}
			// Even if the keys of two flows are the same.
			if fl == l && may[at]&mask == 0 {
				g := &group{layout: l, n: 1, seq: be.Uint32(first[l.l4+4:]) + 100, id: 8}
				if _, ok := g.continues(first, frame); ok && l.joinable(frame) {
					t.Errorf("%s: continues with bit %#02x of byte %d changed", name, mask, at)
				}
			}
		}
	}
}

// TestJoinStrangers joins frames of different kinds, as if their flows had the
// same key.
func TestJoinStrangers(t *testing.T) {
	flows := []*flow{tcp4(), tcp6(), udp4(), udp6()}
	for _, f := range flows[:4] {
		flows = append(flows,
			f.with(func(f *flow) { f.tags = []byte{0x81, 0, 0, 5} }),
			f.with(func(f *flow) { f.opts = nil }))
	}
	for i, f := range flows {
		for k, g := range flows {
			a, b := f.frame(1), slices.Clip(g.frame(1))
			la, _ := parse(a)
			lb, _ := parse(b)
			if i == k || la == lb {
				continue
			}
			var c Coalescer
			c.begin(a, &la)
			c.openLast(0)
			if _, ok := c.join(&c.groups[0], b, &lb); ok {
				t.Errorf("%x was joined with %x", b, a)
			}
		}
	}
}

func TestCoalesceUDP(t *testing.T) {
	t.Run("no checksum", func(t *testing.T) {
		f := udp4()
		frames := [][]byte{f.frame(10), f.frame(10), f.frame(10), f.frame(10)}
		for _, f := range frames[:3] {
			f[14+20+6], f[14+20+7] = 0, 0
		}
		checkPackets(t, coalesce(&Coalescer{UDP: true}, frames), frames, []int{1, 1, 1, 1})
	})
	t.Run("length is not the frame's", func(t *testing.T) {
		f := udp4()
		frames := [][]byte{f.frame(10), f.frame(10), f.frame(10)}
		frames[1][14+20+5]--
		checkPackets(t, coalesce(&Coalescer{UDP: true}, frames), frames, []int{1, 1, 1})
	})
}

func TestCoalesceSizes(t *testing.T) {
	tcp, udp := map[string]*flow{"4": tcp4(), "6": tcp6()}, map[string]*flow{"4": udp4(), "6": udp6()}
	for _, tt := range []struct {
		name  string
		flows map[string]*flow
		sizes []int
		want  []int
	}{
		{"pure acknowledgements", tcp, []int{0, 0}, []int{1, 1}},
		{"acknowledgement between", tcp, []int{100, 0, 100}, []int{1, 1, 1}},
		{"last is shorter", tcp, []int{100, 100, 1, 1}, []int{3, 1}},
		{"growing", tcp, []int{99, 100, 100}, []int{1, 2}},
		{"as long as a packet", tcp, slices.Repeat([]int{1448}, 50), []int{45, 5}},
		{"jumbo frames", tcp, slices.Repeat([]int{8948}, 8), []int{7, 1}},
		{"small", tcp, slices.Repeat([]int{1}, 300), []int{128, 128, 44}},
		{"UDP, equal", udp, []int{100, 100, 100}, []int{3}},
		{"UDP, last is shorter", udp, []int{100, 100, 99, 99}, []int{3, 1}},
		{"UDP, growing", udp, []int{100, 101, 101}, []int{1, 2}},
		{"UDP, empty", udp, []int{0, 0}, []int{1, 1}},
		{"UDP, empty at the end", udp, []int{10, 10, 0, 10}, []int{2, 1, 1}},
		{"UDP, as many as the kernel takes", udp, slices.Repeat([]int{10}, 130), []int{64, 64, 2}},
		{"UDP, as long as a packet", udp, slices.Repeat([]int{1472}, 50), []int{44, 6}},
	} {
		for version, f := range tt.flows {
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				var frames [][]byte
				for _, n := range tt.sizes {
					frames = append(frames, f.frame(n))
				}
				checkPackets(t, coalesce(&Coalescer{UDP: true}, frames), frames, tt.want)
				want := tt.want
				if f.udp { // it is not joined
					want = slices.Repeat([]int{1}, len(frames))
				}
				checkPackets(t, coalesce(&Coalescer{}, frames), frames, want)
			})
		}
	}
}

// TestCoalesceBad gives frames that are not what they should be.
func TestCoalesceBad(t *testing.T) {
	tests := []struct {
		name   string
		change func(frame []byte) []byte
	}{
		{"IP checksum", func(b []byte) []byte { b[14+10]++; return b }},
		{"TCP checksum", func(b []byte) []byte { b[14+20+16]++; return b }},
		{"payload", func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"total length too large", func(b []byte) []byte { b[14+3]++; return b }},
		{"total length too small", func(b []byte) []byte { b[14+2], b[14+3] = 0, 39; return b }},
		{"TCP header too long", func(b []byte) []byte { b[14+20+12] = 0xf0; return b[:14+20+40] }},
		{"TCP header too short", func(b []byte) []byte { b[14+20+12] = 0x40; return b }},
		{"IP header too short", func(b []byte) []byte { b[14] = 0x44; return b }},
		{"IP version", func(b []byte) []byte { b[14] = 0x65; return b }},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }},
		{"cut in the TCP header", func(b []byte) []byte { return b[:14+20+19] }},
		{"cut in the IP header", func(b []byte) []byte { return b[:14+19] }},
		{"cut in the Ethernet header", func(b []byte) []byte { return b[:13] }},
		{"cut in a VLAN tag", func(b []byte) []byte { b[12], b[13] = 0x81, 0; return b[:17] }},
		{"empty", func(b []byte) []byte { return b[:0] }},
		{"IEEE 802.3 length", func(b []byte) []byte { b[12], b[13] = 0, 100; return b }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for bad := range 3 { // which frame of four it is
				var frames [][]byte
				f := tcp4()
				for range 4 {
					frames = append(frames, f.frame(100))
				}
				frames[bad] = tt.change(frames[bad])
				want := [][]int{{1, 3}, {1, 1, 2}, {2, 1, 1}}[bad]
				got := coalesce(&Coalescer{}, frames)
				checkPackets(t, got, frames, want)
			}
		})
	}
}

// TestCoalescePadding: short frames are filled up to 60 bytes on real networks.
func TestCoalescePadding(t *testing.T) {
	f := tcp4().with(func(f *flow) { f.opts = nil })
	pad := func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xaa}, 60-len(b))...) }
	a, b, single := f.frame(4), f.frame(3), f.frame(1)
	packets := coalesce(&Coalescer{}, [][]byte{pad(a), pad(b), pad(single)})
	checkPackets(t, packets, [][]byte{a, b, pad(single)}, []int{2, 1})
}

// TestCoalesceFlows mixes flows: they do not disturb each other, as long as
// they are few.
func TestCoalesceFlows(t *testing.T) {
	for _, n := range []int{1, 2, maxOpen, maxOpen + 1} {
		var flows []*flow
		for i := range n {
			f := tcp4()
			if i%2 == 1 {
				f = tcp6()
			}
			f.port += uint16(i)
			flows = append(flows, f)
		}
		var c Coalescer
		for range 10 {
			for _, f := range flows {
				c.Add(f.frame(100))
			}
		}
		want := n
		if n > maxOpen {
			want = n * 10 // each packet waited in vain
		}
		if got := len(c.Flush()); got != want {
			t.Errorf("%d flows: %d packets, want %d", n, got, want)
		}
	}
}

// TestFlush begins a new batch with each call.
func TestFlush(t *testing.T) {
	var c Coalescer
	f := tcp4()
	if got := c.Flush(); len(got) != 0 {
		t.Errorf("nothing added: %d packets", len(got))
	}
	for range 3 {
		frames := [][]byte{f.frame(100), f.frame(100)}
		checkPackets(t, coalesce(&c, frames), frames, []int{2})
		if got := c.Flush(); len(got) != 0 {
			t.Errorf("nothing added since: %d packets", len(got))
		}
	}
}

// TestCanonical cuts what was joined, for flows as kernels send them: the
// frames must be the same, byte for byte.
func TestCanonical(t *testing.T) {
	for _, tt := range segmentTests {
		if tt.flow.flags&flagCWR != 0 || tt.flow.ipOpts != nil {
			continue
		}
		frames := wantFrames(tt.flow, tt.n, tt.size)
		want := []int{}
		limit := maxJoinTCP
		if tt.flow.udp {
			limit = maxJoinUDP
		}
		for n := len(frames); n > 0; n -= limit {
			want = append(want, min(n, limit))
		}
		t.Run(tt.name, func(t *testing.T) {
			checkPackets(t, coalesce(&Coalescer{UDP: true}, frames), frames, want)
		})
	}
}

func TestCoalesceAllocs(t *testing.T) {
	c := Coalescer{UDP: true}
	batch := newBatch(tcp4(), 44, 1448)
	if n := testing.AllocsPerRun(1000, func() {
		if got := batch.run(&c); got != 1 {
			t.Errorf("%d packets, want 1", got)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A batch of frames can be joined again and again.
type batch struct {
	frames [][]byte
	head   []byte // of the first frame, which Flush changes
}

func newBatch(f *flow, n, size int) *batch {
	b := &batch{}
	for range n {
		b.frames = append(b.frames, f.frame(size))
	}
	b.head = bytes.Clone(b.frames[0][:min(len(b.frames[0]), 100)])
	return b
}

func (b *batch) run(c *Coalescer) (packets int) {
	copy(b.frames[0], b.head)
	for _, f := range b.frames {
		c.Add(f)
	}
	return len(c.Flush())
}

func BenchmarkCoalesce(b *testing.B) {
	for _, tt := range []struct {
		name string
		flow *flow
		size int
	}{
		{"tcp4", tcp4(), 1448}, {"tcp6", tcp6(), 1428}, {"udp4", udp4(), 1448}, {"acks", tcp4(), 0},
	} {
		b.Run(tt.name, func(b *testing.B) {
			c := Coalescer{UDP: true}
			batch := newBatch(tt.flow, 44, tt.size)
			b.SetBytes(int64(44 * len(batch.frames[0])))
			b.ReportAllocs()
			for b.Loop() {
				batch.run(&c)
			}
		})
	}
}

// FuzzCoalesce adds frames that are written one after the other, each with its
// length in two bytes; if the highest bit is set and it makes sense, the
// frame's checksums are corrected. Cutting must give the same frames; a frame must not
// overtake one of its flow, nor one that may belong to any.
func FuzzCoalesce(f *testing.F) {
	add := func(fix uint16, frames ...[]byte) {
		var b []byte
		for _, f := range frames {
			b = append(be.AppendUint16(b, uint16(len(f))|fix), f...)
		}
		f.Add(b)
	}
	for _, f := range []*flow{tcp4(), tcp6(), udp4(), udp6()} {
		g := f.with(func(g *flow) { g.port++ })
		add(0x8000, f.frame(9), f.frame(9), f.frame(9), f.frame(4))
		add(0x8000, f.frame(9), g.frame(8), f.frame(9), g.frame(8), f.frame(9), g.frame(8))
		add(0, f.frame(9), f.frame(9), []byte{1, 2}, f.frame(9), f.frame(9))
		f.idStep = 0
		add(0, f.frame(9), f.frame(9), f.frame(9))
		f.tags = []byte{0x81, 0, 0, 1}
		add(0, f.frame(9), f.frame(9), f.frame(9))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var frames [][]byte
		for len(b) >= 2 {
			n := be.Uint16(b)
			b = b[2:]
			frame := slices.Clip(bytes.Clone(b[:min(int(n&0x7fff), len(b))]))
			b = b[len(frame):]
			if l, ok := parse(frame); ok && l.plain && n&0x8000 != 0 {
				setChecksums(frame)
			}
			frames = append(frames, frame)
		}
		c := Coalescer{UDP: true}
		waiting := make(map[string][]int) // indices of frames of each flow
		for i, frame := range frames {
			waiting[flowOf(frame)] = append(waiting[flowOf(frame)], i)
		}
		total := 0
		for _, p := range coalesce(&c, frames) {
			h, packet := decode(t, p)
			for _, got := range split(t, h, packet) {
				flow := flowOf(got)
				if len(waiting[flow]) == 0 {
					t.Fatalf("unknown frame %x", got)
				}
				i := waiting[flow][0]
				waiting[flow] = waiting[flow][1:]
				want := frames[i]
				if p.Frames > 1 {
					got, want = normal(got), normal(want)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("got frame\n%x, want\n%x", got, want)
				}
				if flow == "" && i != total {
					t.Fatalf("frame %d comes at place %d", i, total)
				}
				total++
			}
		}
		if total != len(frames) {
			t.Errorf("%d frames, want %d", total, len(frames))
		}
		for i, frame := range frames {
			frames[i] = frame[min(etherLen, len(frame)):]
		}
		total = 0
		for _, p := range coalesce(&Coalescer{UDP: true, IP: true}, frames) {
			total += p.Frames
		}
		if total != len(frames) {
			t.Errorf("%d IP packets, want %d", total, len(frames))
		}
	})
}

// flowOf names the flow of a frame. Frames that may belong to any have the
// name "".
func flowOf(frame []byte) string {
	l, ok := parse(frame)
	if !ok || !l.plain {
		return ""
	}
	addrs := frame[l.ip+12 : l.ip+ipv4Len]
	if l.v6 {
		addrs = frame[l.ip+8 : l.ip+ipv6Len]
	}
	return string(l.proto) + string(addrs) + string(frame[l.l4:l.l4+4])
}
