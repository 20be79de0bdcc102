//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// lease makes a program whose exec waits for the end of a lease. begun receives a signal
// when it waits, and release ends the lease.
func lease(t *testing.T, text []byte) (path string, begun <-chan os.Signal, release func() error) {
	t.Helper()
	path = t.TempDir() + "/program"
	testenv.Check(t, os.WriteFile(path, text, 0o755))
	f := testenv.Opened(os.Open(path))(t)
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGIO)
	t.Cleanup(func() { signal.Stop(broken) })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("needs a file system with leases: %v", err)
	}
	return path, broken, func() error {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return err
	}
}

// lastCommand returns the pidfd of a command that has not ended.
func lastCommand() (pidfd int) {
	pidfd = -1
	for i := range commands.used.Load() {
		if fd := commands.slots[i].Load(); fd >= 0 {
			pidfd = int(fd)
		}
	}
	return pidfd
}

// TestStartStopped stops a command that is executing its program, which the kernel
// delays because of a lease. Start does not wait for ever, with syscall.ForkLock held,
// for somebody to continue it; when somebody does, the command runs.
func TestStartStopped(t *testing.T) {
	testenv.Long(t)
	for _, continued := range []bool{false, true} {
		name := map[bool]string{false: "for good", true: "and continued"}[continued]
		t.Run(name, func(t *testing.T) {
			n := newNS(t)
			path, begun, release := lease(t, []byte("#!/bin/true\n"))
			e := &Exec{Path: path, Args: []string{path}, Setpgid: true}
			var pid int
			started := make(chan error, 1)
			go func() {
				var err error
				pid, err = n.Start(t.Context(), e)
				started <- err
			}()
			<-begun
			command := lastCommand()
			testenv.Check(t, unix.PidfdSendSignal(command, unix.SIGSTOP, nil, 0))
			if continued {
				for stopped := false; !stopped; {
					var info unix.Siginfo
					if err := unix.Waitid(unix.P_PIDFD, command, &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil && err != unix.EINTR {
						t.Fatal(err)
					}
					stopped = info.Signo != 0
				}
				testenv.Check(t, unix.PidfdSendSignal(command, unix.SIGCONT, nil, 0))
				// The command has the file, too: to close it would not do.
				testenv.Check(t, release())
			}
			select {
			case err := <-started:
				if continued {
					testenv.Check(t, err)
					reap(pid)
					e.Ended()
				} else if err == nil || !strings.Contains(err.Error(), "stopped") || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, want an error that says what happened to %s", err, path)
				}
			case <-time.After(time.Minute):
				t.Fatal("Start waits for ever")
			}
			syscall.ForkLock.Lock()
			//lint:ignore SA2001 nobody holds it
			syscall.ForkLock.Unlock()
		})
	}
}

// TestStartTraced has a command look into the memory of another that is about to
// execute its program, and has that of the test until then.
func TestStartTraced(t *testing.T) {
	for _, nnp := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "no_new_privs"}[nnp], func(t *testing.T) {
			n := newNS(t)
			path, begun, release := lease(t, testenv.Must(os.ReadFile("/bin/true"))(t))
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
			done := make(chan error, 1)
			go func() {
				_, err := start(path)
				done <- err
			}()
			<-begun
			victim := field(fmt.Sprint("/proc/self/fdinfo/", lastCommand()), "Pid:")
			out, err := start("/bin/sh", "-c", "exec </proc/"+victim+"/mem && echo opened")
			release()
			if err != nil || victim == "" || !strings.Contains(out, "ermission denied") {
				t.Errorf("a command opens the memory of child %q: %q, %v, want permission denied", victim, out, err)
			}
			testenv.Check(t, <-done)
		})
	}
}
