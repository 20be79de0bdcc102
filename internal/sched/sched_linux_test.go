package sched

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBatch looks at the threads that there are, and at those that come.
func TestBatch(t *testing.T) {
	// An ordinary user can only raise it.
	now, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	nice := min(now.Nice+3, 19)
	var threads sync.WaitGroup
	defer threads.Wait()
	end := make(chan struct{})
	defer close(end)
	// thread makes one that calls f, and returns its number.
	thread := func(f func()) int {
		tid := make(chan int)
		threads.Go(func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			f()
			tid <- unix.Gettid()
			<-end
		})
		return <-tid
	}
	nothing := func() {}
	before := thread(func() {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, int(nice)); err != nil {
			t.Error(err)
		}
	})
	idle := thread(func() {
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
			t.Error(err)
		}
	})
	Batch()
	for range 8 {
		thread(nothing)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 10 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == unix.ESRCH {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(unix.SCHED_BATCH)
		if tid == idle {
			want = unix.SCHED_IDLE
		}
		if attr.Policy != want {
			t.Errorf("thread %d has the policy %d, want %d", tid, attr.Policy, want)
		}
		if tid == before && attr.Nice != nice {
			t.Errorf("thread %d has the niceness %d, want %d", tid, attr.Nice, nice)
		}
	}
}
