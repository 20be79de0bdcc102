package interop

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

// patience bounds what takes a moment.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	// Processes that lose their parent become ours, so that none goes unnoticed.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "prctl:", err)
		os.Exit(1)
	}
	testenv.Main(m)
}

// noLeaks lets the test fail if it leaves a process running. It is called before
// all that makes processes.
func noLeaks(t *testing.T) {
	t.Cleanup(func() {
		eventually(t, "the end of all processes", func() bool {
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

// eventually waits until done returns true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// A process is a running program with a process group of its own.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	pipe   *os.File // below stdout
	stderr lockedBuffer
	ended  sync.Once
	err    error // how it has ended
}

// start starts a program, which is killed at the end of the test, and with it
// all that is left of its group.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.stderr
	// A program may leave processes that hold its standard error.
	p.cmd.WaitDelay = time.Second
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.pipe, p.stdout, p.cmd.Stdout = r, bufio.NewReader(r), w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		r.Close()
		if t.Failed() {
			t.Logf("%q said: %s", p.cmd.Args, p.stderr.String())
		}
	})
	return p
}

// end sends a signal, or none if that is 0, and SIGKILL to what is left when the program has ended. It
// returns how it has ended.
func (p *process) end(sig syscall.Signal) error {
	p.ended.Do(func() {
		pid := p.cmd.Process.Pid
		p.stdin.Close()
		// Until it is reaped, the group's number stays its own.
		syscall.Kill(pid, sig)
		killer := time.AfterFunc(patience, func() { syscall.Kill(pid, syscall.SIGKILL) })
		for {
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
				break
			}
		}
		killer.Stop()
		syscall.Kill(-pid, syscall.SIGKILL)
		p.err = p.cmd.Wait()
	})
	return p.err
}

// expect reads lines of the standard output until one begins with the text.
func (p *process) expect(t *testing.T, prefix string) (before, line string) {
	t.Helper()
	p.pipe.SetReadDeadline(time.Now().Add(patience))
	var text strings.Builder
	for {
		line, err := p.stdout.ReadString('\n')
		if strings.HasPrefix(line, prefix) {
			return text.String(), line
		}
		text.WriteString(line)
		if err != nil {
			t.Fatalf("%q: %v, waiting for %q; it said %q and %q", p.cmd.Args, err, prefix, text.String(), p.stderr.String())
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
	status, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, end)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(output, "\n"), status
}

// must runs a script that succeeds.
func (s shell) must(t *testing.T, script string) (output string) {
	t.Helper()
	output, status := s.run(t, script)
	if status != 0 {
		t.Fatalf("%s: status %d: %s", script, status, output)
	}
	return output
}

// A lockedBuffer collects the output of a running program.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
