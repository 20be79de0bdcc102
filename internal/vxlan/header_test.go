package vxlan

import (
	"bytes"
	_ "embed"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
)

// Packets of other implementations.
var (
	//go:embed testdata/vxvde.txt
	vxvdeCapture string
	//go:embed testdata/vxlan.txt
	vxlanCapture string
)

func TestHeader(t *testing.T) {
	own := makeHeader(0x123456)
	if want := (header{8, 0, 0, 0, 0x12, 0x34, 0x56, 0}); own != want {
		t.Errorf("header % x, want % x", own, want)
	}
	for _, tt := range []struct {
		name     string
		classify func(own, got *header, n int) packetKind
		ignored  [8]byte // bits
		kinds    map[int]packetKind
	}{
		{"vxvde", classifyVXVDE, [8]byte{}, map[int]packetKind{
			0: kindForeign, 7: kindForeign, 8: kindBye, 9: kindShort, 12: kindShort, 8 + 14: kindShort,
			8 + 15: kindFrame, 8 + 60: kindFrame, 65507: kindFrame,
		}},
		{"vxlan", classifyVXLAN, [8]byte{0xf7, 0xff, 0xff, 0xff, 0, 0, 0, 0xff}, map[int]packetKind{
			0: kindForeign, 7: kindForeign, 8: kindShort, 8 + 13: kindShort, 8 + 14: kindFrame, 65507: kindFrame,
		}},
	} {
		for i, ignored := range tt.ignored {
			for bit := byte(1); bit != 0; bit <<= 1 {
				got := own
				got[i] ^= bit
				want := kindForeign
				if ignored&bit != 0 {
					want = kindFrame
				}
				if kind := tt.classify(&own, &got, 100); kind != want {
					t.Errorf("%s: bit %#x of byte %d differs: kind %d, want %d", tt.name, bit, i, kind, want)
				}
			}
		}
		for n, want := range tt.kinds {
			if got := tt.classify(&own, &own, n); got != want {
				t.Errorf("%s: %d bytes: kind %d, want %d", tt.name, n, got, want)
			}
		}
	}
}

// FuzzVXVDEPacket compares the decoder with the rule in other words.
func FuzzVXVDEPacket(f *testing.F) {
	for _, p := range plugtest.Captured(f, vxvdeCapture) {
		f.Add(p)
	}
	f.Add([]byte{8, 0, 0, 0, 0, 0, 2, 0, 1})
	own := makeHeader(1)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var got header
		n := copy(got[:], packet)
		kind := classifyVXVDE(&own, &got, len(packet))
		frame, ours := bytes.CutPrefix(packet, own[:])
		switch {
		case kind == kindForeign && ours, kind != kindForeign && !ours:
			t.Errorf("% x: kind %d", packet[:n], kind)
		case kind == kindFrame && len(frame) <= ether.HeaderLen, kind == kindBye && len(frame) > 0:
			t.Errorf("frame of %d bytes: kind %d", len(frame), kind)
		}
	})
}

// FuzzVXLANPacket compares the decoder with the rule in other words.
func FuzzVXLANPacket(f *testing.F) {
	f.Add(plugtest.Captured(f, vxlanCapture)["arp"])
	f.Add([]byte{8, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 8, 0})
	f.Add([]byte{0xff, 1, 1, 1, 0, 0, 1, 1})
	own := makeHeader(1)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var got header
		copy(got[:], packet)
		kind := classifyVXLAN(&own, &got, len(packet))
		ours := len(packet) >= 8 && packet[0]>>3&1 == 1 && packet[4] == 0 && packet[5] == 0 && packet[6] == 1
		switch {
		case (kind == kindForeign) == ours, kind == kindBye, (kind == kindFrame) != (ours && len(packet) >= 22):
			t.Errorf("% .10x, %d bytes: kind %d", packet, len(packet), kind)
		}
	})
}
