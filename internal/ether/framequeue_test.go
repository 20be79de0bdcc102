package ether

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// TestFrameQueue compares the queue with a list of frames.
func TestFrameQueue(t *testing.T) {
	testenv.Long(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	var (
		q    Queue
		list [][]byte
		used int
	)
	for step := range 40000 {
		// Fill for a while, then empty for a while.
		if fill := step/4000%2 == 0; rnd.IntN(10) < 4 || fill && rnd.IntN(2) == 0 {
			frame := make([]byte, []int{0, 14, 60, 1514, MaxFrame, 65549}[rnd.IntN(6)])
			for i := range min(len(frame), 100) {
				frame[i] = byte(rnd.Int())
			}
			size := QueueLenSize + len(frame)
			want := used+size <= QueueMax
			if got := q.Push(virtio.Header{HdrLen: uint16(len(frame))}, frame); got != want {
				t.Fatalf("push of %d bytes to %d: %v, want %v", len(frame), used, got, want)
			}
			if want {
				list, used = append(list, frame), used+size
			}
		} else if len(list) > 0 {
			buf := make([]byte, 10000)
			want := list[0]
			list, used = list[1:], used-QueueLenSize-len(want)
			h, n := q.Pop(buf)
			if h.HdrLen != uint16(len(want)) || n != len(want) || n <= len(buf) && !bytes.Equal(buf[:n], want) {
				t.Fatalf("pop: got %d bytes %.20x, want %d bytes %.20x", n, buf, len(want), want)
			}
		}
		if q.Empty() != (len(list) == 0) || q.used != used || len(q.ring) > QueueMax {
			t.Fatalf("%d bytes of %d used, want %d", q.used, len(q.ring), used)
		}
	}
}
