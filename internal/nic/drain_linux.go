package nic

import "time"

// DrainTime is how long to wait for the reader of an interface to have its turn. On a machine
// that is not busy it comes at once.
const DrainTime = 50 * time.Millisecond

// backlog is more packets than an interface or a packet socket keeps.
const backlog = 4096

// Drain waits until the reader of an interface has forwarded the backlog, but not much longer
// than limit. The interface may never fall silent, as one that forwards: but once so much is
// read, the backlog was.
func Drain(d *Device, limit time.Duration) {
	// A sleep takes longer than asked for, by a millisecond on a busy machine: so there
	// are few of them, but enough for the reader to have its turns.
	const step = 100 * time.Microsecond
	most := max(step, limit/50)
	start := d.taken.Load()
	for left, step := limit, step; left > 0 && !d.Quiet() && d.taken.Load()-start < backlog; left, step = left-step, min(2*step, most) {
		time.Sleep(step)
	}
}
