package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A cSwitch is a running vde_switch.
type cSwitch struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	in  io.Closer
}

func newSwitch(t *testing.T) *cSwitch {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vde") // local sockets need a short name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &cSwitch{t: t, dir: filepath.Join(dir, "sw")}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *cSwitch) start() {
	s.t.Helper()
	s.cmd = exec.Command(testenv.Need(s.t, "vde_switch", "vde2"), "-s", s.dir)
	var err error
	if s.in, err = s.cmd.StdinPipe(); err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	testenv.Eventually(s.t, "a switch", func() bool {
		c, err := vdeplug.Open(s.dir, nil)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (s *cSwitch) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.in.Close()
}

// A station is a plug of the test, which receives all the time.
type station struct {
	vdeplug.Conn
	frames chan []byte
}

func newStation(t *testing.T, vnl string) *station {
	t.Helper()
	c, err := vdeplug.Open(vnl, &vdeplug.Options{Reconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &station{c, make(chan []byte, 1024)}
	go func() {
		buf := make([]byte, vdeplug.MaxFrame)
		for {
			n, err := c.Recv(buf)
			if err != nil {
				return
			}
			select {
			case s.frames <- bytes.Clone(buf[:n]):
			default:
			}
		}
	}()
	t.Cleanup(func() { c.Close() })
	return s
}

var frameNumber byte

// reaches sends a frame to all until it arrives: the way may not be open yet.
func (s *station) reaches(t *testing.T, to *station, size int) {
	t.Helper()
	frameNumber++
	frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, bytes.Repeat([]byte{frameNumber}, size-14)...)
	deadline := time.After(testenv.Timeout)
	for again := time.NewTicker(20 * time.Millisecond); ; {
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
	wait:
		for {
			select {
			case got := <-to.frames:
				if bytes.Equal(got, frame) {
					return
				}
			case <-again.C:
				break wait
			case <-deadline:
				t.Fatalf("a frame of %d bytes does not arrive", size)
			}
		}
	}
}

// TestPlug joins two switches, by itself and with Debian's programs.
func TestPlug(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
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
			sa, sb := newStation(t, a.dir), newStation(t, b.dir)
			args := tt.args(a.dir, b.dir)
			cmd := command(t, args[0], args[1:]...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			in, err := cmd.StdinPipe() // nobody's
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{60, 1514} {
				sa.reaches(t, sb, size)
				sb.reaches(t, sa, size)
			}
			if attr, err := unix.SchedGetAttr(cmd.Process.Pid, 0); args[0] == exe && (err != nil || attr.Policy != unix.SCHED_BATCH) {
				t.Errorf("it is scheduled by %+v, %v, want SCHED_BATCH", attr, err)
			}
			// All end, whoever the signal is for.
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
	here := newStation(t, sw.dir)
	frame := append([]byte{0, 60, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	for _, tt := range []struct {
		name, stdin string
		args        []string
		status      int
		stderr      string
	}{
		{name: "no stream", args: []string{sw.dir}},
		{name: "a frame", stdin: string(frame), args: []string{sw.dir}},
		{name: "half a frame", stdin: string(frame[:40]), args: []string{sw.dir}, status: statusFailed, stderr: "the peer has ended the stream within a frame"},
		{name: "half a length", stdin: "\x00", args: []string{sw.dir}, status: statusFailed, stderr: "within a frame"},
		{name: "no frame", stdin: "hello", args: []string{sw.dir}, status: statusFailed, stderr: "this is no VDE stream"},
		{name: "no switch", args: []string{sw.dir + "x"}, status: statusFailed, stderr: "no switch there"},
		{name: "no second switch", args: []string{sw.dir, sw.dir + "x"}, status: statusFailed, stderr: "no switch there"},
		{name: "no command", args: []string{sw.dir, "=no-such-program"}, status: statusNotFound, stderr: "no-such-program: command not found"},
		{name: "three networks", args: []string{"a", "b", "c"}, status: statusUsage, stderr: "plug joins two networks"},
		{name: "option", args: []string{"-x"}, status: statusUsage, stderr: "-x"},
		{name: "command ends", args: []string{sw.dir, "=sh -c 'exit 3'"}, status: statusFailed, stderr: "has ended: exit status 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runVdens(t, tt.stdin, append([]string{"plug"}, tt.args...)...)
			if status != tt.status || stdout != "" || (tt.stderr == "") != (stderr == "") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("got status %d, %q and %q, want %d and %q", status, stdout, stderr, tt.status, tt.stderr)
			}
		})
	}
	select {
	case got := <-here.frames:
		if !bytes.Equal(got, frame[2:]) {
			t.Errorf("got %x", got)
		}
	case <-time.After(testenv.Timeout):
		t.Error("the frame before the end of the stream did not arrive")
	}
	if status, stdout, _ := runVdens(t, "", "plug", "-h"); status != 0 || stdout != usage {
		t.Errorf("help: %d, %q", status, stdout)
	}
}

// TestPlugSwitchGone kills the switch, and starts it again.
func TestPlugSwitchGone(t *testing.T) {
	a, b := newSwitch(t), newSwitch(t)
	sa, sb := newStation(t, a.dir), newStation(t, b.dir)
	start := func(arg ...string) (*exec.Cmd, *waiter) {
		cmd := vdens(t, append([]string{"plug"}, arg...)...)
		told := &waiter{text: "network is back", found: make(chan struct{})}
		cmd.Stderr = told
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sa.reaches(t, sb, 60)
		return cmd, told
	}
	cmd, told := start(a.dir, b.dir)
	b.kill()
	cmd.Wait()
	if text := told.buf.String(); cmd.ProcessState.ExitCode() != statusFailed || !strings.Contains(text, "the switch closed the connection") {
		t.Errorf("got %v and %q", cmd.ProcessState, text)
	}
	b.start()

	cmd, told = start("-reconnect", a.dir, b.dir)
	b.kill()
	b.start()
	select {
	case <-told.found:
	case <-time.After(testenv.Timeout):
		t.Errorf("told %q", &told.buf)
	}
	sa.reaches(t, sb, 60)
	sb.reaches(t, sa, 60)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if text := told.buf.String(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGINT) || !strings.Contains(text, "network is gone, reconnecting") {
		t.Errorf("got %v and %q", cmd.ProcessState, text)
	}
}

// TestPlugReaderGone closes the stream that vdens writes to.
func TestPlugReaderGone(t *testing.T) {
	sw := newSwitch(t)
	here := newStation(t, sw.dir)
	cmd := vdens(t, "plug", sw.dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, make([]byte, 46)...)
		for again := time.NewTicker(10 * time.Millisecond); ; {
			here.Send(frame)
			select {
			case <-ended:
				return
			case <-again.C:
			}
		}
	})
	err = cmd.Wait()
	close(ended)
	wg.Wait()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("got %v and %q", err, &stderr)
	}
}

// TestList shows every scheme with what its parser takes.
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
