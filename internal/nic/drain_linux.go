package nic

import "time"

// DrainTime is how long to wait for a reader to catch up with an interface: only a few
// milliseconds, as a busy one does not fall silent by itself.
const DrainTime = 5 * time.Millisecond

// Drain waits until the reader of an interface has forwarded the backlog, but not much
// longer than limit.
func Drain(d interface{ Quiet() bool }, limit time.Duration) {
	// A sleep takes longer than asked for, by a millisecond on a busy machine: so there
	// are few of them, but enough for the reader to have its turns.
	const step = 100 * time.Microsecond
	most := max(step, limit/50)
	for left, step := limit, step; left > 0 && !d.Quiet(); left, step = left-step, min(2*step, most) {
		time.Sleep(step)
	}
}
