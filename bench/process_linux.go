package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

// stopWait is how long a process may take to end by itself.
const stopWait = 5 * time.Second

// A process is a worker or a program that a network needs. It has a process group of its
// own, so that nothing of it is left behind, and dies with this program. All are started
// on the main thread, which lives as long as the program: the death of the thread that
// started a process kills it.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr tail          // complete after stop
	ended  chan struct{} // closed when the process has ended

	mu     sync.Mutex // guards reaped; held while a signal is sent
	reaped bool
}

// start starts a program; isolated: in a user namespace of its own, in which it is
// privileged.
func start(isolated bool, argv ...string) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	attr := &syscall.SysProcAttr{}
	if isolated {
		attr = private.Same(0, unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE)
	}
	attr.Setpgid, attr.Pdeathsig = true, syscall.SIGKILL
	p.cmd.SysProcAttr = attr
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = stopWait
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		// It is not reaped yet, so that nobody else gets the number of the group.
		for unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return p, nil
}

// stop ends the process by the end of its input, or by force, with everything in its
// group. It may be called twice.
func (p *process) stop() {
	p.stdin.Close()
	select {
	case <-p.ended:
	case <-time.After(stopWait):
	}
	p.kill()
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.reaped = true
		p.cmd.Wait()
	}
}

// kill ends the group of the process at once.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	}
}

// request asks the worker and returns the values of its answer, which are want.
// A worker that does not answer in time is killed.
func (p *process) request(ctx context.Context, limit time.Duration, want int, fields ...any) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(ctx, p.kill)()
	text := make([]string, len(fields))
	for i, f := range fields {
		text[i] = fmt.Sprint(f)
	}
	_, err := io.WriteString(p.stdin, strings.Join(text, "\t")+"\n")
	var line string
	if err == nil {
		line, err = p.stdout.ReadString('\n')
	}
	switch {
	case err == nil:
		return parseAnswer(text[0], strings.TrimSuffix(line, "\n"), want)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: no answer in time", text[0])
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%s: the worker has ended", text[0])
}

// A tail keeps the end of what is written to it.
type tail struct{ text string }

// tailKept is how much is kept, in bytes.
const tailKept = 400

func (t *tail) Write(b []byte) (int, error) {
	t.text += string(b)
	t.text = t.text[max(0, len(t.text)-tailKept):]
	return len(b), nil
}
