package virtio

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestParse(t *testing.T) {
	hop := []byte{0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	tests := []struct {
		name string
		flow *flow
		want layout
	}{
		{"tcp4", tcp4(), layout{ip: 14, l4: 34, data: 66, end: 69, proto: 6, plain: true}},
		{"tcp6", tcp6(), layout{ip: 14, l4: 54, data: 86, end: 89, proto: 6, plain: true, v6: true}},
		{"udp4", udp4(), layout{ip: 14, l4: 34, data: 42, end: 45, proto: 17, plain: true}},
		{"udp6", udp6(), layout{ip: 14, l4: 54, data: 62, end: 65, proto: 17, plain: true, v6: true}},
		{"VLAN", udp4().with(func(f *flow) { f.tags = []byte{0x81, 0, 0, 1} }), layout{ip: 18, l4: 38, data: 46, end: 49, proto: 17, plain: true}},
		{"VLAN in VLAN", udp4().with(func(f *flow) { f.tags = []byte{0x88, 0xa8, 0, 1, 0x81, 0, 0, 1} }),
			layout{ip: 22, l4: 42, data: 50, end: 53, proto: 17, plain: true}},
		{"IPv4 options", tcp4().with(func(f *flow) { f.ipOpts = []byte{1, 1, 1, 0} }), layout{ip: 14, l4: 38, data: 70, end: 73, proto: 6}},
		{"hop-by-hop options", udp6().with(func(f *flow) { f.ipOpts = hop }), layout{ip: 14, l4: 70, data: 78, end: 81, proto: 17, v6: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frame := tt.flow.frame(3)
			if l, ok := parse(frame); !ok || l != tt.want {
				t.Fatalf("got %+v, %v, want %+v", l, ok, tt.want)
			}
			if l, ok := parse(append(frame, "padding"...)); !ok || l != tt.want {
				t.Errorf("padded: got %+v, %v, want %+v", l, ok, tt.want)
			}
			// Every frame that is cut, with lengths that know it and lengths
			// that do not. What is read behind the end panics.
			for n := range len(frame) {
				cut := slices.Clip(bytes.Clone(frame[:n]))
				if _, ok := parse(cut); ok {
					t.Errorf("%d of %d bytes were taken", n, len(frame))
				}
				if n >= tt.want.ip+6 {
					length, base := cut[tt.want.ip+2:], n-tt.want.ip
					if tt.want.v6 {
						length, base = cut[tt.want.ip+4:], max(0, base-ipv6Len)
					}
					be.PutUint16(length, uint16(base))
				}
				l, ok := parse(cut)
				if want := tt.want.proto == protoTCP && n >= tt.want.data; ok != want || ok && l.end != n {
					t.Errorf("%d of %d bytes, lengths corrected: got %+v, %v, want %v", n, len(frame), l, ok, want)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name   string
		flow   *flow
		change func(frame []byte)
	}{
		{"IPv4 header of 16 bytes", udp4(), func(b []byte) {
			b[14] = 0x44
			copy(b[14+16:], []byte{0, 1, 0, 2, 0, 15, 0, 0})
		}},
		{"IPv4 header beyond the packet", udp4(), func(b []byte) { b[14] = 0x4f }},
		{"IPv4 with version 6", udp4(), func(b []byte) { b[14] = 0x65 }},
		{"IPv6 with version 4", udp6(), func(b []byte) { b[14] = 0x40 }},
		{"TCP header beyond the packet", tcp4(), func(b []byte) { b[14+20+12] = 0xf0 }},
		{"TCP header of 16 bytes", tcp4(), func(b []byte) { b[14+20+12] = 0x40 }},
		{"UDP length too small", udp4(), func(b []byte) { b[14+20+5]-- }},
		{"UDP length too large", udp4(), func(b []byte) { b[14+20+5]++ }},
		{"extension header beyond the packet", udp6(), func(b []byte) { b[14+6], b[14+40+1] = 0, 255 }},
		{"IPv6 fragment", udp6(), func(b []byte) { b[14+6] = 44 }},
		{"jumbogram", tcp6(), func(b []byte) { b[14+4], b[14+5] = 0, 0 }},
		{"first fragment", udp4(), func(b []byte) { b[14+6] = 0x20 }},
		{"last fragment", udp4(), func(b []byte) { b[14+7] = 1 }},
		{"ICMP", udp4(), func(b []byte) { b[14+9] = 1 }},
		{"three VLAN tags", udp4().with(func(f *flow) { f.tags = bytes.Repeat([]byte{0x81, 0, 0, 5}, 3) }), func([]byte) {}},
		{"ARP", udp4(), func(b []byte) { b[13] = 6 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frame := slices.Clip(tt.flow.frame(3))
			tt.change(frame)
			if l, ok := parse(frame); ok {
				t.Errorf("%x was taken as %+v", frame, l)
			}
		})
	}
}

// TestIP cuts and joins IP packets without Ethernet headers: the result is that with them,
// less the headers.
func TestIP(t *testing.T) {
	ip := Segmenter{IP: true}
	for _, tt := range segmentTests {
		if tt.flow.tags != nil {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			h, packet := tt.flow.with(func(*flow) {}).packet(tt.n, tt.size)
			if tt.ecn {
				h.GSOType |= GSOECN
			}
			want := split(t, h, bytes.Clone(packet))
			joined := len(coalesce(&Coalescer{UDP: true}, want))
			for i := range want {
				want[i] = want[i][etherLen:]
			}
			h.CsumStart -= min(h.CsumStart, etherLen)
			h.HdrLen -= min(h.HdrLen, etherLen)
			got := join(testenv.Must(ip.Split(h, packet[etherLen:], 0))(t), 0)
			equalFrames(t, got, want)

			c := Coalescer{UDP: true, IP: true}
			packets := coalesce(&c, got)
			if len(packets) != joined {
				t.Errorf("joined to %d packets, with Ethernet headers to %d", len(packets), joined)
			}
			for _, p := range packets {
				h, data := decode(t, p)
				equalFrames(t, join(testenv.Must(ip.Split(h, data, 0))(t), 0), got[:p.Frames])
				got = got[p.Frames:]
			}
			if len(got) > 0 {
				t.Errorf("%d packets are missing", len(got))
			}
		})
	}
	for _, p := range [][]byte{nil, {0x45}, {0x60}, make([]byte, 100)} {
		if _, ok := parseIP(p); ok {
			t.Errorf("%x is a packet", p)
		}
	}
}
