package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vdestack/vdestack/bench/internal/worker"
)

// answerTime is how long an answer may take beyond the measurement.
const answerTime = 2 * worker.Spare

// A plan says how long measurements take.
type plan struct {
	rounds  int
	stream  time.Duration
	rtts    int // round trips
	opens   int // stacks one after the other
	colds   int // processes of which the second stack is measured
	sockets int
	dials   int
	stacks  int           // at once
	every   int           // every nth of them reaches all others
	idle    time.Duration // for which they are watched
}

var (
	full = plan{rounds: 5, stream: 500 * time.Millisecond, rtts: 2000, opens: 30, colds: 4, sockets: 4000, dials: 1000,
		stacks: 1000, every: 100, idle: 3 * time.Second}
	quick = plan{rounds: 1, stream: 80 * time.Millisecond, rtts: 200, opens: 4, colds: 1, sockets: 1000, dials: 100,
		stacks: 20, every: 10, idle: 200 * time.Millisecond}
)

// A trial is one measurement of one cell.
type trial struct {
	plan
	cell
	ctx      context.Context
	argv     map[string][]string // of the workers
	isolated bool
	a, b     string // the locators of the stacks; with %d if they must not meet
	record   func(metric string, value float64)
	workers  []*process
}

// try runs a trial: it starts what the cell needs, measures, and stops everything.
func (b *bench) try(ctx context.Context, m measurement, c cell, record func(string, float64)) (err error) {
	dir, err := os.MkdirTemp(b.Dir, "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if m.pinned {
		unpin, err := pin()
		if err != nil {
			return err
		}
		defer unpin()
	}
	t := &trial{plan: b.plan, cell: c, ctx: ctx, argv: b.Argv, isolated: m.isolated, record: record}
	n, path := networkOf(c.network), filepath.Join(dir, "net")
	if n.start != nil {
		stop, err := n.start(ctx, path)
		if err != nil {
			return err
		}
		defer stop()
	}
	if n.ends != nil {
		t.a, t.b = n.ends(path + m.suffix)
	}
	defer func() {
		for _, w := range t.workers {
			w.stop()
			if err != nil && w.stderr.text != "" {
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(w.stderr.text))
			}
		}
	}()
	return m.run(t)
}

// start starts the worker of a contestant.
func (t *trial) start(contestant string) (*process, error) {
	argv := t.argv[contestant]
	if argv == nil {
		return nil, errors.New("it has no worker")
	}
	w, err := start(t.isolated, argv...)
	if err == nil {
		t.workers = append(t.workers, w)
	}
	return w, err
}

// locator returns a locator as a contestant writes it.
func locator(contestant, vnl string) string {
	if translate := contestantOf(contestant).locator; translate != nil {
		return translate(vnl)
	}
	return vnl
}
