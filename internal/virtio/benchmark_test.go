package virtio

import (
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func BenchmarkHeader(b *testing.B) {
	h := Header{Flags: FlagNeedsCsum, GSOType: GSOTCPv4, HdrLen: 66, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	buf := make([]byte, HeaderLen)
	b.ReportAllocs()
	for b.Loop() {
		h.Encode(buf)
		testenv.Check(b, h.Decode(buf))
	}
}
