package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// vdens returns the program, to be started with these arguments. Its process
// group is killed at the end of the test.
func vdens(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe := testenv.Must(os.Executable())(t)
	return command(t, exe, args...)
}

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(testenv.Context(t), name, args...)
	// The race detector would keep the program for a second at its end.
	cmd.Env = append(os.Environ(), asVdens, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
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
	testenv.Check(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600))
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
		{name: "help", args: []string{"-h"}, stdout: "exit status:\nThat of the command"},
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

// needResolvConf returns the machine's resolv.conf, and skips the test without one.
func needResolvConf(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		testenv.Skip(t, "there is no %s to be replaced: %v", resolvConf, err)
	}
	return text
}

// wantFiles checks how many files are left in a directory.
func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != want {
		t.Errorf("left behind: %v, %v, want %d", left, err, want)
	}
}

func TestDNS(t *testing.T) {
	before := needResolvConf(t)
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
	wantFiles(t, dir, 0)
	// Nothing stays if the command cannot start either.
	if status, _, stderr := runVdens(t, "", "-dns", "10.0.0.53", "--", "/no/such/program"); status != 127 {
		t.Errorf("got status %d and %q, want 127", status, stderr)
	}
	wantFiles(t, dir, 0)
}

// TestNames runs a command with the names of its stack, and with the machine's.
func TestNames(t *testing.T) {
	needInterfaces(t)
	machine := needResolvConf(t)
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

// TestNested runs vdens in vdens: each command has its own names.
func TestNested(t *testing.T) {
	needResolvConf(t)
	t.Setenv("TMPDIR", t.TempDir())
	const text = `echo $0 $(cat /etc/resolv.conf); "$@"; echo $0 $(cat /etc/resolv.conf)`
	var args []string
	for _, n := range []string{"1", "2", "3"} {
		if args != nil {
			args = append([]string{"env", asVdens, testenv.Must(os.Executable())(t)}, args...)
		}
		args = append([]string{"-dns", "10.0.0." + n, "--", "sh", "-c", text, n}, args...)
	}
	status, stdout, stderr := runVdens(t, "", args...)
	var want string
	for _, n := range []string{"3", "2", "1", "1", "2", "3"} {
		want += n + " nameserver 10.0.0." + n + " search .\n"
	}
	if status != 0 || stdout != want || stderr != "" {
		t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, want)
	}
	wantFiles(t, os.TempDir(), 0)
}

// TestResolvConf gives the command a file of the user's, which stays.
func TestResolvConf(t *testing.T) {
	needResolvConf(t)
	dir := t.TempDir()
	t.Chdir(dir)
	const text = "nameserver 10.0.0.53\nsearch example.org\n"
	testenv.Check(t, os.WriteFile("mine", []byte(text), 0o600))
	status, stdout, stderr := runVdens(t, "", "-r", "mine", "--", "cat", "/etc/resolv.conf")
	if status != 0 || stdout != text {
		t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, text)
	}
	wantFiles(t, dir, 1)
	if status, _, stderr := runVdens(t, "", "-r", "no-such", "--", "true"); status != program.StatusFailed || !strings.Contains(stderr, "no-such: no such file") {
		t.Errorf("without the file: status %d and %q", status, stderr)
	}
}

// trap is a script that waits for a signal and names it. Until sleep runs, that process
// is a shell, which loses all signals but SIGKILL.
const trap = `trap 'kill -9 $!; echo HUP; exit 11' HUP
trap 'kill -9 $!; echo INT; exit 12' INT
trap 'kill -9 $!; echo QUIT; exit 13' QUIT
trap 'kill -9 $!; echo TERM; exit 14' TERM
sleep 1000 & echo ready; wait`

// startTrap starts vdens with the script, and returns once that is ready.
func startTrap(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	stdout := testenv.Must(cmd.StdoutPipe())(t)
	testenv.Check(t, cmd.Start())
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

// TestSignals sends signals to vdens only.
func TestSignals(t *testing.T) {
	// Under nohup SIGHUP is ignored, and vdens keeps that. With a handler here a child
	// has the default.
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
		// vdens ignores the terminal's signals.
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, tt.signal} {
			testenv.Check(t, cmd.Process.Signal(sig))
		}
		wantEnd(t, cmd, stdout, tt.status, tt.said)
	}
}

// TestIgnoredSignals keeps signals ignored that nohup ignores, or a shell that runs vdens
// in the background.
func TestIgnoredSignals(t *testing.T) {
	exe := testenv.Must(os.Executable())(t)
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
		master, name := testenv.PTY(t)
		slave := testenv.Must(os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0))(t)
		defer slave.Close()
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

// TestSignalEarly ends vdens while it waits for a switch that does not answer.
func TestSignalEarly(t *testing.T) {
	dir := t.TempDir()
	ln := testenv.Must(net.Listen("unix", dir+"/ctl"))(t)
	defer ln.Close()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := vdens(t, "vde://"+dir, "--", "echo", "never")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		testenv.Check(t, cmd.Start())
		conn := testenv.Must(ln.Accept())(t)
		defer conn.Close()
		cmd.Process.Signal(sig)
		cmd.Wait()
		if got, want := cmd.ProcessState.ExitCode(), 128+int(sig); got != want || out.Len() > 0 {
			t.Errorf("%v: got %v and %q, want exit status %d", sig, cmd.ProcessState, out.String(), want)
		}
	}
}

// TestKilled kills vdens, and the command with it.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	cmd := vdens(t, "--", "/bin/sh", "-c", "echo ready; exec sleep 1000")
	stdout := startTrap(t, cmd)
	testenv.Check(t, cmd.Process.Kill())
	// The output ends with the command.
	if out, err := io.ReadAll(stdout); err != nil || len(out) > 0 {
		t.Errorf("got %q, %v, want the end", out, err)
	}
	wantFiles(t, dir, 0)
}

// TestNetworkGone reports a network that ends while the command runs.
func TestNetworkGone(t *testing.T) {
	needInterfaces(t)
	cmd := vdens(t, "=true", "--", "cat")
	stdin := testenv.Must(cmd.StdinPipe())(t)
	stderr := new(testenv.Buffer)
	cmd.Stderr = stderr
	testenv.Check(t, cmd.Start())
	wantText(t, stderr, "network is gone")
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the command: %v", err)
	}
	if strings.Contains(stderr.String(), "time=") {
		t.Errorf("it logs the time: %q", stderr.String())
	}
}

// wantText waits until a running program has written a text.
func wantText(t *testing.T, b *testenv.Buffer, text string) {
	t.Helper()
	testenv.Eventually(t, "the text "+text, func() bool { return strings.Contains(b.String(), text) }, b.String)
}
