package plugtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A Process is a running program, which is killed at the end of the test.
type Process struct {
	Cmd    *exec.Cmd
	Stderr *testenv.Buffer // and standard output, unless that goes elsewhere
	Ended  chan struct{}   // closed when the process was reaped
}

// Start starts a program in a process group of its own.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd, new(testenv.Buffer), make(chan struct{})}
	cmd.Stderr = p.Stderr
	if cmd.Stdout == nil {
		cmd.Stdout = p.Stderr
	}
	if cmd.SysProcAttr == nil { // else it has the user
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	testenv.Check(t, cmd.Start())
	go func() {
		defer close(p.Ended)
		cmd.Wait()
	}()
	t.Cleanup(func() { p.Kill(t) })
	return p
}

// Signal sends a signal to the group of the program, unless it has ended.
func (p *Process) Signal(sig syscall.Signal) {
	select {
	case <-p.Ended:
	default:
		syscall.Kill(-p.Cmd.Process.Pid, sig)
	}
}

// Stop ends the program by a signal, and waits for it.
func (p *Process) Stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	p.Signal(sig)
	p.WantExit(t)
}

// Kill ends the program as a crash does, and waits for it.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.Stop(t, syscall.SIGKILL)
}

// WantExit waits for the end of the program.
func (p *Process) WantExit(t testing.TB) {
	t.Helper()
	select {
	case <-p.Ended:
	case <-time.After(testenv.Timeout):
		t.Errorf("%v did not end in %v", p.Cmd.Args, testenv.Timeout)
	}
}

// A CConn is a plug of the C programs.
type CConn struct {
	*Inbox
	*Process
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
	cmd := exec.Command(name, arg...)
	cmd.ExtraFiles = files
	stdin := testenv.Must(cmd.StdinPipe())(t)
	stdout, w, err := os.Pipe() // not StdoutPipe: Wait closes that under its reader
	testenv.Check(t, err)
	defer w.Close()
	cmd.Stdout = w
	c := &CConn{Process: Start(t, cmd)}
	c.Inbox = NewInbox(t, newStream(pipes{stdout, stdin}))
	return c
}

// Quit ends the program as the end of its input does, and waits for it.
func (c *CConn) Quit(t *testing.T) {
	t.Helper()
	c.Close()
	c.WantExit(t)
}

const childVariable = "VDEPLUG_TEST_CHILD"

// InChild runs another test of the package, with an argument, in another process in the same
// namespaces, as a user. The test fails if that one does.
func InChild(t *testing.T, name, arg string, user *syscall.Credential) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"=+"+arg,
		"VDESTACK_TEST_STAGE=2") // there is a private network already
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s in another process: %v\n%s", name, err, out)
	}
}

// AsNobody is InChild as an ordinary user.
func AsNobody(t *testing.T, name, arg string) {
	t.Helper()
	InChild(t, name, arg, &syscall.Credential{Uid: 65534, Gid: 65534})
}

// ChildArg returns the argument of InChild, or skips a test that was not started by it.
func ChildArg(t *testing.T) string {
	t.Helper()
	arg := os.Getenv(childVariable)
	if arg == "" {
		t.Skip("is a part of another test")
	}
	return arg[1:]
}
