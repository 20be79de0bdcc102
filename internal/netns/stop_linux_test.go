//go:build amd64 || arm64

package netns

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestStartStopped stops a command that is executing its program, which the kernel
// delays because of a lease. Start does not wait for ever, with syscall.ForkLock held,
// for somebody to continue it; when somebody does, the command runs.
func TestStartStopped(t *testing.T) {
	testenv.Long(t)
	for _, continued := range []bool{false, true} {
		name := map[bool]string{false: "for good", true: "and continued"}[continued]
		t.Run(name, func(t *testing.T) {
			n := newNS(t)
			path := t.TempDir() + "/script"
			if err := os.WriteFile(path, []byte("#!/bin/true\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			opened := make(chan os.Signal, 1)
			signal.Notify(opened, unix.SIGIO)
			defer signal.Stop(opened)
			if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
				t.Skipf("needs a file system with leases: %v", err)
			}

			e := &Exec{Path: path, Args: []string{path}, Setpgid: true}
			type result struct {
				pid int
				err error
			}
			started := make(chan result, 1)
			go func() {
				pid, err := n.Start(t.Context(), e)
				started <- result{pid, err}
			}()
			<-opened
			command := -1
			for i := range commands.used.Load() {
				if fd := commands.slots[i].Load(); fd >= 0 {
					command = int(fd)
				}
			}
			if err := unix.PidfdSendSignal(command, unix.SIGSTOP, nil, 0); err != nil {
				t.Fatal(err)
			}
			if continued {
				for stopped := false; !stopped; {
					var info unix.Siginfo
					if err := unix.Waitid(unix.P_PIDFD, command, &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil && err != unix.EINTR {
						t.Fatal(err)
					}
					stopped = info.Signo != 0
				}
				if err := unix.PidfdSendSignal(command, unix.SIGCONT, nil, 0); err != nil {
					t.Fatal(err)
				}
				// The command has the file, too: to close it would not do.
				if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
					t.Fatal(err)
				}
			}
			var r result
			select {
			case r = <-started:
			case <-time.After(time.Minute):
				t.Fatal("Start waits for ever")
			}
			if !continued {
				if r.err == nil || !strings.Contains(r.err.Error(), "stopped") || !strings.Contains(r.err.Error(), path) {
					t.Errorf("got %v, want an error that says what happened to %s", r.err, path)
				}
				t.Log(r.err)
			} else if r.err != nil {
				t.Error(r.err)
			} else {
				reap(r.pid)
				e.Ended()
			}
			syscall.ForkLock.Lock()
			//lint:ignore SA2001 nobody holds it
			syscall.ForkLock.Unlock()
		})
	}
}
