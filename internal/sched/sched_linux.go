// Package sched is how programs want to be scheduled that only carry frames.
package sched

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Batch makes the process run when its turn is and not as soon as there is
// something to do, sched(7)'s SCHED_BATCH. A thread that wakes up usually takes the
// processor away from the one that has woken it: a program that carries frames gets
// each by itself then, and its peers must start again as often. It changes nothing
// where the user has chosen another policy than the usual one, or may not change it.
func Batch() {
	// Threads that are made later have the policy of the one that makes them. One
	// that is made now may have escaped the first look.
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
