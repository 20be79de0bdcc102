package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// termTimeout is how long a command may take to end after SIGTERM.
	termTimeout = time.Second
	// killTimeout is how long it may take after SIGKILL. The kernel first closes its
	// files, and closing sockets waits for the lock of all networks: for seconds
	// while other programs make and remove many namespaces.
	killTimeout = 10 * time.Second
)

// A command is a running program. Read and Write use its standard output and input.
type command struct {
	cmd           *exec.Cmd
	stdin, stdout *os.File

	waiting sync.Once
	ended   chan struct{} // closed when the process was reaped

	mu     sync.Mutex // guards reaped: until then no other process gets the pid
	reaped bool
}

var _ io.ReadWriteCloser = (*command)(nil)

// NewCommand starts a program and returns the stream on its standard input and output. Its
// standard error is inherited. The program gets a session of its own: it cannot ask for a
// password at the terminal, and the programs that it starts end with it.
func NewCommand(args []string) (*Stream, error) {
	c := &command{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		in.Close()
		stdin.Close()
		return nil, err
	}
	c.stdin, c.stdout = stdin, stdout
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = in, out, os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	err = starter.start(c.cmd)
	in.Close()
	out.Close()
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, explainStart(err)
	}
	return New(c), nil
}

// explainStart tells how to mend a program that cannot be executed.
func explainStart(err error) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (it must be a file that this user may execute, chmod +x)", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w (neither a program for this machine nor a script that begins with #!)", err)
	}
	return err
}

func (c *command) Write(b []byte) (int, error) { return c.stdin.Write(b) }

// Read returns, in place of the end of the output, an error that tells how the command
// ended.
func (c *command) Read(b []byte) (int, error) {
	n, err := c.stdout.Read(b)
	if err != io.EOF {
		return n, err
	}
	name := c.cmd.Args[0]
	if !c.wait(termTimeout) {
		return 0, fmt.Errorf("command %q has closed its output, but has not ended", name)
	}
	if state := c.cmd.ProcessState; state != nil {
		return 0, fmt.Errorf("command %q has ended: %w", name, &exec.ExitError{ProcessState: state})
	}
	return 0, fmt.Errorf("command %q has ended", name) // reaped elsewhere
}

// Close ends the command: first by the end of its input and SIGTERM, then by SIGKILL.
func (c *command) Close() error {
	err := errors.Join(c.stdin.Close(), c.stdout.Close())
	c.signal(unix.SIGTERM)
	if c.wait(termTimeout) {
		return err
	}
	c.signal(unix.SIGKILL)
	if c.wait(killTimeout) {
		return err
	}
	return errors.Join(err, fmt.Errorf("command %q (process %d) does not end although it was killed", c.cmd.Args[0], c.cmd.Process.Pid))
}

// signal sends a signal to the command and the processes that it has started.
func (c *command) signal(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		unix.Kill(-c.cmd.Process.Pid, s) // fails only if no process is left
	}
}

// wait waits for the end of the command, and reports whether it has ended.
func (c *command) wait(d time.Duration) bool {
	c.waiting.Do(func() { go c.reap() })
	return closedWithin(c.ended, d)
}

// reap waits for the end of the command, kills the processes that it leaves behind, and
// reaps it. It is started only when the end is near, as it blocks a thread.
func (c *command) reap() {
	defer close(c.ended)
	for {
		// Until the process is reaped, no other group can get its number.
		err := unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	c.signal(unix.SIGKILL)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmd.Wait() // its error is in ProcessState
	c.reaped = true
	starter.release()
}

// starter starts commands on one thread, which lives until the last of them has ended: the
// kernel kills a command (Pdeathsig) when the thread that started it ends, not when the
// process does.
var starter threadStarter

type threadStarter struct {
	mu       sync.Mutex  // guards the fields below
	commands int         // running or being started
	jobs     chan func() // for the thread; used while there are commands
}

func (s *threadStarter) start(cmd *exec.Cmd) error {
	s.mu.Lock()
	if s.commands == 0 {
		s.jobs = make(chan func())
		go runOnThread(s.jobs)
	}
	s.commands++
	jobs := s.jobs
	s.mu.Unlock()

	result := make(chan error)
	jobs <- func() { result <- cmd.Start() }
	err := <-result
	if err != nil {
		s.release()
	}
	return err
}

func (s *threadStarter) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.commands--; s.commands == 0 {
		close(s.jobs)
	}
}

func runOnThread(jobs <-chan func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for job := range jobs {
		job()
	}
}
