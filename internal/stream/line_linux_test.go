package stream

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// FuzzVDESL receives any bytes, and returns complete frames only.
func FuzzVDESL(f *testing.F) {
	f.Add([]byte{0, 3, 1, 2, 3, 0, 0, 0, 1, 9, 0xff, 0xff, 1, 2})
	f.Add([]byte{0, 3, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, w, err := os.Pipe()
		testenv.Check(t, err)
		defer r.Close()
		if len(b) > 60000 {
			return // the room in a pipe
		}
		w.Write(b)
		w.Close()
		s := &line{f: r, in: make([]byte, 0, lineBuffer), dropped: new(atomic.Uint64)}
		var got []byte
		buf := make([]byte, 1000)
		for err == nil {
			var n int
			n, err = s.Read(buf)
			got = append(got, buf[:n]...)
		}
		want := b
		for rest := b; ; {
			if len(rest) < 2 || int(binary.BigEndian.Uint16(rest)) > min(len(rest)-2, maxFrame) {
				want = b[:len(b)-len(rest)]
				break
			}
			rest = rest[2+int(binary.BigEndian.Uint16(rest)):]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes of %d, want %d, %v", len(got), len(b), len(want), err)
		}
	})
}
