// Package backoff waits after errors of a listener or socket that may go away, such as EMFILE, so
// that a loop neither ends nor spins.
package backoff

import (
	"context"
	"time"
)

const (
	first = 5 * time.Millisecond
	most  = time.Second
)

// A Timer waits after errors in a row, each time twice as long. The zero Timer waits 5 ms first, and
// 1 s at most. It is for one goroutine.
type Timer struct{ last time.Duration }

// Wait reports false as soon as ctx is done.
func (t *Timer) Wait(ctx context.Context) bool {
	t.last = min(max(2*t.last, first), most)
	c := time.NewTimer(t.last)
	defer c.Stop()
	select {
	case <-c.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Reset begins anew, after what was no error.
func (t *Timer) Reset() { t.last = 0 }
