//go:build linux

package vdeplug

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A cConn is a plug of the C programs.
type cConn struct {
	*plugtest.Inbox
	cmd    *exec.Cmd
	stderr *lockedBuffer
	ended  chan struct{} // closed when the process was reaped
}

// cPlug starts vde_plug on a network and returns its other end, a stream. The
// plug may not be open yet when cPlug returns: see carry.
func cPlug(t *testing.T, vnl string) *cConn {
	t.Helper()
	return cCommand(t, testenv.Need(t, "vde_plug", "vdeplug"), vnl)
}

// cCommand starts a program with a stream on its standard input and output.
func cCommand(t *testing.T, name string, arg ...string) *cConn {
	t.Helper()
	return cCommandFiles(t, nil, name, arg...)
}

// cCommandFiles is cCommand with more files for the program, from descriptor 3 on.
func cCommandFiles(t *testing.T, files []*os.File, name string, arg ...string) *cConn {
	t.Helper()
	c := &cConn{cmd: exec.Command(name, arg...), stderr: new(lockedBuffer), ended: make(chan struct{})}
	c.cmd.ExtraFiles = files
	c.cmd.Stderr = c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, w, err := os.Pipe() // not StdoutPipe: Wait closes that under its reader
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout = w
	err = c.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		c.cmd.Wait()
	}()
	t.Cleanup(func() { c.kill(t) })
	c.Inbox = plugtest.NewInbox(t, NewStream(plugtest.Pipe(stdout, stdin)))
	return c
}

// kill ends the program as a crash does, and waits for it.
func (c *cConn) kill(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
		return
	default:
	}
	syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	c.wantExit(t)
}

// quit ends the program as the end of its input does, and waits for it.
func (c *cConn) quit(t *testing.T) {
	t.Helper()
	c.Close()
	c.wantExit(t)
}

func (c *cConn) wantExit(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(testenv.Timeout):
		t.Errorf("%v did not end in %v", c.cmd.Args, testenv.Timeout)
	}
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
