package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/stat, USER_HZ, on all architectures of Go.
const tick = time.Second / 100

// parseCPU returns the time that all processors together were busy, from the
// content of /proc/stat, proc_stat(5): the fields of the first line except idle, iowait,
// steal, and guests, which are counted in user already.
func parseCPU(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q, not with the sum of all processors", line)
	}
	var busy time.Duration
	for _, i := range []int{1, 2, 3, 6, 7} { // user nice system irq softirq
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: field %d of %q: %w", i, line, err)
		}
		busy += time.Duration(n) * tick
	}
	return busy, nil
}

// A usage is the processor time of a process, and its parent.
type usage struct {
	parent int
	busy   time.Duration
}

// parseProcess parses the content of /proc/PID/stat, proc_pid_stat(5). The name
// is in parentheses and may contain anything.
func parseProcess(stat string) (usage, error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return usage{}, fmt.Errorf("%q is not the state of a process", stat)
	}
	var n [3]int
	for i, field := range []int{1, 11, 12} { // ppid utime stime
		var err error
		if n[i], err = strconv.Atoi(f[field]); err != nil {
			return usage{}, fmt.Errorf("state of a process: %w", err)
		}
	}
	return usage{n[0], time.Duration(n[1]+n[2]) * tick}, nil
}

// descendants returns the processor time of all descendants of a process.
func descendants(of int, all map[int]usage) time.Duration {
	var sum time.Duration
	for pid, u := range all {
		if u.parent == of && pid != of {
			sum += u.busy + descendants(pid, all)
		}
	}
	return sum
}
