package nic

import "time"

// DrainTime is how long to wait for a reader to catch up with an interface: only a few
// milliseconds, as a busy one does not fall silent by itself.
const DrainTime = 5 * time.Millisecond

// Drain waits until the reader of an interface has forwarded the backlog, but not much
// longer than limit.
func Drain(d interface{ Quiet() bool }, limit time.Duration) {
	const step = 100 * time.Microsecond
	for range limit / step {
		if d.Quiet() {
			return
		}
		time.Sleep(step)
	}
}
