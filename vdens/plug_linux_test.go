package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// startSwitch starts vde_switch in a directory.
func startSwitch(t *testing.T, dir string) *vdetest.Switch {
	t.Helper()
	return vdetest.Start(t, dir, vdetest.Classic(t, dir), func() error {
		c, err := vdeplug.Open(dir, nil)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func newSwitch(t *testing.T) *vdetest.Switch {
	t.Helper()
	return startSwitch(t, filepath.Join(testenv.ShortDir(t), "sw"))
}

// newStation opens a plug on a switch, which reconnects.
func newStation(t *testing.T, dir string) *plugtest.Inbox {
	t.Helper()
	c := testenv.Must(vdeplug.Open(dir, &vdeplug.Options{Reconnect: true}))(t)
	return plugtest.NewInbox(t, c)
}

// TestPlug joins two switches, by itself and with Debian's programs.
func TestPlug(t *testing.T) {
	exe := testenv.Must(os.Executable())(t)
	vdePlug := testenv.Need(t, "vde_plug", "vdeplug")
	dpipe := testenv.Need(t, "dpipe", "vdeplug")
	for _, tt := range []struct {
		name string
		args func(a, b string) []string
	}{
		{"two networks", func(a, b string) []string { return []string{exe, "plug", a, b} }},
		{"two that would come back", func(a, b string) []string { return []string{exe, "plug", "-reconnect", a, b} }},
		{"command", func(a, b string) []string { return []string{exe, "plug", a, "=" + vdePlug + " " + b} }},
		{"itself as command", func(a, b string) []string {
			return []string{exe, "plug", a, "=env " + asVdens + " " + exe + " plug " + b}
		}},
		{"shell, as ssh has it", func(a, b string) []string {
			return []string{dpipe, exe, "plug", a, "=", "/bin/sh", "-c", "exec " + exe + " plug " + b}
		}},
		{"dpipe", func(a, b string) []string { return []string{dpipe, exe, "plug", a, "=", vdePlug, b} }},
		{"dpipe the other way", func(a, b string) []string { return []string{dpipe, vdePlug, a, "=", exe, "plug", b} }},
		{"command of vde_plug", func(a, b string) []string { return []string{vdePlug, a, "=", exe, "plug", b} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newSwitch(t), newSwitch(t)
			sa, sb := newStation(t, a.Dir), newStation(t, b.Dir)
			args := tt.args(a.Dir, b.Dir)
			cmd := command(t, args[0], args[1:]...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			in := testenv.Must(cmd.StdinPipe())(t) // stays open
			defer in.Close()
			testenv.Check(t, cmd.Start())
			plugtest.CarryBoth(t, sa, sb, 60, 1514)
			if attr, err := unix.SchedGetAttr(cmd.Process.Pid, 0); args[0] == exe && (err != nil || attr.Policy != unix.SCHED_BATCH) {
				t.Errorf("it is scheduled by %+v, %v, want SCHED_BATCH", attr, err)
			}
			// The signal is for the whole group, and all end.
			syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			cmd.Wait()
			if args[0] == exe && (cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) || stderr.Len() > 0) {
				t.Errorf("it ended with %v: %s", cmd.ProcessState, &stderr)
			}
		})
	}
}

// TestPlugEnds ends the stream, and the network.
func TestPlugEnds(t *testing.T) {
	sw := newSwitch(t)
	here := newStation(t, sw.Dir)
	frame := append([]byte{0, 60}, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), 60)...)
	for _, tt := range []struct {
		name, stdin string
		args        []string
		status      int
		stderr      string
	}{
		{name: "no stream", args: []string{sw.Dir}},
		{name: "a frame", stdin: string(frame), args: []string{sw.Dir}},
		{name: "half a frame", stdin: string(frame[:40]), args: []string{sw.Dir}, status: statusFailed, stderr: "the peer has ended the stream within a frame"},
		{name: "half a length", stdin: "\x00", args: []string{sw.Dir}, status: statusFailed, stderr: "within a frame"},
		{name: "no frame", stdin: "hello", args: []string{sw.Dir}, status: statusFailed, stderr: "this is not a VDE stream"},
		{name: "no switch", args: []string{sw.Dir + "x"}, status: statusFailed, stderr: "no switch there"},
		{name: "no second switch", args: []string{sw.Dir, sw.Dir + "x"}, status: statusFailed, stderr: "no switch there"},
		{name: "no command", args: []string{sw.Dir, "=no-such-program"}, status: statusNotFound, stderr: "no-such-program: command not found"},
		{name: "three networks", args: []string{"a", "b", "c"}, status: statusUsage, stderr: "plug joins two networks"},
		{name: "option", args: []string{"-x"}, status: statusUsage, stderr: "-x"},
		{name: "command ends", args: []string{sw.Dir, "=sh -c 'exit 3'"}, status: statusFailed, stderr: "has ended: exit status 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runVdens(t, tt.stdin, append([]string{"plug"}, tt.args...)...)
			if status != tt.status || stdout != "" || (tt.stderr == "") != (stderr == "") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("got status %d, %q and %q, want %d and %q", status, stdout, stderr, tt.status, tt.stderr)
			}
		})
	}
	if got := here.Next(t); !bytes.Equal(got, frame[2:]) {
		t.Errorf("got %x, want the frame before the end of the stream", got)
	}
	var usage strings.Builder
	testenv.Check(t, showUsage(&usage))
	if status, stdout, _ := runVdens(t, "", "plug", "-h"); status != 0 || stdout != usage.String() {
		t.Errorf("help: %d, %q", status, stdout)
	}
}

