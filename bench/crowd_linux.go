package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// crowdPatience is how long a crowd may take for a request.
	crowdPatience = 5 * time.Minute
	// settle is how long a crowd may take until it is idle, and glance how long
	// it is watched to find that out.
	settle = time.Minute
	glance = 250 * time.Millisecond
)

// crowd measures many stacks at once: what they cost when they do nothing,
// whether they reach each other, and how they go.
func (t *turn) crowd() error {
	w, err := t.start(t.contestant)
	if err != nil {
		return err
	}
	// The first stack starts what all have in common.
	if _, err := w.request(t.ctx, patience, 1, "crowd", 1, t.a); err != nil {
		return err
	}
	if _, err := w.request(t.ctx, crowdPatience, 2, "disband"); err != nil {
		return err
	}
	pid := w.cmd.Process.Pid
	before, err := memory(pid)
	if err != nil {
		return err
	}
	took, err := w.request(t.ctx, crowdPatience, 1, "crowd", t.plan.crowd, t.a)
	if err != nil {
		return err
	}
	stacks := float64(t.plan.crowd)
	t.record("crowd_open", float64(took[0])/1e6/stacks)
	if err := t.watch(pid); err != nil {
		return err
	}
	after, err := memory(pid)
	if err != nil {
		return err
	}
	t.record("crowd_memory", float64(after-before)/1024/stacks)
	threads, err := threads(pid)
	if err != nil {
		return err
	}
	t.record("crowd_threads", float64(threads))
	if t.contestant == ours {
		pairs, err := w.request(t.ctx, crowdPatience, 2, "reach", t.every)
		if err != nil {
			return err
		}
		t.record("crowd_reached", 100*float64(pairs[1])/float64(max(1, pairs[0])))
	}
	ends, err := w.request(t.ctx, crowdPatience, 2, "disband")
	if err != nil {
		return err
	}
	t.record("crowd_close", float64(ends[0])/1e9)
	if t.contestant == ours {
		t.record("crowd_gone", float64(ends[1])/1e9)
	}
	return nil
}

// watch measures the processor time of a process that has nothing to do, when
// what it did before has come to its end.
func (t *turn) watch(pid int) error {
	busy := func(d time.Duration) (percent float64, err error) {
		before, err := ran(pid)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		select {
		case <-time.After(d):
		case <-t.ctx.Done():
			return 0, t.ctx.Err()
		}
		after, err := ran(pid)
		return 100 * (after - before).Seconds() / time.Since(start).Seconds(), err
	}
	for end := time.Now().Add(settle); time.Now().Before(end); {
		percent, err := busy(glance)
		if err != nil {
			return err
		}
		if percent < 0.1 {
			break
		}
	}
	percent, err := busy(t.idle)
	if err != nil {
		return err
	}
	t.record("crowd_idle", percent)
	return nil
}

// memory returns the resident memory of a process in bytes.
func memory(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, fmt.Errorf("statm is %q", text)
	}
	pages, err := strconv.Atoi(f[1])
	return pages * os.Getpagesize(), err
}

// threads returns the number of threads of a process.
func threads(pid int) (int, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return len(tasks), err
}

// ran returns the time that the threads of a process were on processors, in
// finer units than the ticks of its state.
func ran(pid int) (time.Duration, error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, errors.New("the kernel has no schedstat, or the process has ended")
	}
	var sum time.Duration
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s is %q", name, text)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
