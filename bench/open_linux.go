package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// gap is the pause between stacks that are opened in series, in which a program
	// would use them.
	gap = 5 * time.Millisecond
	// rest is a pause after which the work for the first stack is complete.
	rest = 100 * time.Millisecond
	// alone is a pause after which ours has nothing ready for the next stack any more. The
	// others never have.
	alone = 1500 * time.Millisecond
	// recovery is a pause in which the kernel removes what an earlier worker had open:
	// until then nobody can make a namespace.
	recovery = 200 * time.Millisecond
)

// openWith has a new worker open stacks one after the other. It returns how long each
// took to get its first socket, and to close.
func (t *trial) openWith(count int, pause time.Duration) (opens, closes []int64, err error) {
	time.Sleep(recovery)
	w, err := t.start(t.contestant)
	if err != nil {
		return nil, nil, err
	}
	defer w.stop()
	// The paths must not be those of an earlier worker.
	vnl := strings.Replace(t.a, "%d", fmt.Sprintf("%d-%%d", len(t.workers)), 1)
	times, err := w.request(t.ctx, answerTime, 2*count, "open", count, pause.Milliseconds(), vnl)
	if err != nil {
		return nil, nil, err
	}
	return times[:count], times[count:], nil
}

// open measures how long stacks take to come and to go.
func (t *trial) open() error {
	for _, s := range []struct {
		metric string
		pause  time.Duration
	}{{"open_series", gap}, {"open_burst", 0}} {
		opens, closes, err := t.openWith(t.opens, s.pause)
		if err != nil {
			return err
		}
		t.record(s.metric, medianOf(opens[1:], time.Millisecond))
		if s.pause > 0 {
			t.record("close", medianOf(closes, time.Millisecond))
			t.record("close_max", float64(slices.Max(closes))/float64(time.Millisecond))
		}
	}
	// The first and the second stack of a process.
	var first, second, later []int64
	for range t.colds {
		opens, _, err := t.openWith(2, rest)
		if err != nil {
			return err
		}
		first, second = append(first, opens[0]), append(second, opens[1])
		if t.contestant == ours || t.contestant == oursTUN {
			if opens, _, err = t.openWith(2, alone); err != nil {
				return err
			}
		}
		later = append(later, opens[1])
	}
	t.record("open_first", medianOf(first, time.Millisecond))
	t.record("open", medianOf(second, time.Millisecond))
	t.record("open_alone", medianOf(later, time.Millisecond))
	return nil
}

// sockets measures how many sockets can be made, and connections.
func (t *trial) sockets() error {
	w, err := t.start(t.contestant)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		metric  string
		threads int
	}{{"sockets1", 1}, {"sockets8", 8}} {
		took, err := w.request(t.ctx, answerTime, 1, "sockets", t.plan.sockets, m.threads)
		if err != nil {
			return err
		}
		t.record(m.metric, float64(t.plan.sockets)/float64(max(1, took[0]))*1e6) // thousands a second
	}
	took, err := w.request(t.ctx, answerTime, 1, "dials", t.plan.dials)
	if err != nil {
		return err
	}
	t.record("dials", float64(t.plan.dials)/float64(max(1, took[0]))*1e6)
	return nil
}
