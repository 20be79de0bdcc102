package interop

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// Processes that lose their parent become ours, so that all are found.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "prctl:", err)
		os.Exit(1)
	}
	// Tests wait for programs for half of their time, so that more run at once than there
	// are processors. A flag of the command line is parsed later.
	flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	// With the race detector sync.Pool drops a quarter of the buffers for packets, and a
	// small heap is collected for each few of them: a third of the work of this process.
	debug.SetGCPercent(1000)
	testenv.Main(m)
}

// noProcesses fails the test if it, or a test within it, leaves a process running. It is
// called before any process is started, in a test that runs beside no other.
func noProcesses(t *testing.T) {
	t.Cleanup(func() {
		testenv.Eventually(t, "the end of all processes", func() bool {
			for {
				pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
				if err == unix.ECHILD {
					return true
				}
				if pid == 0 {
					return false
				}
			}
		})
	})
}

// A process is a running program with a process group of its own.
type process struct {
	args   []string
	pid    int
	wait   func() error
	stdin  *os.File
	stdout *bufio.Reader
	pipe   *os.File // below stdout
	stderr testenv.Buffer
	ended  sync.Once
	err    error // how it has ended
}

// start starts a program. At the end of the test its whole group is killed.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	return startCmd(t, exec.Command(name, args...))
}

// startCmd is start with a command, and sets its standard files.
func startCmd(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	return launch(t, cmd.Args, func(p *process, stdin, stdout *os.File) error {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &p.stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		// A program may leave processes that hold its standard error.
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			return err
		}
		p.pid, p.wait = cmd.Process.Pid, cmd.Wait
		return nil
	})
}

// startIn is start in a stack.
func startIn(t *testing.T, s *vdestack.Stack, name string, args ...string) *process {
	t.Helper()
	cmd := s.Command(context.Background(), name, args...)
	return launch(t, cmd.Args, func(p *process, stdin, stdout *os.File) error {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &p.stderr
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			return err
		}
		p.pid, p.wait = cmd.Process.Pid, cmd.Wait
		return nil
	})
}

func launch(t *testing.T, args []string, run func(p *process, stdin, stdout *os.File) error) *process {
	t.Helper()
	in, stdin, err := os.Pipe()
	testenv.Check(t, err)
	stdout, out, err := os.Pipe()
	testenv.Check(t, err)
	p := &process{args: args, stdin: stdin, stdout: bufio.NewReader(stdout), pipe: stdout}
	err = run(p, in, out)
	in.Close()
	out.Close()
	testenv.Check(t, err)
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		stdout.Close()
		if t.Failed() {
			t.Logf("%q said: %s", p.args, p.stderr.String())
		}
	})
	return p
}

// end sends a signal, none if it is 0, and after the end of the program SIGKILL to the rest
// of its group. It returns how the program has ended, when all of them have.
func (p *process) end(sig syscall.Signal) error {
	p.ended.Do(func() {
		p.stdin.Close()
		// Until it is reaped, nobody else gets the number of the group.
		syscall.Kill(p.pid, sig)
		killer := time.AfterFunc(testenv.Timeout, func() { syscall.Kill(p.pid, syscall.SIGKILL) })
		for {
			if err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
				break
			}
		}
		killer.Stop()
		syscall.Kill(-p.pid, syscall.SIGKILL)
		p.err = p.wait()
		// They may have a device open until then.
		for {
			if _, err := unix.Wait4(-p.pid, nil, 0, nil); err != nil && err != unix.EINTR {
				break
			}
		}
	})
	return p.err
}

// expect reads lines of the standard output until one begins with the text.
func (p *process) expect(t *testing.T, prefix string) (before, line string) {
	t.Helper()
	p.pipe.SetReadDeadline(time.Now().Add(testenv.Timeout))
	var text strings.Builder
	for {
		line, err := p.stdout.ReadString('\n')
		if strings.HasPrefix(line, prefix) {
			return text.String(), line
		}
		text.WriteString(line)
		if err != nil {
			t.Fatalf("%q: %v, waiting for %q; it said %q and %q", p.args, err, prefix, text.String(), p.stderr.String())
		}
	}
}

// A shell is a process of sh, in some namespace.
type shell struct{ *process }

// run runs a script, and returns what it wrote, on any output, and its status.
func (s shell) run(t *testing.T, script string) (output string, status int) {
	t.Helper()
	const end = "end of the script: "
	if _, err := fmt.Fprintf(s.stdin, "(\n%s\n) </dev/null 2>&1; printf '\\n%s%%d\\n' $?\n", script, end); err != nil {
		t.Fatalf("%s: %v; %s", script, err, s.stderr.String())
	}
	output, line := s.expect(t, end)
	status = testenv.Must(strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, end))))(t)
	return strings.TrimSuffix(output, "\n"), status
}
