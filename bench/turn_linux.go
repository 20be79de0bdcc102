package main

import (
	"context"
	"errors"
	"time"

	"github.com/vdestack/vdestack/bench/internal/worker"
)

const (
	streamSize = 128 << 10 // bytes a write
	rttSize    = 64        // bytes a round trip
	// patience is how long an answer may take beyond the measurement.
	patience = 2 * worker.Spare
)

// A plan says how long measurements take.
type plan struct {
	rounds  int
	stream  time.Duration
	rtts    int // round trips
	opens   int // stacks
	sockets int
}

var (
	full  = plan{rounds: 5, stream: time.Second, rtts: 2000, opens: 50, sockets: 4000}
	quick = plan{rounds: 1, stream: 200 * time.Millisecond, rtts: 300, opens: 5, sockets: 1000}
)

// A turn is one measurement of one cell.
type turn struct {
	plan
	ctx    context.Context
	w      *process
	a, b   string // the locators of the stacks; with %d if they shall not meet
	record func(metric string, value float64)
}

// traffic measures throughput, the processor time it takes, and round trips.
func (t *turn) traffic() error {
	if _, err := t.w.request(t.ctx, patience, 0, "pair", t.a, t.b); err != nil {
		return err
	}
	before, err := cpuTimes()
	if err != nil {
		return err
	}
	stream, err := t.w.request(t.ctx, t.stream+patience, 2, "stream", streamSize, t.stream.Milliseconds())
	if err != nil {
		return err
	}
	after, err := cpuTimes()
	if err != nil {
		return err
	}
	if stream[0] == 0 || stream[1] == 0 {
		return errors.New("stream: nothing was received")
	}
	received, took := float64(stream[0]), float64(stream[1])
	t.record("throughput", received*8/took) // bits a nanosecond
	t.record("cpu_processes", (after.processes-before.processes).Seconds()/(received/1e9))
	t.record("cpu_machine", (after.machine-before.machine).Seconds()/(received/1e9))

	rtts, err := t.w.request(t.ctx, patience, t.rtts, "rtt", rttSize, t.rtts)
	if err != nil {
		return err
	}
	t.record("rtt", medianOf(rtts, time.Microsecond))
	return nil
}

// open measures how long stacks take to come and to go.
func (t *turn) open() error {
	times, err := t.w.request(t.ctx, patience, 2*t.opens, "open", t.opens, t.a)
	if err != nil {
		return err
	}
	t.record("open", medianOf(times[:t.opens], time.Millisecond))
	t.record("close", medianOf(times[t.opens:], time.Millisecond))
	return nil
}

// sockets measures how many sockets can be made.
func (t *turn) sockets() error {
	for _, m := range []struct {
		metric  string
		threads int
	}{{"sockets1", 1}, {"sockets8", 8}} {
		took, err := t.w.request(t.ctx, patience, 1, "sockets", t.plan.sockets, m.threads)
		if err != nil {
			return err
		}
		t.record(m.metric, float64(t.plan.sockets)/float64(max(1, took[0]))*1e6) // thousands a second
	}
	return nil
}
