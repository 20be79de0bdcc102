package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// vdens returns the program, to be started with these arguments. Its process
// group is killed at the end of the test.
func vdens(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return command(t, exe, args...)
}

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout)
	cmd := exec.CommandContext(ctx, name, args...)
	// The race detector would keep the program for a second at its end.
	cmd.Env = append(os.Environ(), asVdens, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	t.Cleanup(cancel)
	return cmd
}

// runVdens runs vdens to its end, and returns its exit status and what it wrote.
func runVdens(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := vdens(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// needInterfaces skips the test where stacks cannot have interfaces.
func needInterfaces(t *testing.T) {
	t.Helper()
	if status, _, stderr := runVdens(t, "", "mem://", "--", "true"); status != 0 {
		testenv.Skip(t, "no interfaces here: %s", stderr)
	}
}

func TestRun(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	ip := testenv.Need(t, "ip", "iproute2")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, stdin    string
		args           []string
		status         int
		stdout, stderr string // parts; empty: nothing at all
	}{
		{name: "success", args: []string{"--", "true"}},
		{name: "status", args: []string{"no", "--", "/bin/sh", "-c", "exit 7"}, status: 7},
		{name: "status with a network", args: []string{"mem://", "--", "/bin/sh", "-c", "exit 8"}, status: 8},
		{name: "signal", args: []string{"mem://", "--", "/bin/sh", "-c", "kill -TERM $$"}, status: 128 + 15},
		{name: "stdio", stdin: "hello", args: []string{"--", "/bin/sh", "-c", "cat; echo oh >&2"}, stdout: "hello", stderr: "oh\n"},
		{name: "loopback only", args: []string{"--", ip, "-br", "addr"}, stdout: "lo               UNKNOWN        127.0.0.1/8"},
		{
			name:   "interfaces",
			args:   []string{"-addr", "10.0.0.1/24", "-addr", "vde1=fc00::1/64", "-gw", "10.0.0.2", "mem://a", "mem://b", "--", "/bin/sh", "-c", ip + " -br -o addr; " + ip + " route"},
			stdout: "default via 10.0.0.2 dev vde0",
		},
		{name: "privilege over the stack", args: []string{"--", ip, "addr", "add", "10.9.9.9/32", "dev", "lo"}},
		{name: "not found", args: []string{"--", "no-such-program"}, status: 127, stderr: "vdens: no-such-program: command not found\n"},
		{name: "no such file", args: []string{"--", "/no/such/program"}, status: 127, stderr: "vdens: /no/such/program: no such file or directory\n"},
		{name: "not executable", args: []string{"--", script}, status: 126, stderr: "vdens: " + script + ": permission denied\n"},
		{name: "no such network", args: []string{"vde:///no/such/switch", "--", "true"}, status: 125, stderr: "/no/such/switch"},
		{name: "gateway out of reach", args: []string{"-gw", "10.0.0.1", "mem://", "--", "true"}, status: 125, stderr: "10.0.0.1"},
		{name: "wrong use", args: []string{"-addr", "10.0.0.1/24", "--", "true"}, status: 2, stderr: "there is no interface without a network"},
		{name: "help", args: []string{"-h"}, stdout: "exit status: that of the command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runVdens(t, tt.stdin, tt.args...)
			if status != tt.status {
				t.Errorf("exit status: got %d, want %d", status, tt.status)
			}
			for _, out := range []struct{ name, got, want string }{{"stdout", stdout, tt.stdout}, {"stderr", stderr, tt.stderr}} {
				if (out.want == "") != (out.got == "") || !strings.Contains(out.got, out.want) {
					t.Errorf("%s: got %q, want %q", out.name, out.got, out.want)
				}
			}
		})
	}
}

// TestShell runs what SHELL names.
func TestShell(t *testing.T) {
	t.Setenv("SHELL", "/bin/sh")
	status, stdout, stderr := runVdens(t, "echo hello; exit 3\n")
	if status != 3 || stdout != "hello\n" {
		t.Errorf("got status %d, %q and %q, want 3 and hello", status, stdout, stderr)
	}
}

