package teardown

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestGo has more to do than is done at once: Go does not wait, Wait does, and
// no goroutine stays, which the bubble would report.
func TestGo(t *testing.T) {
	const count = 100
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			var now, most, done atomic.Int32
			for range count {
				Go(func() {
					n := now.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					time.Sleep(time.Second)
					now.Add(-1)
					done.Add(1)
				})
			}
			if n := done.Load(); n != 0 {
				t.Errorf("Go has waited: %d are done", n)
			}
			start := time.Now()
			Wait()
			if n := done.Load(); n != count {
				t.Errorf("%d of %d are done after Wait", n, count)
			}
			if n := most.Load(); n != workers {
				t.Errorf("%d at once, want %d", n, workers)
			}
			if took, want := time.Since(start), count/workers*time.Second; took != want {
				t.Errorf("took %v, want %v", took, want)
			}
		})
	}
	Wait() // there is nothing
}

// TestWithin waits for what ends in time, and leaves what does not.
func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		takes, want time.Duration
		ended       bool
	}{
		{0, 0, true},
		{Limit / 2, Limit / 2, true},
		{time.Hour, Limit, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			if ended := Within(func() { time.Sleep(tt.takes) }); ended != tt.ended {
				t.Errorf("%v: ended is %v", tt.takes, ended)
			}
			if took := time.Since(start); took != tt.want {
				t.Errorf("%v: waited %v, want %v", tt.takes, took, tt.want)
			}
			time.Sleep(tt.takes) // it ends by itself
		})
	}
}
