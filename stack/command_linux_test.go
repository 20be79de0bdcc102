package stack_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"golang.org/x/sys/unix"
)

func TestCommand(t *testing.T) {
	netnstest.NoLeaks(t)
	var pings sync.WaitGroup // they end with the stack
	t.Cleanup(pings.Wait)
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	ctx := t.Context()

	t.Run("tools", func(t *testing.T) {
		for _, tt := range []struct {
			pkg, want string
			args      []string
		}{
			{"iproute2", "10.0.0.1/24", []string{"ip", "addr", "show", "vde0"}},
			{"iproute2", "", []string{"ip", "link", "set", "vde0", "mtu", "1400"}},
			{"iputils-ping", "1 received", []string{"ping", "-c", "1", "10.0.0.1"}},
			{"busybox", "mtu 1400", []string{"busybox", "ip", "link"}},
			{"tcpdump", "vde0", []string{"tcpdump", "-D"}},
		} {
			tt.args[0] = testenv.Need(t, tt.args[0], tt.pkg)
			out, err := s.Command(ctx, tt.args[0], tt.args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), tt.want) {
				t.Errorf("%q: %v, got %q, want %q in it", tt.args, err, out, tt.want)
			}
		}
	})

	t.Run("capture", func(t *testing.T) {
		testenv.Long(t)
		cmd := s.Command(ctx, testenv.Need(t, "tcpdump", "tcpdump"), "-c", "2", "-l", "-n", "-i", "vde0", "arp")
		stderr := testenv.Must(cmd.StderrPipe())(t)
		var out bytes.Buffer
		cmd.Stdout = &out
		testenv.Check(t, cmd.Start())
		for text := ""; !strings.Contains(text, "listening on"); {
			buf := make([]byte, 1000)
			n, err := stderr.Read(buf)
			if text += string(buf[:n]); err != nil {
				t.Fatal(text, err)
			}
		}
		pings.Go(func() { s.Command(ctx, "ping", "-c", "3", "-W", "1", "10.0.0.77").Run() })
		io.Copy(io.Discard, stderr)
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "Request who-has 10.0.0.77") {
			t.Errorf("got %q, %v", out.String(), err)
		}
	})

	t.Run("status", func(t *testing.T) {
		var exit *exec.ExitError
		err := s.Command(ctx, "sh", "-c", "echo oops >&2; exit 3").Run()
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || err.Error() != "exit status 3" {
			t.Errorf("exit 3: %v", err)
		}
		if _, err = s.Command(ctx, "sh", "-c", "echo oops >&2; exit 3").Output(); !errors.As(err, &exit) || string(exit.Stderr) != "oops\n" {
			t.Errorf("Output: %v", err)
		}
		err = s.Command(ctx, "sh", "-c", "kill -KILL $$").Run()
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL || err.Error() != "signal: killed" {
			t.Errorf("signal: %v", err)
		}
		for name, is := range map[string]error{"no-such-command": exec.ErrNotFound, "/no/such/command": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
			if err := s.Command(ctx, name).Run(); !errors.Is(err, is) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: got %v, want %v", name, err, is)
			}
		}
		c := s.Command(ctx, "true")
		c.Dir = "/no/such/directory"
		if err := c.Run(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c.Dir) {
			t.Errorf("no such directory: %v", err)
		}
		c = s.Command(ctx, "echo", "a\x00b")
		if err := c.Run(); err == nil || !strings.Contains(err.Error(), "zero byte") {
			t.Errorf("zero byte: %v", err)
		}
	})

	t.Run("stdio", func(t *testing.T) {
		want := strings.Repeat("all of it\n", 100000)
		c := s.Command(ctx, "cat")
		c.Stdin = strings.NewReader(want)
		if out, err := c.Output(); string(out) != want {
			t.Errorf("cat gave %d bytes, %v, want %d", len(out), err, len(want))
		}
		c = s.Command(ctx, "sh", "-c", "head -c 5 >/dev/null") // leaves most of its input
		c.Stdin = strings.NewReader(want)
		testenv.Check(t, c.Run())
		c = s.Command(ctx, "sh", "-c", "echo out; echo err >&2")
		if out, err := c.CombinedOutput(); string(out) != "out\nerr\n" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
		c = s.Command(ctx, "cat")
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		testenv.Check(t, c.Start())
		for range 3 {
			io.WriteString(in, "ping")
			buf := make([]byte, 10)
			if n, err := out.Read(buf); string(buf[:n]) != "ping" {
				t.Fatalf("got %q, %v", buf[:n], err)
			}
		}
		in.Close()
		testenv.Check(t, c.Wait())
		if err := c.Wait(); err == nil {
			t.Error("a second Wait succeeds")
		}
		if err := c.Start(); err == nil {
			t.Error("a second Start succeeds")
		}
	})

	t.Run("surroundings", func(t *testing.T) {
		dir := t.TempDir()
		os.Chmod(filepath.Dir(dir), 0o755)
		f := testenv.Opened(os.Create(filepath.Join(dir, "extra")))(t)
		c := s.Command(ctx, "sh", "-c", "pwd; echo $A $PWD; echo extra >&4; test -e /proc/self/fd/3 || echo closed")
		c.Dir = dir
		c.Env = []string{"A=b", "PATH=" + os.Getenv("PATH")}
		c.ExtraFiles = []*os.File{nil, f}
		out, err := c.CombinedOutput()
		if want := dir + "\nb " + dir + "\nclosed\n"; string(out) != want || err != nil {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
		if text, err := os.ReadFile(f.Name()); string(text) != "extra\n" {
			t.Errorf("extra file: %q, %v", text, err)
		}
		group, err := s.Command(ctx, "sh", "-c", "ps -o pgid= -o pid= $$").Output()
		if f := strings.Fields(string(group)); err == nil && (len(f) != 2 || f[0] != f[1]) {
			t.Errorf("process group and number: %q", group)
		}
		c = s.Command(ctx, "sh", "-c", "cut -d' ' -f5 /proc/self/stat")
		c.KeepGroup = true
		out, err = c.Output()
		if want, _ := os.ReadFile("/proc/self/stat"); err != nil || strings.TrimSpace(string(out)) != strings.Fields(string(want))[4] {
			t.Errorf("KeepGroup: the group is %q, %v, the program's %s", out, err, want)
		}
	})

	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := s.Command(ctx, "sh", "-c", "echo ready; sleep 1000 & wait")
		out, _ := c.StdoutPipe()
		testenv.Check(t, c.Start())
		out.Read(make([]byte, 10))
		cancel()
		io.Copy(io.Discard, out) // ends when sleep is dead too
		if err := c.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := s.Command(ctx, "true").Run(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
		c = s.Command(t.Context(), "sh", "-c", "setsid sleep 1000 & echo $!")
		pids := &bytes.Buffer{}
		c.Stdout = pids
		c.WaitDelay = 100 * time.Millisecond
		if err := c.Run(); !errors.Is(err, exec.ErrWaitDelay) {
			t.Errorf("a stranger holds the pipe: %v", err)
		}
		s.Command(t.Context(), "kill", strings.TrimSpace(pids.String())).Run()
	})
}

