package vdeplug

import (
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
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
		{"vde:///run/switch[3]", Locator.ParseBracketed},
		{"vxvde://234.0.0.1/port=14789/ttl=2", Locator.ParseSlashed},
	} {
		l, err := Parse(tt.vnl)
		testenv.Check(b, err)
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

// BenchmarkStream sends to itself.
func BenchmarkStream(b *testing.B) {
	r, w, err := os.Pipe()
	testenv.Check(b, err)
	c := NewStream(plugtest.Pipe(r, w))
	b.Cleanup(func() { c.Close() })
	benchPlugs(b, c, c, plugtest.Broadcast)
}
