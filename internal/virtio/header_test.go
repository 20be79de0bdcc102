package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// captured is what a TAP of Linux 6.18 on amd64 gives before a packet of IPv4 TCP
// with timestamps, at an MTU of 1500.
var captured = []byte{0x01, 0x01, 0x42, 0x00, 0xa8, 0x05, 0x22, 0x00, 0x10, 0x00}

func TestHeader(t *testing.T) {
	want := Header{Flags: FlagNeedsCsum, GSOType: GSOTCPv4, HdrLen: 66, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	b := bytes.Clone(captured)
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		for i := 2; i < len(b); i += 2 {
			b[i], b[i+1] = b[i+1], b[i]
		}
	}
	var h Header
	if err := h.Decode(b); err != nil || h != want {
		t.Errorf("got %+v, %v, want %+v", h, err, want)
	}
	out := make([]byte, HeaderLen)
	want.Encode(out)
	if !bytes.Equal(out, b) {
		t.Errorf("got %x, want %x", out, b)
	}
	if err := h.Decode(b[:HeaderLen-1]); err == nil || h != want {
		t.Errorf("9 bytes: got %+v, %v, want an error and no change", h, err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(captured)
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		err := h.Decode(b)
		if (err == nil) != (len(b) >= HeaderLen) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if err != nil {
			return
		}
		out := make([]byte, HeaderLen)
		if h.Encode(out); !bytes.Equal(out, b[:HeaderLen]) {
			t.Errorf("got %x, want %x", out, b[:HeaderLen])
		}
	})
}

func BenchmarkHeader(b *testing.B) {
	h := Header{Flags: FlagNeedsCsum, GSOType: GSOTCPv4, HdrLen: 66, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	buf := make([]byte, HeaderLen)
	b.ReportAllocs()
	for b.Loop() {
		h.Encode(buf)
		testenv.Check(b, h.Decode(buf))
	}
}
