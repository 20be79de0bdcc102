package vdeplug

import (
	"context"
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

	"github.com/vdestack/vdestack/internal/argv"
)

const (
	// commandEnd is how long a command may take to end once it is asked to.
	commandEnd = time.Second
	// killEnd is how long one that was killed may take. The kernel first closes
	// what it had open, and sockets wait for its lock on all networks, for
	// seconds where other programs make and remove many namespaces.
	killEnd = 10 * time.Second
)

func init() {
	Register("cmd", openCmd)
	Describe("cmd", Usage{
		Form:  "cmd://COMMAND [ARGUMENT...]",
		About: "a program that speaks the VDE stream format; =COMMAND means the same",
	})
}

// openCmd runs a command with a stream on its standard input and output. Its
// standard error is that of the process. The command is in a session of its
// own: it cannot ask for a password at the terminal, which would stop it for
// ever, and what it has started ends with it.
func openCmd(_ context.Context, l Locator, _ *Options) (Conn, error) {
	commands, err := argv.Split(l.Body(), nil)
	switch {
	case err != nil:
		return nil, err
	case len(commands) == 0:
		return nil, errors.New("no command given")
	case len(commands) > 1:
		return nil, fmt.Errorf("%d commands given, want one (with quotes: sh -c '…; …')", len(commands))
	}
	c, err := startCommand(commands[0])
	if err != nil {
		return nil, err
	}
	return newPlug(l.String(), newStream(c)), nil
}

// A command is a running program whose Read and Write are its standard output
// and input.
type command struct {
	cmd           *exec.Cmd
	stdin, stdout *os.File

	waiting sync.Once
	ended   chan struct{} // closed when the process was reaped

	mu     sync.Mutex // guards reaped: until then its pid and group are its own
	reaped bool
}

var _ io.ReadWriteCloser = (*command)(nil)

func startCommand(args []string) (*command, error) {
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
	return c, nil
}

// explainStart says why a command is not executed.
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

// Read returns how the command ended instead of the end of its output.
func (c *command) Read(b []byte) (int, error) {
	n, err := c.stdout.Read(b)
	if err != io.EOF {
		return n, err
	}
	name := c.cmd.Args[0]
	if !c.wait(commandEnd) {
		return 0, fmt.Errorf("command %q has closed its output, though it has not ended", name)
	}
	if state := c.cmd.ProcessState; state != nil {
		return 0, fmt.Errorf("command %q has ended: %w", name, &exec.ExitError{ProcessState: state})
	}
	return 0, fmt.Errorf("command %q has ended", name) // reaped by somebody else
}

// Close ends the command, first with the end of its input and SIGTERM, then by
// force.
func (c *command) Close() error {
	err := errors.Join(c.stdin.Close(), c.stdout.Close())
	c.signal(unix.SIGTERM)
	if c.wait(commandEnd) {
		return err
	}
	c.signal(unix.SIGKILL)
	if c.wait(killEnd) {
		return err
	}
	return errors.Join(err, fmt.Errorf("command %q (process %d) does not end though killed", c.cmd.Args[0], c.cmd.Process.Pid))
}

// signal sends a signal to the command and the processes it has started.
func (c *command) signal(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		unix.Kill(-c.cmd.Process.Pid, s) // fails only if there is nobody left
	}
}

// wait waits for the end of the command, and returns whether it has come.
func (c *command) wait(d time.Duration) bool {
	c.waiting.Do(func() { go c.reap() })
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.ended:
		return true
	case <-timer.C:
		return false
	}
}

// reap waits for the end of the command, kills what it has left behind, and
// lets go of its process. It is started only when the end is near, as it
// blocks a thread.
func (c *command) reap() {
	defer close(c.ended)
	for {
		// As long as the process is not reaped, the number of its group
		// cannot become that of another.
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

// starter starts commands on one thread, which lives until the last of them
// has ended: the kernel kills a command with the thread that has started it,
// not with the process.
var starter threadStarter

type threadStarter struct {
	mu       sync.Mutex  // guards the fields
	commands int         // that are running or being started
	jobs     chan func() // of the thread, while there are commands
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