func TestDNS(t *testing.T) {
	before, err := os.ReadFile(resolvConf)
	if err != nil {
		testenv.Skip(t, "there is no %s to be replaced: %v", resolvConf, err)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	status, stdout, stderr := runVdens(t, "", "-dns", "10.0.0.53", "-dns", "fc00::53", "--", "/bin/sh", "-c", "cat /etc/resolv.conf; pwd -P; ls "+dir)
	wd, _ := os.Getwd()
	if want := "nameserver 10.0.0.53\nnameserver fc00::53\nsearch .\n" + wd + "\n"; status != 0 || !strings.HasPrefix(stdout, want) {
		t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, want)
	}
	if after, err := os.ReadFile(resolvConf); err != nil || !bytes.Equal(after, before) {
		t.Errorf("%s of the machine has changed to %q, %v", resolvConf, after, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// Nor does anything stay where the command could not start.
	if status, _, stderr := runVdens(t, "", "-dns", "10.0.0.53", "--", "/no/such/program"); status != 127 {
		t.Errorf("got status %d and %q, want 127", status, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestNames runs a command with the names of its stack, and with the machine's.
func TestNames(t *testing.T) {
	needInterfaces(t)
	machine, err := os.ReadFile(resolvConf)
	if err != nil {
		testenv.Skip(t, "there is no %s to be replaced: %v", resolvConf, err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "search .\n"},
		{[]string{"-names=false"}, string(machine)},
		{[]string{"-r", resolvConf}, string(machine)},
	} {
		status, stdout, stderr := runVdens(t, "", append(tt.args, "mem://", "--", "cat", resolvConf)...)
		if status != 0 || stdout != tt.want {
			t.Errorf("%q: got status %d, %q and %q, want %q", tt.args, status, stdout, stderr, tt.want)
		}
	}
}

// TestResolvConf gives the command a file, which stays that of its owner.
func TestResolvConf(t *testing.T) {
	if _, err := os.Stat(resolvConf); err != nil {
		testenv.Skip(t, "there is no %s to be replaced: %v", resolvConf, err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	const text = "nameserver 10.0.0.53\nsearch example.org\n"
	if err := os.WriteFile("mine", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := runVdens(t, "", "-r", "mine", "--", "cat", "/etc/resolv.conf")
	if status != 0 || stdout != text {
		t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, text)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if status, _, stderr := runVdens(t, "", "-r", "no-such", "--", "true"); status != statusFailed || !strings.Contains(stderr, "no-such: no such file") {
		t.Errorf("without the file: status %d and %q", status, stderr)
	}
}

// trap is a script that waits for a signal, and tells which. Until sleep runs,
// its process is a shell that loses other signals than SIGKILL.
const trap = `trap 'kill -9 $!; echo HUP; exit 11' HUP
trap 'kill -9 $!; echo INT; exit 12' INT
trap 'kill -9 $!; echo QUIT; exit 13' QUIT
trap 'kill -9 $!; echo TERM; exit 14' TERM
sleep 1000 & echo ready; wait`

// startTrap starts vdens with the script, and returns once that is ready.
func startTrap(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Cancel() // what is left of the group
		cmd.Wait()
	})
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("the command said %q, %v", line, err)
	}
	return stdout
}

// wantEnd waits for the end of vdens.
func wantEnd(t *testing.T, cmd *exec.Cmd, stdout io.Reader, status int, said string) {
	t.Helper()
	out, _ := io.ReadAll(stdout)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != status || string(out) != said {
		t.Errorf("got %v and %q, want exit status %d and %q", cmd.ProcessState, out, status, said)
	}
}

// TestSignals sends signals to vdens alone.
func TestSignals(t *testing.T) {
	// Under nohup SIGHUP is ignored, and vdens leaves it so. What has a handler here has
	// its default in a child.
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGHUP)
	defer signal.Stop(arrived)
	for _, tt := range []struct {
		signal syscall.Signal
		said   string
		status int
	}{{syscall.SIGTERM, "TERM\n", 14}, {syscall.SIGHUP, "HUP\n", 11}} {
		cmd := vdens(t, "--", "/bin/sh", "-c", trap)
		stdout := startTrap(t, cmd)
		// Those of the terminal are not for vdens.
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, tt.signal} {
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		wantEnd(t, cmd, stdout, tt.status, tt.said)
	}
}

// TestIgnoredSignals keeps ignored what was ignored: by nohup, and by shells
// that run vdens in the background.
func TestIgnoredSignals(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "/bin/sh", "-c", `trap "" HUP INT; exec "$@"`, "sh", exe, "--", "grep", "SigIgn", "/proc/self/status")
	out, err := cmd.CombinedOutput()
	if want := "SigIgn:\t0000000000000003\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

// TestTerminal presses keys at the terminal of vdens.
func TestTerminal(t *testing.T) {
	for _, tt := range []struct {
		key    string
		said   string
		status int
	}{{"\x03", "INT\n", 12}, {"\x1c", "QUIT\n", 13}} {
		master, slave := openPTY(t)
		cmd := vdens(t, "--", "/bin/sh", "-c", "test -t 0 && "+trap)
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		stdout := startTrap(t, cmd)
		if _, err := io.WriteString(master, tt.key); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, cmd, stdout, tt.status, tt.said)
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		testenv.Skip(t, "no terminal: %v (mount /dev/pts)", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// TestSignalEarly ends vdens while it waits for a switch that does not answer.
func TestSignalEarly(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("unix", dir+"/ctl")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := vdens(t, "vde://"+dir, "--", "echo", "never")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		cmd.Process.Signal(sig)
		cmd.Wait()
		if got, want := cmd.ProcessState.ExitCode(), 128+int(sig); got != want || out.Len() > 0 {
			t.Errorf("%v: got %v and %q, want exit status %d", sig, cmd.ProcessState, out.String(), want)
		}
	}
}

// TestKilled kills vdens, which takes the command along.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	cmd := vdens(t, "--", "/bin/sh", "-c", "echo ready; exec sleep 1000")
	stdout := startTrap(t, cmd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The end of the output is that of the command.
	if out, err := io.ReadAll(stdout); err != nil || len(out) > 0 {
		t.Errorf("got %q, %v, want the end", out, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestNetworkGone tells of a network that ends while the command runs.
func TestNetworkGone(t *testing.T) {
	needInterfaces(t)
	cmd := vdens(t, "=true", "--", "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	told := &waiter{text: "network is gone", found: make(chan struct{})}
	cmd.Stderr = told
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told.found:
	case <-time.After(testenv.Timeout):
		t.Errorf("nothing told: %q", told.buf.String())
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the command: %v", err)
	}
	if strings.Contains(told.buf.String(), "time=") {
		t.Errorf("told with the time: %q", told.buf.String())
	}
}

// A waiter waits for a text.
type waiter struct {
	text  string
	found chan struct{}
	once  sync.Once
	buf   bytes.Buffer
}

func (w *waiter) Write(b []byte) (int, error) {
	w.buf.Write(b)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.found) })
	}
	return len(b), nil
}
