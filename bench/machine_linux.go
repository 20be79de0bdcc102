package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookTime is how long the machine is watched, while nothing is measured.
	lookTime = 300 * time.Millisecond
	// calm is how many processors are busy at most in a machine at rest, and calmWait
	// how long one may take to come to rest.
	calm     = 0.1
	calmWait = 10 * time.Second
)

// background measures how busy others keep the machine.
func (b *bench) background(ctx context.Context) error {
	busy, err := look(ctx)
	if err == nil {
		b.busy = append(b.busy, busy)
	}
	return err
}

// awaitCalm waits until the kernel has removed what a trial has left to it, which takes it
// seconds after a thousand stacks. It does not wait long for others who use the machine.
func awaitCalm(ctx context.Context) error {
	for end := time.Now().Add(calmWait); ; {
		busy, err := look(ctx)
		if err != nil || busy < calm || time.Now().After(end) {
			return err
		}
	}
}

// look returns how many processors are busy.
func look(ctx context.Context) (float64, error) {
	before, err := cpuTimes()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-time.After(lookTime):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := cpuTimes()
	return (after.machine - before.machine).Seconds() / time.Since(start).Seconds(), err
}

// report writes where and how the values were measured, what is missing, the tables
// and the targets, and saves all of it with the values and the chart.
func (b *bench) report(w io.Writer) error {
	var text, values bytes.Buffer
	fmt.Fprintf(&text, "%s. Interleaved rounds: %d, streams of %v, %d stacks at once. Processors that others kept busy before the rounds: %.2f (median).\n\n",
		machine(), b.rounds, b.stream, b.plan.stacks, median(b.busy))
	for _, n := range b.Notes {
		fmt.Fprintf(&text, "- %s\n", n)
	}
	if len(b.Notes) > 0 {
		fmt.Fprintln(&text)
	}
	writeTables(&text, b.samples)
	writeTargets(&text, b.samples, targets(runtime.NumCPU()))
	if err := writeCSV(&values, b.samples); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"results.md": text.Bytes(), "results.csv": values.Bytes(), "chart.svg": chart(b.samples, machine()),
	} {
		if err := b.save(name, content); err != nil {
			return err
		}
	}
	_, err := w.Write(text.Bytes())
	return err
}

// machine describes the machine in a few words.
func machine() string {
	var u unix.Utsname
	unix.Uname(&u)
	text := fmt.Sprintf("Linux %s %s, %d processors", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH, runtime.NumCPU())
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return text
	}
	for line := range strings.Lines(string(info)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%s (%s), %s", text, strings.TrimSpace(model), runtime.Version())
		}
	}
	return fmt.Sprintf("%s, %s", text, runtime.Version())
}
