package packet

import (
	"runtime"
	"time"
)

// turnTime is how long a busy goroutine moves packets before it lets others run.
const turnTime = 200 * time.Microsecond

// A Turn limits how long a goroutine moves packets before it lets others run. It counts
// time, as the cost of a packet depends on its size and on the number of its receivers. It
// serves one goroutine.
type Turn struct {
	begun, spent time.Duration
}

var epoch = time.Now()

// Begin says that work begins.
func (t *Turn) Begin() { t.begun = time.Since(epoch) }

// End says that some work is done, and that more begins. It lets others run if there was
// enough of it.
func (t *Turn) End() {
	if t.Over() {
		t.Yield()
	}
}

// Over is End that only reports whether there was enough work; if so, the caller calls
// Yield.
func (t *Turn) Over() bool {
	now := time.Since(epoch)
	t.spent += now - t.begun
	t.begun = now
	return t.spent >= turnTime
}

// Yield lets others run.
func (t *Turn) Yield() {
	runtime.Gosched()
	t.spent, t.begun = 0, time.Since(epoch)
}
