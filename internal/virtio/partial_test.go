package virtio

import (
	"testing"
)

func TestPartial(t *testing.T) {
	for _, tt := range segmentTests {
		if tt.ecn {
			continue
		}
		h, packet := tt.flow.with(func(*flow) {}).packet(tt.n, tt.size)
		l, ok := parse(packet)
		if !ok || h.Flags&FlagNeedsCsum == 0 || !l.plain {
			if got := Partial(packet, 1500); got != (Header{}) {
				t.Errorf("%s: got %+v", tt.name, got)
			}
			continue
		}
		want := Header{Flags: FlagNeedsCsum, CsumStart: h.CsumStart, CsumOffset: h.CsumOffset}
		if l.proto == protoTCP && tt.n > tt.size {
			want.GSOType, want.GSOSize, want.HdrLen = h.GSOType, uint16(tt.size), uint16(l.data)
		}
		if got := Partial(packet, tt.size+l.data-l.ip); got != want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, want)
		}
		// Those that are complete say nothing.
		for _, frame := range split(t, h, packet) {
			got := Partial(frame, 1500)
			if got == (Header{}) {
				continue
			}
			// One in 65536 is as if it were not. Making it again is harmless.
			before := string(frame)
			if err := complete(got, frame); err != nil || string(frame) != before {
				t.Errorf("%s: a complete frame was changed, %v", tt.name, err)
			}
		}
	}
}

// FuzzPartial takes any packet: what it says can be done.
func FuzzPartial(f *testing.F) {
	for _, tt := range segmentTests {
		_, packet := tt.flow.with(func(*flow) {}).packet(tt.n, tt.size)
		f.Add(packet, 1430)
	}
	f.Fuzz(func(t *testing.T, packet []byte, mtu int) {
		h := Partial(packet, min(mtu, 65535))
		if h == (Header{}) {
			return
		}
		var s Segmenter
		segments, err := s.Split(h, packet, 0)
		switch {
		case err == errGSOSize:
			return // too many
		case err != nil:
			t.Fatalf("%+v: %v", h, err)
		}
		l, _ := parse(packet)
		for _, g := range segments {
			if n := len(g.Head) + len(g.Data) - l.ip; h.GSOType != GSONone && n > mtu {
				t.Fatalf("%+v: a frame of %d bytes, want %d at most", h, n, mtu)
			}
		}
	})
}
