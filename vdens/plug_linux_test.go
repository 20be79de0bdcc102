package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

func init() { backgroundEnv = append(backgroundEnv, asVdens) }

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
		{"command with arguments", func(a, b string) []string { return []string{exe, "plug", a, "=", vdePlug, "-D", "the 'second'", b} }},
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
		{name: "half a frame", stdin: string(frame[:40]), args: []string{sw.Dir}, status: program.StatusFailed, stderr: "the peer has ended the stream within a frame"},
		{name: "half a length", stdin: "\x00", args: []string{sw.Dir}, status: program.StatusFailed, stderr: "within a frame"},
		{name: "no frame", stdin: "hello", args: []string{sw.Dir}, status: program.StatusFailed, stderr: "this is not a VDE stream"},
		{name: "no switch", args: []string{sw.Dir + "x"}, status: program.StatusFailed, stderr: "no switch there"},
		{name: "no second switch", args: []string{sw.Dir, sw.Dir + "x"}, status: program.StatusFailed, stderr: "no switch there"},
		{name: "no command", args: []string{sw.Dir, "=no-such-program"}, status: program.StatusNotFound, stderr: "no-such-program: command not found"},
		{name: "three networks", args: []string{"a", "b", "c"}, status: program.StatusUsage, stderr: "plug joins two networks"},
		{name: "command with arguments ends", args: []string{sw.Dir, "=", "sh", "-c", "exit 3"}, status: 3},
		{name: "command with arguments succeeds", args: []string{sw.Dir, "=", "true"}},
		{name: "command with arguments killed", args: []string{sw.Dir, "=", "sh", "-c", "kill $$"}, status: 128 + 15},
		{name: "no such command", args: []string{sw.Dir, "=", "no-such-program"}, status: program.StatusNotFound, stderr: "no-such-program: command not found"},
		{name: "nothing after =", args: []string{sw.Dir, "="}, status: program.StatusUsage, stderr: `no command after "="`},
		{name: "stdio in the background", args: []string{"-d", sw.Dir}, status: program.StatusUsage, stderr: "-d needs a second network"},
		{name: "no switch in the background", args: []string{"-d", sw.Dir, sw.Dir + "x"}, status: program.StatusFailed, stderr: "no switch there"},
		{name: "no such directory", args: []string{"-dp", sw.Dir + "/no/such/file", sw.Dir, sw.Dir}, status: program.StatusFailed, stderr: "no such file"},
		{name: "no port", args: []string{"--port", "x", sw.Dir}, status: program.StatusUsage, stderr: `port "x" is not a number`},
		{name: "option", args: []string{"-x"}, status: program.StatusUsage, stderr: "-x"},
		{name: "command ends", args: []string{sw.Dir, "=sh -c 'exit 3'"}, status: program.StatusFailed, stderr: "has ended: exit status 3"},
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
	if text := stderr.String(); cmd.ProcessState.ExitCode() != program.StatusFailed || !strings.Contains(text, "the switch closed the connection") {
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

// TestPlugBackground joins two switches in the background, until a signal.
func TestPlugBackground(t *testing.T) {
	a, b := newSwitch(t), newSwitch(t)
	sa, sb := newStation(t, a.Dir), newStation(t, b.Dir)
	dir := testenv.ShortDir(t)
	t.Chdir(dir)
	status, stdout, stderr := runVdens(t, "", "plug", "-d", "--port", "7", "-m", "640", "-D", "here", a.Dir, "-p", "pid", b.Dir)
	if status != 0 || stdout != "" || stderr != "" {
		t.Fatalf("got status %d, %q and %q", status, stdout, stderr)
	}
	pid := testenv.Must(strconv.Atoi(strings.TrimSpace(string(testenv.Must(os.ReadFile("pid"))(t)))))(t)
	t.Cleanup(func() { unix.Kill(pid, unix.SIGKILL) })
	plugtest.CarryBoth(t, sa, sb, 60)
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d, %v, want %d", sid, err, pid)
	}
	for _, fd := range []string{"0", "1", "2"} {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd)); err != nil || target != os.DevNull {
			t.Errorf("descriptor %s is %s, %v", fd, target, err)
		}
	}
	if sockets, err := filepath.Glob(a.Dir + "/007*"); err != nil || len(sockets) != 1 {
		t.Errorf("the switch has the sockets %q for port 7, %v", sockets, err)
	}
	testenv.Check(t, unix.Kill(pid, unix.SIGTERM))
	testenv.Eventually(t, "the end of the file", func() bool {
		_, err := os.Stat("pid")
		return err != nil
	})
}

