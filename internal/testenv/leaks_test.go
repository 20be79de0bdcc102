package testenv

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// TestLeaked leaves a resource of each kind behind.
func TestLeaked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors and processes are found in /proc")
	}
	count := func() resources { return resources{runtime.NumGoroutine(), Descriptors(t), children(t)} }
	tests := []struct {
		name, want string
		leave      func(t *testing.T)
	}{
		{"nothing", "", func(*testing.T) {}},
		{"descriptor", "still open: " + os.DevNull, func(t *testing.T) {
			f := Must(os.Open(os.DevNull))(t)
			t.Cleanup(func() { f.Close() })
		}},
		{"process", "child process ", func(t *testing.T) {
			cmd := exec.Command("sleep", "1000")
			Check(t, cmd.Start())
			pid := cmd.Process.Pid
			Check(t, cmd.Process.Release()) // of its descriptor
			t.Cleanup(func() {
				p := Must(os.FindProcess(pid))(t)
				p.Kill()
				p.Wait()
			})
		}},
		// More than there could be of earlier tests, which may be about to end.
		{"goroutines", "goroutines, there were ", func(t *testing.T) {
			end := make(chan bool)
			t.Cleanup(func() { close(end) })
			for range 1000 {
				go func() { <-end }()
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := count()
			tt.leave(t)
			if got := count().leaked(before); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}
