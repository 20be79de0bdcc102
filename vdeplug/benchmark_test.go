package vdeplug

import (
	"fmt"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
)

func BenchmarkParse(b *testing.B) {
	for _, vnl := range []string{"/run/vde.ctl", "vde:///run/switch[3]", "vxvde://234.0.0.1/port=14789/ttl=2", "cmd://vde_plug vde:///run/vde.ctl"} {
		b.Run(vnl, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(vnl); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTarget(b *testing.B) {
	for _, tt := range []struct {
		vnl   string
		parse func(Locator) (ParsedLocator, error)
	}{
		{"vde:///run/switch[3]", Locator.Bracketed},
		{"vxvde://234.0.0.1/port=14789/ttl=2", Locator.Slashed},
	} {
		l, err := Parse(tt.vnl)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(tt.vnl, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tt.parse(l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A turnback is a stream that returns to its sender.
type turnback struct{ r, w *os.File }

func (t turnback) Read(b []byte) (int, error)  { return t.r.Read(b) }
func (t turnback) Write(b []byte) (int, error) { return t.w.Write(b) }

func (t turnback) Close() error {
	t.w.Close()
	return t.r.Close()
}

func BenchmarkStream(b *testing.B) {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	benchTurnback(b, NewStream(turnback{r, w}))
}

// benchTurnback sends frames to where they come back from.
func benchTurnback(b *testing.B, c Conn) {
	b.Cleanup(func() { c.Close() })
	for _, size := range []int{60, 1514, ether.MaxFrame} {
		frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), size), make([]byte, ether.MaxFrame)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Send(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Recv(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
