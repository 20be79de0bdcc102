package backoff

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var timer Timer
		wait := func(want bool) time.Duration {
			begin := time.Now()
			if got := timer.Wait(ctx); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			return time.Since(begin) / time.Millisecond
		}
		var got []time.Duration
		for range 10 {
			got = append(got, wait(true))
		}
		timer.Reset()
		got = append(got, wait(true))
		if want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 5}; !slices.Equal(got, want) {
			t.Errorf("waits of %d ms, want %d", got, want)
		}
		time.AfterFunc(3*time.Millisecond, cancel)
		if got := wait(false); got != 3 {
			t.Errorf("it waited %d ms, and 3 ms until the end", got)
		}
		if got := wait(false); got != 0 {
			t.Errorf("it waited %d ms after the end", got)
		}
	})
}