// TestPIDFile has files that are there already.
func TestPIDFile(t *testing.T) {
	t.Chdir(t.TempDir())
	own := fmt.Sprintln(os.Getpid())
	want := func(name, want string) {
		t.Helper()
		if text, err := os.ReadFile(name); string(text) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q, %v, want %q", name, text, err, want)
		}
	}
	testenv.Check(t, os.WriteFile("old", []byte("4294967295\n"), 0o600))
	for _, name := range []string{"old", "new"} {
		remove, err := createPIDFile(name)
		testenv.Check(t, err)
		want(name, own)
		remove()
		want(name, "")

		remove, err = createPIDFile(name)
		testenv.Check(t, err)
		testenv.Check(t, os.WriteFile(name, []byte("1\n"), 0o600)) // of another process
		remove()
		want(name, "1\n")
		remove, err = createPIDFile(name)
		testenv.Check(t, err)
		testenv.Check(t, os.WriteFile("next", []byte(own), 0o600))
		testenv.Check(t, os.Rename("next", name)) // and a file of another process
		remove()
		want(name, own)
	}
	testenv.Check(t, os.Symlink("old", "link"))
	testenv.Check(t, unix.Mkfifo("pipe", 0o600))
	for name, want := range map[string]string{
		"link":    "open link: too many levels of symbolic links (it is a link, which is not followed)",
		"pipe":    "pipe is not a regular file",
		".":       "open .: is a directory",
		"no/file": "open no/file: no such file or directory",
	} {
		if _, err := createPIDFile(name); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	want("old", own)
	if _, err := createPIDFile("/dev/null"); err == nil { // which root could remove
		t.Error("/dev/null is a file")
	}
}

// TestPlugLocator adds options of vde_plug to locators.
func TestPlugLocator(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"-m 640 -g 0 --port 3 /x null://", "[/x[port=3/group=0/mode=640] null://]"},
		{"-M 640 /x --port2 3 vde:///y[]", "[/x vde:///y[port=3/mode=640]]"},
		{"--mod 640 --port 3 /x[5]", "[/x[5/mode=640]]"},
		{"--group g --port 3 /x[group=h/port=5]", "[/x[group=h/port=5]]"},
		{"-m 640 vxvde://", "[vxvde://]"},
		{"-m 640 /x[[", "[/x[[]"},
	} {
		p, err := parsePlug(strings.Fields(tt.args))
		if err != nil || fmt.Sprint(p.networks) != tt.want {
			t.Errorf("%s: got %v, %v, want %s", tt.args, p, err, tt.want)
		}
	}
	for args, want := range map[string]string{"-m 640": "need the name of the network", "--port 0 /x": "not a number from 1"} {
		_, err := parsePlug(strings.Fields(args))
		plugtest.WantError(t, err, want)
	}
}

// TestPlugLog has "vdens plug" log to a syslog of the test, in a mount namespace with that.
func TestPlugLog(t *testing.T) {
	needInterfaces(t)
	dir := testenv.ShortDir(t)
	log := testenv.Opened(net.ListenPacket("unixgram", dir+"/log"))(t)
	testenv.Check(t, os.Chmod(dir+"/log", 0o777))
	var stream []byte
	for _, frame := range [][]byte{
		plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), 60),
		ipFrame(0x0800, 12, 10, 0, 0, 9),
		ipFrame(0x0806, 14, 10, 0, 0, 10),
		ipFrame(0x0800, 12, 10, 0, 0, 9),
		append(append(make([]byte, 12), 0x81, 0, 0, 5), ipFrame(0x86dd, 8, 0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)[12:]...),
	} {
		stream = append(append(stream, byte(len(frame)>>8), byte(len(frame))), frame...)
	}
	testenv.Check(t, os.WriteFile(dir+"/stream", stream, 0o644))
	t.Setenv("SSH_CLIENT", "192.0.2.1 1000 22")
	script := fmt.Sprintf("set -e; mount --bind %[1]s /run; test ! -e /dev/log || mount --bind %[1]s/log /dev/log; export %[2]s; %[3]s plug -L null:// = cat /run/stream; ! %[3]s plug -l null:// /no/switch 2>/dev/null",
		dir, asVdens, testenv.Must(os.Executable())(t))
	status, stdout, stderr := runVdens(t, "", "-s", "no", "sh", "-c", script)
	if status != 0 || stdout != "" || stderr != "" {
		t.Fatalf("got status %d, %q and %q", status, stdout, stderr)
	}
	testenv.Check(t, log.SetReadDeadline(time.Now().Add(testenv.Timeout)))
	line := make([]byte, 1000)
	for _, want := range []string{"START", "ADDRESS 10.0.0.9", "ADDRESS 10.0.0.10", "ADDRESS fc00::1", "STOP", "START", "ERROR vdeplug: open \"/no/switch\"", "STOP"} {
		n, _, err := log.ReadFrom(line)
		testenv.Check(t, err)
		if got := string(line[:n]); !strings.HasPrefix(got, "<14>") || !strings.Contains(got, "]: "+want+": ") || !strings.Contains(got, ": user ") || !strings.Contains(got, " IP 192.0.2.1\n") {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}

// ipFrame returns a frame of 60 bytes with an address behind its type.
func ipFrame(kind uint16, off int, addr ...byte) []byte {
	frame := make([]byte, 60)
	frame[12], frame[13] = byte(kind>>8), byte(kind)
	copy(frame[14+off:], addr)
	return frame
}

// FuzzSenderOf takes any frame.
func FuzzSenderOf(f *testing.F) {
	f.Add(ipFrame(0x0800, 12, 10, 0, 0, 9))
	f.Add(ipFrame(0x86dd, 8, 0xfc)[:40])
	f.Fuzz(func(t *testing.T, frame []byte) { senderOf(frame) })
}
