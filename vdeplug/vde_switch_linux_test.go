package vdeplug

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/testenv"
)

// shortDir returns a new directory with a short name, as local sockets need.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vde")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A vdeSwitch is a running switch in C.
type vdeSwitch struct {
	dir    string
	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{}
}

// startSwitch starts a program that makes a switch in dir and ends with its
// standard input. vnl is how to write dir, if that is not the same.
func startSwitch(t testing.TB, dir string, cmd *exec.Cmd, vnl ...string) *vdeSwitch {
	t.Helper()
	s := &vdeSwitch{dir: dir, cmd: cmd, output: new(lockedBuffer), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.output, s.output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		s.signal(syscall.SIGCONT)
		s.kill(t)
	})
	testenv.Eventually(t, "a switch in "+dir, func() bool {
		c, err := Open(append(vnl, dir)[0], nil)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}, s.output.String)
	return s
}

func (s *vdeSwitch) signal(sig syscall.Signal) {
	select {
	case <-s.ended:
	default:
		s.cmd.Process.Signal(sig)
	}
}

func (s *vdeSwitch) kill(t testing.TB) { s.stop(t, syscall.SIGKILL) }

func (s *vdeSwitch) stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	s.signal(sig)
	select {
	case <-s.ended:
	case <-time.After(testenv.Timeout):
		t.Errorf("the switch did not end in %v", testenv.Timeout)
	}
}

// classicSwitch starts vde_switch.
func classicSwitch(t *testing.T, arg ...string) *vdeSwitch {
	t.Helper()
	dir := filepath.Join(shortDir(t), "sw")
	name := testenv.Need(t, "vde_switch", "vde2")
	return startSwitch(t, dir, exec.Command(name, append([]string{"-s", dir}, arg...)...))
}

// plugSwitch starts the switch of libvdeplug.
func plugSwitch(t *testing.T) *vdeSwitch {
	t.Helper()
	dir := filepath.Join(shortDir(t), "sw")
	name := testenv.Need(t, "vde_plug", "vdeplug")
	return startSwitch(t, dir, exec.Command(name, "null://", "switch://"+dir))
}

// A switchKind is one of the switches of Debian, or ours.
type switchKind struct {
	name  string
	start func(t *testing.T) *vdeSwitch
	max   int // the longest frame that passes
}

var switchKinds = []switchKind{
	{"vde_switch", func(t *testing.T) *vdeSwitch { return classicSwitch(t) }, 1518},
	{"switch", plugSwitch, ether.MaxFrame},
	{"ours", goSwitch, ether.MaxFrame},
}

func eachSwitch(t *testing.T, f func(t *testing.T, kind switchKind)) {
	for _, kind := range switchKinds {
		t.Run(kind.name, func(t *testing.T) { f(t, kind) })
	}
}

// console sends a command to the management socket of vde_switch and returns
// the answer.
func console(t *testing.T, path, command string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	r := bufio.NewReader(c)
	until := func(end string) string {
		var text strings.Builder
		for !strings.HasSuffix(text.String(), end) {
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("console: %v after %q", err, text.String())
			}
			text.WriteByte(b)
		}
		return text.String()
	}
	const prompt = "\nvde$ "
	until(prompt)
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		t.Fatal(err)
	}
	return until(prompt)
}
