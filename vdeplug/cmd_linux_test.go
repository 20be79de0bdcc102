package vdeplug

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestCmd(t *testing.T) {
	for _, vnl := range []string{"cmd://cat", "=cat"} { // a stream that comes back
		t.Run(vnl, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openInbox(t, vnl)
			for _, n := range []int{14, 60, 1514, 4094, 4095, ether.MaxFrame} {
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
				if err := c.Send(frame); err != nil {
					t.Fatal(err)
				}
				c.Want(t, frame)
			}
			if got := c.Conn.(Dropper).Drops(); got != (Drops{}) {
				t.Errorf("got %+v, want no drops", got)
			}
		})
	}
}

func TestCmdConn(t *testing.T) {
	for _, command := range []string{"cat", "sleep 1000"} {
		t.Run(command, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn {
				c, err := Open("cmd://"+command, nil)
				if err != nil {
					t.Fatal(err)
				}
				return c
			})
		})
	}
}

func TestCmdOpenErrors(t *testing.T) {
	testenv.NoLeaks(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		vnl, text string
		err       error
	}{
		{vnl: "cmd://", text: "no command given"},
		{vnl: "= ;", text: "no command given"},
		{vnl: "cmd://cat; cat", text: "2 commands given, want one"},
		{vnl: "cmd://cat 'x", text: `byte 4, at "'x": this quote does not end`},
		{vnl: "cmd://no-such-command-here x", text: `"no-such-command-here"`, err: exec.ErrNotFound},
		{vnl: "cmd:///nowhere/cat", text: "/nowhere/cat", err: fs.ErrNotExist},
		{vnl: "cmd://" + plain, text: plain, err: fs.ErrPermission},
		{vnl: "cmd://''", text: "no command"},
	}
	for _, tt := range tests {
		_, err := Open(tt.vnl, nil)
		wantError(t, err, tt.text)
		if tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%q: got %v, want an error that wraps %v", tt.vnl, err, tt.err)
		}
	}
}

func TestCmdEnds(t *testing.T) {
	tests := []struct {
		command, text string
		exit          bool
	}{
		{"true", `command "true" has ended: exit status 0`, true},
		{"sh -c 'exit 3'", `command "sh" has ended: exit status 3`, true},
		{"sh -c 'kill -9 $$'", "has ended: signal: killed", true},
		{`sh -c 'printf "\0"'`, "has ended: exit status 0", true},
		{"echo 'login: '", "this is no VDE stream", false},
		{"sh -c 'exec >&-; sleep 1000'", "has closed its output, though it has not ended", false},
		// What the command has left behind ends with it.
		{"sh -c 'sleep 1000 >/dev/null & exit 4'", "exit status 4", true},
	}
	for _, tt := range tests {
		t.Run(tt.command, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openInbox(t, "cmd://"+tt.command)
			err := c.WantEnd(t)
			wantError(t, err, tt.text)
			wantError(t, err, fmt.Sprintf("vdeplug: recv %q: ", "cmd://"+tt.command))
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

// TestCmdClose ends commands that do not want to, and what they have started.
func TestCmdClose(t *testing.T) {
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

// TestCmdKilled kills the process that has opened the plug, as it cannot be
// prepared for.
func TestCmdKilled(t *testing.T) {
	if file := os.Getenv("VDEPLUG_TEST_CMD"); file != "" {
		c, err := Open("cmd://sh -c 'echo $$ >"+file+"; while :; do sleep 1; done'", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Recv(make([]byte, ether.MaxFrame))
		t.Fatal("the command has ended")
	}
	file := filepath.Join(t.TempDir(), "pid")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestCmdKilled$")
	cmd.Env = append(os.Environ(), "VDEPLUG_TEST_CMD="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidFile(t, file)
	cmd.Process.Signal(unix.SIGKILL)
	cmd.Wait()
	testenv.Eventually(t, "the end of the command", func() bool { return !alive(pid) })
}

// TestCmdSeveral ends one of two commands: the thread that has started both
// must not end with it.
func TestCmdSeveral(t *testing.T) {
	testenv.NoLeaks(t)
	first := openInbox(t, "cmd://cat")
	second := openInbox(t, "cmd://cat")
	first.Close()
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	if err := second.Send(frame); err != nil {
		t.Fatal(err)
	}
	second.Want(t, frame)
}
