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

// lookTime is how long the machine is watched, while nothing is measured.
const lookTime = 300 * time.Millisecond

// background measures how busy others keep the machine.
func (b *bench) background(ctx context.Context) error {
	before, err := cpuTimes()
	if err != nil {
		return err
	}
	start := time.Now()
	select {
	case <-time.After(lookTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := cpuTimes()
	if err != nil {
		return err
	}
	b.busy = append(b.busy, (after.machine-before.machine).Seconds()/time.Since(start).Seconds())
	return nil
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