// TestPlugSwitchGone kills the switch, and starts it again.
func TestPlugSwitchGone(t *testing.T) {
	a, b := newSwitch(t), newSwitch(t)
	sa, sb := newStation(t, a.Dir), newStation(t, b.Dir)
	start := func(arg ...string) (*exec.Cmd, *testenv.Buffer) {
		cmd := vdens(t, append([]string{"plug"}, arg...)...)
		stderr := new(testenv.Buffer)
		cmd.Stderr = stderr
		testenv.Check(t, cmd.Start())
		plugtest.CarryBoth(t, sa, sb, 60)
		return cmd, stderr
	}
	cmd, stderr := start(a.Dir, b.Dir)
	b.Kill(t)
	cmd.Wait()
	if text := stderr.String(); cmd.ProcessState.ExitCode() != statusFailed || !strings.Contains(text, "the switch closed the connection") {
		t.Errorf("got %v and %q", cmd.ProcessState, text)
	}
	b = startSwitch(t, b.Dir)

	cmd, stderr = start("-reconnect", a.Dir, b.Dir)
	b.Kill(t)
	startSwitch(t, b.Dir)
	wantText(t, stderr, "network is back")
	plugtest.CarryBoth(t, sa, sb, 60)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if text := stderr.String(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGINT) || !strings.Contains(text, "network is gone, reconnecting") {
		t.Errorf("got %v and %q", cmd.ProcessState, text)
	}
}

// TestPlugReaderGone closes the stream that vdens writes to.
func TestPlugReaderGone(t *testing.T) {
	sw := newSwitch(t)
	here := newStation(t, sw.Dir)
	cmd := vdens(t, "plug", sw.Dir)
	in := testenv.Must(cmd.StdinPipe())(t)
	defer in.Close()
	out := testenv.Must(cmd.StdoutPipe())(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	testenv.Check(t, cmd.Start())
	out.Close()
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
		for again := time.NewTicker(10 * time.Millisecond); ; {
			here.Send(frame)
			select {
			case <-ended:
				return
			case <-again.C:
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	wg.Wait()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("got %v and %q", err, &stderr)
	}
}

// TestList shows every scheme with its options.
func TestList(t *testing.T) {
	status, stdout, stderr := runVdens(t, "", "--list")
	if status != 0 || stderr != "" {
		t.Errorf("got status %d and %q", status, stderr)
	}
	for _, scheme := range vdeplug.Schemes() {
		u, ok := vdeplug.UsageOf(scheme)
		if !ok {
			t.Errorf("%s is not described", scheme)
		}
		if !strings.Contains(stdout, u.String()) {
			t.Errorf("%s is not there", u.Form)
		}
	}
	for line := range strings.Lines(stdout) {
		if n := len(line); n > 120 {
			t.Errorf("a line of %d bytes: %s", n, fmt.Sprint(line))
		}
	}
}

// TestPlugShared joins a network of the kernel between processes to a switch. A command of
// another process is on it, and reaches this one.
func TestPlugShared(t *testing.T) {
	testenv.Need(t, "ping", "iputils-ping")
	vnl := "lan://" + testenv.ShortDir(t) + "/net"
	here := testenv.Opened(vdestack.Open(vnl, "10.0.0.1/24"))(t)
	status, stdout, stderr := runVdens(t, "", vnl, "--", "sh", "-ec", "ip addr add 10.0.0.2/24 dev vde0; ip link set vde0 up; ping -c 1 -W 10 10.0.0.1")
	if status != 0 || !strings.Contains(stdout, "1 received") {
		t.Errorf("got status %d, %q and %q", status, stdout, stderr)
	}
	sw := newSwitch(t)
	cmd := vdens(t, "plug", vnl, sw.Dir)
	testenv.Check(t, cmd.Start())
	plugtest.CarryBoth(t, newStation(t, vnl), newStation(t, sw.Dir), 60, 1514)
	testenv.Check(t, here.Close())
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
}
