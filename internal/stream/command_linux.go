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

// A Process is a running program.
type Process struct {
	cmd *exec.Cmd

	waiting sync.Once
	ended   chan struct{} // closed when the process was reaped

	mu     sync.Mutex // guards reaped: until then no other process gets the pid
	reaped bool
}

// A command is a running program. Read and Write use its standard output and input.
type command struct {
	*Process
	stdin, stdout *os.File
}

var _ io.ReadWriteCloser = (*command)(nil)

// StartProcess starts a program. Its standard error is inherited. It gets a session of its
// own: it cannot ask for a password at the terminal, and the programs that it starts end
// with it.
func StartProcess(args []string, stdin, stdout *os.File) (*Process, error) {
	p := &Process{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := starter.start(p.cmd); err != nil {
		return nil, explainStart(err)
	}
	return p, nil
}

// NewCommand starts a program and returns the stream on its standard input and output.
func NewCommand(args []string) (*Stream, error) {
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
	p, err := StartProcess(args, in, out)
	in.Close()
	out.Close()
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, err
	}
	return New(&command{p, stdin, stdout}), nil
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

// Write returns, when the program does not read any more, an error that tells how it ended:
// the stack may have something to send before Read has said so.
func (c *command) Write(b []byte) (int, error) {
	n, err := c.stdin.Write(b)
	if errors.Is(err, unix.EPIPE) {
		err = c.ending("input")
	}
	return n, err
}

// Read returns, in place of the end of the output, an error that tells how the command
// ended.
func (c *command) Read(b []byte) (int, error) {
	n, err := c.stdout.Read(b)
	if err != io.EOF {
		return n, err
	}
	return 0, c.ending("output")
}

// ending tells how the command has ended, after it has closed its input or output.
func (c *command) ending(closed string) error {
	name := c.cmd.Args[0]
	if !c.wait(termTimeout) {
		return fmt.Errorf("command %q has closed its %s, but has not ended", name, closed)
	}
	if state := c.cmd.ProcessState; state != nil {
		return fmt.Errorf("command %q has ended: %w", name, &exec.ExitError{ProcessState: state})
	}
	return fmt.Errorf("command %q has ended", name) // reaped elsewhere
}

// Close ends the command: first by the end of its input and SIGTERM, then by SIGKILL.
func (c *command) Close() error {
	return errors.Join(c.stdin.Close(), c.stdout.Close(), c.End())
}

// End ends the program, and the processes that it has started, by SIGTERM and then by
// SIGKILL. It may be called more than once.
func (p *Process) End() error {
	p.signal(unix.SIGTERM)
	if p.wait(termTimeout) {
		return nil
	}
	p.signal(unix.SIGKILL)
	if p.wait(killTimeout) {
		return nil
	}
	return fmt.Errorf("command %q (process %d) does not end although it was killed", p.cmd.Args[0], p.cmd.Process.Pid)
}

// signal sends a signal to the program and the processes that it has started.
func (p *Process) signal(s unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		unix.Kill(-p.cmd.Process.Pid, s) // fails only if no process is left
	}
}

// wait waits for the end of the program, and reports whether it has ended.
func (p *Process) wait(d time.Duration) bool {
	p.waiting.Do(func() { go p.reap() })
	return closedWithin(p.ended, d)
}

// reap waits for the end of the program, kills the processes that it leaves behind, and
// reaps it. It is started only when the end is near, as it blocks a thread.
func (p *Process) reap() {
	defer close(p.ended)
	for {
		// Until the process is reaped, no other group can get its number.
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.signal(unix.SIGKILL)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd.Wait() // its error is in ProcessState
	p.reaped = true
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
