// Package sched schedules programs that only carry frames.
package sched

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Batch makes the process wait for its turn when it wakes up, with SCHED_BATCH of
// sched(7). A thread that wakes up usually takes the processor from the one that woke
// it: a program that carries frames would then get one at a time, and interrupt its
// peers for each. Batch does nothing if the user has chosen another policy, or may not
// change it.
func Batch() {
	// New threads have the policy of the one that makes them. One that is made during
	// the first round may be missed.
	for range 2 {
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				continue
			}
			attr, err := unix.SchedGetAttr(tid, 0)
			if err != nil || attr.Policy != unix.SCHED_NORMAL {
				continue
			}
			attr.Policy, attr.Runtime = unix.SCHED_BATCH, 0 // the usual slice; the niceness stays
			unix.SchedSetAttr(tid, attr, 0)
		}
	}
}
