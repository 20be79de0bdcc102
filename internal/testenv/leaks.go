package testenv

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Timeout is how long a test waits for what must happen.
const Timeout = 10 * time.Second

// NoLeaks fails the test if it leaves goroutines, descriptors or processes
// behind. It is to be called before anything else registers a clean-up.
func NoLeaks(t testing.TB) {
	t.Helper()
	r, w, err := os.Pipe() // makes the descriptors of the poller, which stay
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	goroutines, files := runtime.NumGoroutine(), Descriptors(t)
	t.Cleanup(func() {
		var leaked string
		Eventually(t, "no leaks", func() bool {
			leaked = leaks(t, goroutines, files)
			return leaked == ""
		}, func() string { return leaked })
	})
}

func leaks(t testing.TB, goroutines int, files map[string]string) string {
	for fd, target := range Descriptors(t) {
		if files[fd] != target {
			return fmt.Sprintf("descriptor %s is still open: %s", fd, target)
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		buf := make([]byte, 1<<20)
		return fmt.Sprintf("%d goroutines more than before:\n%s", n-goroutines, buf[:runtime.Stack(buf, true)])
	}
	if pids := children(t); len(pids) > 0 {
		return fmt.Sprintf("child processes are left: %v", pids)
	}
	return ""
}

// Descriptors returns the open files by descriptor, where the system tells.
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
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			open[e.Name()] = target
		}
	}
	return open
}

// children returns the processes that this one has started and not reaped,
// where the system tells.
func children(t testing.TB) []string {
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
	return slices.Sorted(maps.Keys(pids))
}

// Eventually waits until ok returns true, and fails the test with what was
// expected and the last state otherwise.
func Eventually(t testing.TB, want string, ok func() bool, state ...func() string) {
	t.Helper()
	deadline := time.Now().Add(Timeout)
	for !ok() {
		if time.Now().After(deadline) {
			text := ""
			for _, s := range state {
				text += ": " + s()
			}
			t.Errorf("want %s within %v%s", want, Timeout, text)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
