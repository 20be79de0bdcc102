package plugtest

import (
	"bytes"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// Collect receives packets until the frames have come, in order.
func Collect(t *testing.T, c packet.Transport, want [][]byte) {
	t.Helper()
	stop := time.AfterFunc(testenv.Timeout, func() { c.Close() })
	defer stop.Stop()
	var b packet.Buffer
	defer b.Release()
	for n := 0; n < len(want); {
		packets, err := c.RecvPackets(&b)
		if err != nil {
			t.Fatalf("frame %d of %d: %v", n, len(want), err)
		}
		for _, p := range packets {
			for _, frame := range packettest.Frames(t, p) {
				if n == len(want) || !bytes.Equal(frame, want[n]) {
					t.Fatalf("frame %d of %d is another, of %d bytes: %.64x", n, len(want), len(frame), frame)
				}
				n++
			}
		}
	}
}