// TestCommandSysAdmin gives a command what it needs to mount, and a name of the machine.
func TestCommandSysAdmin(t *testing.T) {
	s := open(t, "")
	here := testenv.Must(os.Hostname())(t)
	script := fmt.Sprintf("uname -n; mount -t tmpfs none %[1]s && : >%[1]s/x && ls %[1]s", t.TempDir())
	for _, hostname := range []string{"guest", ""} {
		cmd := s.Command(t.Context(), "/bin/sh", "-c", script)
		cmd.SysAdmin, cmd.Hostname = true, hostname
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != cmp.Or(hostname, here)+"\nx\n" {
			t.Errorf("got %q, %v, want %s and a mount", out, err, cmp.Or(hostname, here))
		}
	}
	// Otherwise the command has neither.
	cmd := s.Command(t.Context(), "/bin/sh", "-c", "uname -n; readlink /proc/self/ns/mnt; grep CapAmb /proc/self/status")
	cmd.Hostname = strings.Repeat("h", 64)
	out, err := cmd.CombinedOutput()
	mnt := testenv.Must(os.Readlink("/proc/self/ns/mnt"))(t)
	if want := cmd.Hostname + "\n" + mnt + "\nCapAmb:\t0000000000003c00\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	if name := testenv.Must(os.Hostname())(t); name != here {
		t.Errorf("the machine is called %q now", name)
	}
	cmd = s.Command(t.Context(), "true")
	cmd.Hostname = strings.Repeat("h", 65)
	plugtest.WantError(t, cmd.Run(), "longer than 64 bytes")
}

// TestCloseKillsCommands closes a stack under commands, one of which left its
// process group running.
func TestCloseKillsCommands(t *testing.T) {
	s := open(t, "")
	start := func(script string) (*stack.Cmd, io.Reader) {
		c := s.Command(context.Background(), "sh", "-c", script)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		c.Stdout = w
		testenv.Check(t, c.Start())
		w.Close()
		r.SetReadDeadline(time.Now().Add(10 * time.Second))
		r.Read(make([]byte, 6))
		return c, r
	}
	running, pipe1 := start("sleep 1000 & echo ready; wait")
	gone, pipe2 := start("sleep 1000 & echo ready")
	testenv.Check(t, gone.Wait())
	testenv.Check(t, s.Close())
	for _, p := range []io.Reader{pipe1, pipe2} { // their ends close when all are dead
		testenv.Must(io.Copy(io.Discard, p))(t)
	}
	var exit *exec.ExitError
	if err := running.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("command of a closed stack: %v", err)
	}
}
