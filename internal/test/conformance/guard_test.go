package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
)

// guard fails the test if it leaves goroutines or descriptors behind, or if a
// thread of the process leaves its namespaces meanwhile. It comes first in a
// test, so that its clean-up is the last.
func guard(t *testing.T) {
	t.Helper()
	// The first stack makes the helper task, whose descriptors stay.
	if s, err := vdestack.Open(""); err == nil {
		s.Close()
	}
	r, w, err := os.Pipe() // makes the descriptors of the poller, which stay
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Cleanup(func() {
		leaked := leaks(t, goroutines, files)
		for deadline := time.Now().Add(patience); leaked != "" && time.Now().Before(deadline); {
			runtime.GC() // the pipes of splice are kept in a sync.Pool
			time.Sleep(5 * time.Millisecond)
			leaked = leaks(t, goroutines, files)
		}
		if leaked != "" {
			t.Errorf("left behind: %s", leaked)
		}
	})
	watchNamespaces(t)
}

func leaks(t *testing.T, goroutines int, files map[string]string) string {
	for fd, target := range descriptors(t) {
		if files[fd] != target {
			return fmt.Sprintf("descriptor %s: %s", fd, target)
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		buf := make([]byte, 1<<20)
		return fmt.Sprintf("%d goroutines more than before:\n%s", n-goroutines, buf[:runtime.Stack(buf, true)])
	}
	return ""
}

// descriptors returns the open files by descriptor, where the system tells.
func descriptors(t testing.TB) map[string]string {
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
