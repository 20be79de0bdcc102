//go:build amd64 || arm64

package netns

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStartTraced has a command look into the memory of another that is about to
// execute its program, and has that of the test until then.
func TestStartTraced(t *testing.T) {
	for _, nnp := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "no_new_privs"}[nnp], func(t *testing.T) {
			n := newNS(t)
			program, err := os.ReadFile("/bin/true")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "true")
			if err := os.WriteFile(path, program, 0o755); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			// The exec waits until the lease is given up.
			broken := make(chan os.Signal, 1)
			signal.Notify(broken, unix.SIGIO)
			defer signal.Stop(broken)
			if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
				t.Skip("no leases: ", err)
			}
			before := children(t)
			done := make(chan error, 1)
			start := func(path string, args ...string) (out string, err error) {
				end := make(chan struct{})
				go func() {
					defer close(end)
					if nnp {
						runtime.LockOSThread() // the thread ends with the goroutine
						if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
							return
						}
					}
					out, _, err = run(t, n, t.Context(), path, args...)
				}()
				<-end
				return out, err
			}
			go func() {
				_, err := start(path)
				done <- err
			}()
			<-broken
			victim := ""
			for pid := range children(t) {
				if !before[pid] {
					victim = pid
				}
			}
			out, err := start("/bin/sh", "-c", "exec </proc/"+victim+"/mem && echo opened")
			unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
			if err != nil || victim == "" || !strings.Contains(out, "ermission denied") {
				t.Errorf("a command opens the memory of child %q: %q, %v, want permission denied", victim, out, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func children(t *testing.T) map[string]bool {
	t.Helper()
	list, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(list) == 0 {
		t.Skip("no lists of children in /proc: ", err)
	}
	all := make(map[string]bool)
	for _, path := range list {
		if text, err := os.ReadFile(path); err == nil {
			for _, pid := range strings.Fields(string(text)) {
				all[pid] = true
			}
		}
	}
	return all
}
