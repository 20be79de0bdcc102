package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// NoLeaks fails the test if it leaves goroutines, descriptors or child processes that did
// not exist when NoLeaks was called. Call it first, so that its clean-up is the last.
// Before each count it calls settle, which completes background work of the tested code.
func NoLeaks(t testing.TB, settle ...func()) {
	t.Helper()
	r, w, err := os.Pipe() // creates the descriptors of Go's poller, which stay
	Check(t, err)
	r.Close()
	w.Close()
	count := func() resources {
		for _, f := range settle {
			f()
		}
		return resources{runtime.NumGoroutine(), Descriptors(t), children(t)}
	}
	before := count()
	t.Cleanup(func() {
		var leaked string
		Eventually(t, "no leaks", func() bool {
			leaked = count().leaked(before)
			return leaked == ""
		}, func() string { return leaked })
	})
}

// resources are those that a process uses.
type resources struct {
	goroutines  int
	descriptors map[string]string
	children    map[string]bool
}

// leaked describes a resource that was not in use before; "" if there is none.
func (r resources) leaked(before resources) string {
	for fd, target := range r.descriptors {
		if before.descriptors[fd] != target {
			return fmt.Sprintf("descriptor %s is still open: %s", fd, target)
		}
	}
	for pid := range r.children {
		if !before.children[pid] {
			return fmt.Sprintf("child process %s is left", pid)
		}
	}
	if r.goroutines > before.goroutines {
		buf := make([]byte, 1<<20)
		return fmt.Sprintf("%d goroutines, there were %d:\n%s", r.goroutines, before.goroutines, buf[:runtime.Stack(buf, true)])
	}
	return ""
}

// Descriptors returns the open files by descriptor; none if the system has no /proc.
func Descriptors(t testing.TB) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	open := make(map[string]string)
	for _, e := range entries {
		// The descriptor that read the directory is gone by now.
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open[e.Name()] = target
		}
	}
	return open
}

// children returns the processes that this one has started and not waited for; none if
// the system has no /proc.
func children(t testing.TB) map[string]bool {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	pids := make(map[string]bool)
	for _, task := range tasks {
		list, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children") // a thread may end
		for _, pid := range strings.Fields(string(list)) {
			pids[pid] = true
		}
	}
	return pids
}
