// Package vdetest has switches and clients of VDE for tests: those of Debian, and others that
// the test controls. It does not use package vdeproto, which it helps to test.
package vdetest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A Switch is a program with a switch.
type Switch struct {
	*plugtest.Process
	Dir string
}

// Start starts a program that makes a switch in dir and ends with its standard input.
// It waits until ready, which connects to the switch, returns nil.
func Start(t testing.TB, dir string, cmd *exec.Cmd, ready func() error) *Switch {
	t.Helper()
	stdin := testenv.Must(cmd.StdinPipe())(t)
	s := &Switch{plugtest.Start(t, cmd), dir}
	t.Cleanup(func() {
		stdin.Close()
		s.Signal(syscall.SIGCONT)
	})
	testenv.Eventually(t, "a switch in "+dir, func() bool { return ready() == nil }, s.Stderr.String)
	return s
}

// Classic returns the command that starts vde_switch in dir.
func Classic(t testing.TB, dir string, arg ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(testenv.Need(t, "vde_switch", "vde2"), append([]string{"-s", dir}, arg...)...)
}

// Plug returns the command that starts the switch of libvdeplug in dir.
func Plug(t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	return exec.Command(testenv.Need(t, "vde_plug", "vdeplug"), "null://", "switch://"+dir)
}

// Console sends a command to the management socket of vde_switch and returns
// the answer.
func Console(t *testing.T, path, command string) string {
	t.Helper()
	c := testenv.Must(net.Dial("unix", path))(t)
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	r := bufio.NewReader(c)
	until := func(end string) string {
		var text strings.Builder
		for !strings.HasSuffix(text.String(), end) {
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("Console: %v after %q", err, text.String())
			}
			text.WriteByte(b)
		}
		return text.String()
	}
	const prompt = "\nvde$ "
	until(prompt)
	testenv.Must(io.WriteString(c, command+"\n"))(t)
	return until(prompt)
}

// Files returns the number of descriptors of a switch's process.
func (s *Switch) Files(t *testing.T) int {
	t.Helper()
	entries := testenv.Must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid)))(t)
	return len(entries)
}

// Memory returns the bytes of memory of a switch's process.
func (s *Switch) Memory(t *testing.T) int {
	t.Helper()
	text := testenv.Must(os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid)))(t)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n := testenv.Must(strconv.Atoi(strings.Fields(rest)[0]))(t)
	return n << 10
}

// CPU returns the processor time of a switch's process.
func (s *Switch) CPU(b *testing.B) (total time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.Cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no processor time of the switch", err)
	}
	for _, task := range tasks {
		text := testenv.Must(os.ReadFile(task))(b)
		ns := testenv.Must(strconv.ParseInt(strings.Fields(string(text))[0], 10, 64))(b)
		total += time.Duration(ns)
	}
	return total
}
