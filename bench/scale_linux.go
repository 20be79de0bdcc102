package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	// scaleTime is how long a request about many stacks may take.
	scaleTime = 5 * time.Minute
	// settle is how long many stacks may take until they are idle, and glance how
	// long they are watched to find that out.
	settle = time.Minute
	glance = 250 * time.Millisecond
)

// scale measures many stacks at once: what they cost when they are idle, whether they
// reach each other, and how long they take to go.
func (t *trial) scale() error {
	w, err := t.gather(t.stacks, t.watch)
	if err != nil {
		return err
	}
	if t.contestant == ours {
		pairs, err := w.request(t.ctx, scaleTime, 2, "reach", t.every)
		if err != nil {
			return err
		}
		t.record("scale_reached", 100*float64(pairs[1])/float64(max(1, pairs[0])))
	}
	return t.disband(w)
}

// tunnelCount is how many tunnels are measured at once: each has a device with buffers for a batch
// of packets in each direction.
const tunnelCount = 50

// tunnels measures what tunnels take.
func (t *trial) tunnels() error {
	w, err := t.gather(min(t.stacks, tunnelCount), func(int) error { return nil })
	if err != nil {
		return err
	}
	return t.disband(w)
}

// gather has a new worker make stacks that stay, and records what they take when settle has
// returned.
func (t *trial) gather(count int, settle func(pid int) error) (*process, error) {
	w, err := t.start(t.contestant)
	if err != nil {
		return nil, err
	}
	// The first stack starts what all have in common.
	if _, err := w.request(t.ctx, answerTime, 1, "gather", 1, t.a); err != nil {
		return nil, err
	}
	if _, err := w.request(t.ctx, scaleTime, 2, "disband"); err != nil {
		return nil, err
	}
	pid := w.cmd.Process.Pid
	before, err := memory(pid)
	if err != nil {
		return nil, err
	}
	took, err := w.request(t.ctx, scaleTime, 1, "gather", count, t.a)
	if err != nil {
		return nil, err
	}
	stacks := float64(count)
	t.record("scale_open", float64(took[0])/1e6/stacks)
	if err := settle(pid); err != nil {
		return nil, err
	}
	after, err := memory(pid)
	if err != nil {
		return nil, err
	}
	t.record("scale_memory", float64(after-before)/1024/stacks)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	t.record("scale_threads", float64(len(threads)))
	return w, nil
}

// disband closes them, and records how long that takes.
func (t *trial) disband(w *process) error {
	ends, err := w.request(t.ctx, scaleTime, 2, "disband")
	if err != nil {
		return err
	}
	t.record("scale_close", float64(ends[0])/1e9)
	if t.contestant == ours {
		t.record("scale_gone", float64(ends[1])/1e9)
	}
	return nil
}

// together is how many stacks of a crowd are opened at once, if not one after the other.
const together = 8

// crowd measures how long many stacks on one network take to open.
func (t *trial) crowd() error {
	for _, m := range []struct {
		metric string
		atOnce int
	}{{"crowd", 1}, {"crowd_together", together}} {
		if t.contestant != ours && m.atOnce > 1 {
			continue
		}
		time.Sleep(recovery)
		w, err := t.start(t.contestant)
		if err != nil {
			return err
		}
		took, err := w.request(t.ctx, scaleTime, 1, "crowd", t.stacks, m.atOnce, fmt.Sprintf("%s-%d", t.a, m.atOnce))
		if err != nil {
			return err
		}
		t.record(m.metric, float64(took[0])/1e6/float64(t.stacks))
		if _, err := w.request(t.ctx, scaleTime, 2, "disband"); err != nil {
			return err
		}
		w.stop()
	}
	return nil
}

// watch measures the processor time of an idle process, after its earlier work has
// come to its end.
func (t *trial) watch(pid int) error {
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
	t.record("scale_idle", percent)
	return nil
}

// memory returns the resident memory of a process in bytes.
func memory(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages int
	_, err = fmt.Sscan(string(text), &size, &pages)
	return pages * os.Getpagesize(), err
}

// ran returns how long the threads of a process were on processors, in finer units
// than the ticks of /proc/PID/stat.
func ran(pid int) (time.Duration, error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, errors.New("the kernel has no schedstat, or the process has ended")
	}
	var sum, n time.Duration
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		if _, err := fmt.Sscan(string(text), &n); err != nil {
			return 0, fmt.Errorf("%s is %q", name, text)
		}
		sum += n
	}
	return sum, nil
}
