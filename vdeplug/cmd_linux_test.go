package vdeplug

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestCmd(t *testing.T) {
	for _, vnl := range []string{"cmd://cat", "=cat"} { // what is sent comes back
		t.Run(vnl, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openInbox(t, vnl)
			for _, n := range []int{14, 60, 1514, 4094, 4095, ether.MaxFrame} {
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
				testenv.Check(t, c.Send(frame))
				c.Want(t, frame)
			}
			wantDrops(t, c.Conn, Drops{})
		})
	}
}

func TestCmdEnds(t *testing.T) {
	testenv.Long(t)
	tests := []struct {
		command, text string
		exit          bool
	}{
		{"true", `command "true" has ended: exit status 0`, true},
		{"sh -c 'exit 3'", `command "sh" has ended: exit status 3`, true},
		{"sh -c 'kill -9 $$'", "has ended: signal: killed", true},
		{`sh -c 'printf "\0"'`, "has ended: exit status 0", true},
		{"echo 'login: '", "this is not a VDE stream", false},
		{"sh -c 'exec >&-; sleep 1000'", "has closed its output, but has not ended", false},
		// Processes that the command leaves behind end with it.
		{"sh -c 'sleep 1000 >/dev/null & exit 4'", "exit status 4", true},
	}
	for _, tt := range tests {
		t.Run(tt.command, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openInbox(t, "cmd://"+tt.command)
			err := c.WantEnd(t)
			plugtest.WantError(t, err, tt.text)
			plugtest.WantError(t, err, fmt.Sprintf("vdeplug: recv %q: ", Redact("cmd://"+tt.command)))
			var exit *exec.ExitError
			if errors.As(err, &exit) != tt.exit {
				t.Errorf("got %v, want an exit status: %v", err, tt.exit)
			}
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return state[0] != 'Z'
}

// pidFile waits for the process number that a command writes.
func pidFile(t *testing.T, path string) (pid int) {
	t.Helper()
	testenv.Eventually(t, "a number in "+path, func() bool {
		text, _ := os.ReadFile(path)
		pid, _ = strconv.Atoi(strings.TrimSuffix(string(text), "\n"))
		return pid > 0 && strings.HasSuffix(string(text), "\n")
	})
	return pid
}

// TestCmdClose ends commands that ignore signals, and the processes that they started.
func TestCmdClose(t *testing.T) {
	testenv.Long(t)
	tests := []struct{ name, script string }{
		{"obedient", "echo $$ >PID; exec cat"},
		{"deaf", "trap '' TERM; echo $$ >PID; while :; do sleep 1; done"},
		{"child", "sleep 1000 & echo $! >PID; wait"},
		{"deaf child", "(trap '' TERM; while :; do sleep 1; done) & echo $! >PID; wait"},
		{"stopped", "echo $$ >PID; kill -STOP $$"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			file := filepath.Join(t.TempDir(), "pid")
			c := openInbox(t, "cmd://sh -c \""+strings.ReplaceAll(tt.script, "PID", file)+"\"")
			pid := pidFile(t, file)
			start := time.Now()
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("Close took %v", d)
			}
			if err := c.WantEnd(t); err != net.ErrClosed {
				t.Errorf("recv: got %v, want net.ErrClosed", err)
			}
			testenv.Eventually(t, "the end of the process", func() bool { return !alive(pid) })
		})
	}
}

func init() {
	testenv.Programs["plug"] = func() { // receives until its network ends
		c, err := Open(os.Args[1], nil)
		if err == nil {
			err = plugtest.Drain(c)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestCmdKilled kills the program that has opened the plug: the command ends.
func TestCmdKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	cmd := testenv.Program(t.Context(), t, "plug", "cmd://sh -c 'echo $$ >"+file+"; while :; do sleep 1; done'")
	testenv.Check(t, cmd.Start())
	pid := pidFile(t, file)
	cmd.Process.Signal(unix.SIGKILL)
	cmd.Wait()
	testenv.Eventually(t, "the end of the command", func() bool { return !alive(pid) })
}

// TestCmdSeveral ends one of two commands: the thread that started both must not end with
// it.
func TestCmdSeveral(t *testing.T) {
	testenv.NoLeaks(t)
	first := openInbox(t, "cmd://cat")
	second := openInbox(t, "cmd://cat")
	first.Close()
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	testenv.Check(t, second.Send(frame))
	second.Want(t, frame)
}

func BenchmarkCmd(b *testing.B) {
	c := openPlug(b, "cmd://cat")
	benchPlugs(b, c, c, plugtest.Broadcast)
}
