package plugtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A CConn is a plug of the C programs.
type CConn struct {
	*Inbox
	Cmd    *exec.Cmd
	Stderr *testenv.Buffer
	Ended  chan struct{} // closed when the process was reaped
}

// CPlug starts vde_plug on a network and returns its other end, a stream. The plug may not be
// open yet; Carry waits for it.
func CPlug(t *testing.T, vnl string) *CConn {
	t.Helper()
	return CCommand(t, testenv.Need(t, "vde_plug", "vdeplug"), vnl)
}

// CCommand starts a program with a stream on its standard input and output.
func CCommand(t *testing.T, name string, arg ...string) *CConn {
	t.Helper()
	return CCommandFiles(t, nil, name, arg...)
}

// CCommandFiles is CCommand with more files for the program, from descriptor 3 on.
func CCommandFiles(t *testing.T, files []*os.File, name string, arg ...string) *CConn {
	t.Helper()
	c := &CConn{Cmd: exec.Command(name, arg...), Stderr: new(testenv.Buffer), Ended: make(chan struct{})}
	c.Cmd.ExtraFiles = files
	c.Cmd.Stderr = c.Stderr
	c.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := c.Cmd.StdinPipe()
	testenv.Check(t, err)
	stdout, w, err := os.Pipe() // not StdoutPipe: Wait closes that under its reader
	testenv.Check(t, err)
	c.Cmd.Stdout = w
	err = c.Cmd.Start()
	w.Close()
	testenv.Check(t, err)
	go func() {
		defer close(c.Ended)
		c.Cmd.Wait()
	}()
	t.Cleanup(func() { c.Kill(t) })
	c.Inbox = NewInbox(t, newStream(pipes{stdout, stdin}))
	return c
}

// Kill ends the program as a crash does, and waits for it.
func (c *CConn) Kill(t *testing.T) {
	t.Helper()
	select {
	case <-c.Ended:
		return
	default:
	}
	syscall.Kill(-c.Cmd.Process.Pid, syscall.SIGKILL)
	c.WantExit(t)
}

// Quit ends the program as the end of its input does, and waits for it.
func (c *CConn) Quit(t *testing.T) {
	t.Helper()
	c.Close()
	c.WantExit(t)
}

// WantExit waits for the end of the program.
func (c *CConn) WantExit(t *testing.T) {
	t.Helper()
	select {
	case <-c.Ended:
	case <-time.After(testenv.Timeout):
		t.Errorf("%v did not end in %v", c.Cmd.Args, testenv.Timeout)
	}
}
