package vdeplug

import (
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func BenchmarkCmd(b *testing.B) {
	c := openPlug(b, "cmd://cat")
	benchPlugs(b, c, c, plugtest.Broadcast)
}

// BenchmarkTAP sends to an interface of the host; nothing there reads the frames.
func BenchmarkTAP(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("making an interface needs root")
	}
	c, err := Open("tap://vdebench0", nil)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { c.Close() })
	ip(b, "link set vdebench0 up")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		testenv.Check(b, c.Send(frame))
	}
}
