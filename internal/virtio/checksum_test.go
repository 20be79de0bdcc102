package virtio

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestSum(t *testing.T) {
	// The example of RFC 1071, section 3.
	if got := sum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != 0xddf2 {
		t.Errorf("got %#x, want 0xddf2", got)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 70000)
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	for name, b := range map[string][]byte{
		"zeros":  make([]byte, len(random)),
		"ones":   bytes.Repeat([]byte{0xff}, len(random)),
		"carry":  bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}, len(random)/8),
		"random": random,
	} {
		for _, from := range []int{0, 1, 3} {
			for n := range 300 {
				if got, want := sum(b[from:from+n]), slowSum(b[from:from+n]); got != want {
					t.Fatalf("%s, %d bytes from %d: got %#x, want %#x", name, n, from, got, want)
				}
			}
			for _, n := range []int{1499, 1500, 9000, 65535, 65536} {
				if got, want := sum(b[from:from+n]), slowSum(b[from:from+n]); got != want {
					t.Errorf("%s, %d bytes from %d: got %#x, want %#x", name, n, from, got, want)
				}
			}
		}
	}
}

func TestFold(t *testing.T) {
	for _, tt := range []struct {
		in   uint32
		want uint16
	}{{0, 0}, {1, 1}, {0xffff, 0xffff}, {0x10000, 1}, {0x1ffff, 1}, {0x1fffe, 0xffff}, {0xffff0000, 0xffff}, {0xffffffff, 0xffff}, {0xfffeffff, 0xfffe}} {
		if got := fold(tt.in); got != tt.want {
			t.Errorf("%#x: got %#x, want %#x", tt.in, got, tt.want)
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := sum(b), slowSum(b); got != want {
			t.Errorf("got %#x, want %#x", got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{40, 1500, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := bytes.Repeat([]byte{0x12, 0x34, 0x56, 0x78}, n/4)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				sum(buf)
			}
		})
	}
}
