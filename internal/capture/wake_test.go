package capture

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
)

// A slowWriter takes a random time.
type slowWriter struct {
	r     *rand.Rand
	bytes int
}

func (w *slowWriter) Write(b []byte) (int, error) {
	if n := w.r.IntN(3); n > 0 {
		time.Sleep(time.Duration(n) * time.Microsecond)
	}
	w.bytes += len(b)
	return len(b), nil
}

// TestWakes records from several goroutines, which come and go, with pauses in
// which all is written. A writer that sleeps though there is something would end the
// bubble.
func TestWakes(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			w := &slowWriter{r: rand.New(rand.NewPCG(seed, 0))}
			frame := make([]byte, 100)
			var all sync.WaitGroup
			for n := range uint64(4) {
				r := rand.New(rand.NewPCG(seed, n+1))
				all.Go(func() {
					i := Open(w, "vde0", "", nil)
					for range 50 {
						if r.IntN(2) == 0 {
							i.Frame(true, frame)
						} else {
							i.Packets(false, []packet.Packet{{Data: frame}, {Data: frame}})
						}
						time.Sleep(time.Duration(r.IntN(4)) * time.Microsecond)
					}
					before := time.Now()
					if err := i.Close(); err != nil || time.Since(before) >= stallTime {
						t.Errorf("Close: %v after %v", err, time.Since(before))
					}
				})
			}
			all.Wait()
			if w.bytes < 4*50*len(frame) {
				t.Errorf("%d bytes were written", w.bytes)
			}
		})
	}
}
