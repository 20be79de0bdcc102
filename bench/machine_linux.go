package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// look is how long the machine is watched, while nothing is measured.
const look = 300 * time.Millisecond

// background measures how busy others keep the machine.
func (b *bench) background(ctx context.Context) error {
	before, err := cpuTimes()
	if err != nil {
		return err
	}
	start := time.Now()
	select {
	case <-time.After(look):
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

// report writes where and how the values came about, what is missing, and the
// tables.
func (b *bench) report(w io.Writer) {
	fmt.Fprintf(w, "%s. Interleaved rounds: %d. Processors that others kept busy before the rounds: %.2f (median).\n\n",
		machine(), b.rounds, median(b.busy))
	for _, n := range b.notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
	if len(b.notes) > 0 {
		fmt.Fprintln(w)
	}
	writeTables(w, b.samples)
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
