package vdeplug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

func openPlug(t *testing.T, vnl string) Conn {
	t.Helper()
	c, err := Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestVDEConn(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testConn(t, func(t *testing.T) Conn { return openPlug(t, kind.start(t).Dir) })
	})
}

// TestVDEFrames joins two plugs and one in C by a switch.
func TestVDEFrames(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testenv.NoLeaks(t)
		s := kind.start(t)
		a, b, c := openInbox(t, "vde://"+s.Dir), openInbox(t, s.Dir), plugtest.CPlug(t, "vde://"+s.Dir)
		plugtest.Carry(t, a, c.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		for _, n := range []int{14, 15, 60, 1514, kind.max} {
			frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
			plugtest.Send(t, a, frame)
			b.Want(t, frame)
			c.Want(t, frame)
			frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(3), n)
			plugtest.Send(t, c, frame)
			a.Want(t, frame)
			frame = plugtest.TestFrame(plugtest.Station(3), plugtest.Station(2), n)
			plugtest.Send(t, b, frame)
			c.Want(t, frame)
		}
		if got := a.Conn.(Dropper).Drops(); got != (Drops{}) {
			t.Errorf("got %+v, want none", got)
		}
		entries, err := os.ReadDir(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s was left in the directory", e.Name())
			}
		}
	})
}

// TestVDEMany opens many plugs at once, more than the queue of a switch holds.
func TestVDEMany(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testenv.NoLeaks(t)
		s := kind.start(t)
		conns := make([]Conn, 24)
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() {
				c, err := Open(s.Dir, nil)
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = c
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		var boxes []*plugtest.Inbox
		for _, c := range conns {
			boxes = append(boxes, plugtest.NewInbox(t, c))
		}
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
		plugtest.Send(t, conns[0], frame)
		for _, in := range boxes[1:] {
			in.Want(t, frame)
		}
	})
}

// TestVDEPort asks for a port, and is listed there by its description.
func TestVDEPort(t *testing.T) {
	testenv.NoLeaks(t)
	mgmt := filepath.Join(vdetest.ShortDir(t), "mgmt")
	s := classicSwitch(t, "-M", mgmt)
	a, err := Open(s.Dir+"[7]", &Options{Description: "lab one"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	openPlug(t, s.Dir+"[port=7]") // of the same user: shares the port
	got := vdetest.Console(t, mgmt, "port/print 7")
	if want := fmt.Sprintf(": lab one user=%s pid=%d", sockio.UserName(t.Context()), os.Getpid()); !strings.Contains(got, want) {
		t.Errorf("port 7 is\n%s\nwant %q in it", got, want)
	}
	if n := strings.Count(got, "endpoint ID"); n != 2 {
		t.Errorf("port 7 has %d endpoints, want 2:\n%s", n, got)
	}
	// The management port.
	openPlug(t, s.Dir+"[0]")
	if got := vdetest.Console(t, mgmt, "port/print 0"); !strings.Contains(got, "vdestack user=") {
		t.Errorf("port 0 is\n%s", got)
	}
	a.Close()
	testenv.Eventually(t, "an endpoint less", func() bool {
		return strings.Count(vdetest.Console(t, mgmt, "port/print 7"), "endpoint ID") == 1
	})
}

func TestVDEPortGroup(t *testing.T) {
	testenv.NoLeaks(t)
	s := classicSwitch(t)
	_, err := Open(s.Dir+"[lab]", nil)
	wantError(t, err, `no port group "lab": there is no socket `+s.Dir+`/lab (`)
	wantError(t, err, "port=N, portgroup=NAME, group=NAME and mode=OCTAL")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
	f := vdetest.NewFake(t, filepath.Join(s.Dir, "lab"))
	f.Serve(func(c *vdetest.FakeClient) {
		if kind := c.Request[8:12]; !bytes.Equal(kind, make([]byte, 4)) {
			t.Errorf("the request asks for a port: % x", kind)
		}
		c.Accept(filepath.Join(f.Dir, "data"))
	})
	openPlug(t, s.Dir+"[lab]").Close()
}

func listenUnix(t *testing.T, path string, backlog int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestVDESilent meets switches that do not answer.
func TestVDESilent(t *testing.T) {
	tests := []struct {
		name, port, text string
		start            func(t *testing.T) string // returns the directory
	}{
		{"full", "", "it may be full", func(t *testing.T) string {
			s := classicSwitch(t, "-n", "3")
			openPlug(t, s.Dir)
			openPlug(t, s.Dir)
			return s.Dir
		}},
		{"no such port", "[99]", "port 99 may not exist or belong to another user", func(t *testing.T) string {
			return classicSwitch(t).Dir
		}},
		{"stopped", "", "it may be full", func(t *testing.T) string {
			s := classicSwitch(t)
			s.Signal(syscall.SIGSTOP)
			return s.Dir
		}},
		{"queue full", "", "many clients wait", func(t *testing.T) string {
			dir := vdetest.ShortDir(t)
			fd := listenUnix(t, filepath.Join(dir, "ctl"), 0)
			t.Cleanup(func() { unix.Close(fd) })
			c, err := net.Dial("unix", filepath.Join(dir, "ctl"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return dir
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := tt.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := OpenContext(ctx, dir+tt.port, nil)
			wantError(t, err, "the switch did not answer within ")
			wantError(t, err, tt.text)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v is not context.DeadlineExceeded", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, err = OpenContext(ctx, dir+tt.port, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			noSocketLeft(t, dir)
		})
	}
	t.Run("for ever", func(t *testing.T) {
		testenv.NoLeaks(t)
		s := classicSwitch(t)
		s.Signal(syscall.SIGSTOP)
		_, err := Open(s.Dir, nil)
		wantError(t, err, "the switch did not answer within 3s: it may be full")
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v is not os.ErrDeadlineExceeded", err)
		}
	})
}

func noSocketLeft(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left in the directory: %q, %v", names, err)
	}
}

// TestVDEAbsent finds no switch, or may not use it.
func TestVDEAbsent(t *testing.T) {
	dir := vdetest.ShortDir(t)
	join := func(name string) string { return filepath.Join(dir, name) }
	stale := classicSwitch(t)
	stale.Kill(t)
	if err := errors.Join(os.Mkdir(join("empty"), 0o700), os.WriteFile(join("file"), nil, 0o600),
		os.Mkdir(join("packets"), 0o700)); err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("unixgram", join("packets/ctl"))
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	tests := []struct {
		name, vnl, text string
		err             error
	}{
		{"no directory", join("none"), "no switch there: " + join("none/ctl") + " does not exist", fs.ErrNotExist},
		{"no socket", join("empty"), "no switch there: " + join("empty/ctl") + " does not exist", fs.ErrNotExist},
		{"a file", "vde://" + join("file"), join("file") + " is not the directory of a switch", unix.ENOTDIR},
		{"another socket", join("packets"), join("packets/ctl") + " is not the control socket", unix.EPROTOTYPE},
		{"stale", stale.Dir, "no switch there: stale socket " + stale.Dir + "/ctl", unix.ECONNREFUSED},
		{"unknown group", stale.Dir + "[group=no-such-group]", "must be a gid or a group of users", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			_, err := Open(tt.vnl, nil)
			wantError(t, err, tt.text)
			if tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v is not %v", err, tt.err)
			}
		})
	}
	t.Run("defaults", func(t *testing.T) {
		defer func(dirs []string) { defaultSwitches = dirs }(defaultSwitches)
		defaultSwitches = []string{stale.Dir, join("none")}
		_, err := Open("vde://", nil)
		wantError(t, err, stale.Dir+"/ctl")
		wantError(t, err, join("none/ctl"))
		defaultSwitches = []string{stale.Dir, classicSwitch(t).Dir}
		openPlug(t, "vde://")
	})
}

// TestVDEForbidden tells who may.
func TestVDEForbidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	testenv.NoLeaks(t)
	s := classicSwitch(t)
	for _, name := range []string{"ctl", "."} {
		path := filepath.Join(s.Dir, name)
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		_, err := Open(s.Dir, nil)
		wantError(t, err, fmt.Sprintf("no permission: %s has mode 0000 and owner %d:%d", path, os.Geteuid(), os.Getegid()))
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v is not fs.ErrPermission", err)
		}
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Groups of others cannot be given to.
	_, err := Open(s.Dir+"[group=0]", nil)
	wantError(t, err, `option "group=0": giving `)
	noSocketLeft(t, s.Dir)
}

// TestVDELongPath has directories near the limit of socket addresses.
func TestVDELongPath(t *testing.T) {
	testenv.NoLeaks(t)
	base := vdetest.ShortDir(t)
	deep := func(n int) string { return base + "/" + strings.Repeat("x", n-len(base)-1) }
	// The name of the client's socket does not fit, that of the switch's does.
	dir := deep(99)
	s := startSwitch(t, dir, exec.Command(testenv.Need(t, "vde_switch", "vde2"), "-s", dir))
	a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	plugtest.Send(t, a, frame)
	b.Want(t, frame)

	dir = deep(104)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, nil)
	wantError(t, err, "has 108 bytes, a socket address has room for 107")
	if !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v is not ENAMETOOLONG", err)
	}
}

// TestVDEOtherUser has a switch of an ordinary user, and root as the client.
func TestVDEOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a program as another user needs root")
	}
	testenv.NoLeaks(t)
	base := vdetest.ShortDir(t)
	if err := os.Chown(base, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "sw")
	cmd := exec.Command(testenv.Need(t, "vde_switch", "vde2"), "-s", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	s := startSwitch(t, dir, cmd)
	a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	plugtest.Send(t, a, frame)
	b.Want(t, frame)
}

// TestVDERoot has a switch of root that is open to everybody, and an ordinary
// user as the client.
func TestVDERoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a program as another user needs root")
	}
	for name, dirmode := range map[string]string{"writable": "0777", "not writable": "0755"} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			base := vdetest.ShortDir(t)
			if err := os.Chmod(base, 0o755); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(base, "sw")
			s := startSwitch(t, dir, exec.Command(testenv.Need(t, "vde_switch", "vde2"),
				"-s", dir, "-m", "0666", "--dirmode", dirmode))
			in := openInbox(t, s.Dir)
			plugtest.AsNobody(t, "TestVDERootUser", s.Dir)
			if got := in.Next(t); len(got) != 60 {
				t.Errorf("got %d bytes", len(got))
			}
			noSocketLeft(t, dir)
		})
	}
}

// TestVDERootUser is the part of TestVDERoot of the ordinary user.
func TestVDERootUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	a, b := openPlug(t, dir), openInbox(t, dir)
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	plugtest.Send(t, a, frame)
	b.Want(t, frame)
}

// TestVDEGone ends the switch in several ways.
func TestVDEGone(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			t.Run(sig.String(), func(t *testing.T) {
				testenv.NoLeaks(t)
				s := kind.start(t)
				in := openInbox(t, s.Dir)
				idle := openPlug(t, s.Dir)
				s.Stop(t, sig)
				err := in.WantEnd(t)
				wantError(t, err, "the switch closed the connection")
				var e *Error
				if !errors.As(err, &e) || e.Op != "recv" || e.VNL != "vde://"+s.Dir {
					t.Errorf("got %#v", err)
				}
				testenv.Eventually(t, "an error of Send", func() bool { return in.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)) != nil })
				wantError(t, in.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "the switch closed the connection")
				// The error says it, a drop would say it again.
				wantError(t, idle.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "the switch closed the connection")
				for _, c := range []Conn{in.Conn, idle} {
					if got := c.(Dropper).Drops(); got != (Drops{}) {
						t.Errorf("drops: got %+v, want none", got)
					}
				}
				_, err = idle.Recv(make([]byte, ether.MaxFrame))
				wantError(t, err, "the switch closed the connection")
				in.Close()
				if _, err := in.Recv(make([]byte, ether.MaxFrame)); err != net.ErrClosed {
					t.Errorf("after close: got %v, want net.ErrClosed", err)
				}
			})
		}
	})
}

// TestVDESlow sends to a switch that does not run.
func TestVDESlow(t *testing.T) {
	testenv.NoLeaks(t)
	s := classicSwitch(t)
	a, b := openPlug(t, s.Dir), openInbox(t, s.Dir)
	s.Signal(syscall.SIGSTOP)
	const frames = 20000
	for i := range frames {
		plugtest.Send(t, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(i), 1514))
	}
	dropped := a.(Dropper).Drops().Send
	if dropped == 0 || dropped == frames {
		t.Errorf("%d of %d frames dropped, want some", dropped, frames)
	}
	s.Signal(syscall.SIGCONT)
	plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

// TestVDEAllocs moves frames without allocating.
func TestVDEAllocs(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector empties pools")
	}
	s := classicSwitch(t)
	a, b := openPlug(t, s.Dir), openPlug(t, s.Dir)
	frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514), make([]byte, ether.MaxFrame)
	n := testing.AllocsPerRun(200, func() {
		plugtest.Send(t, a, frame)
		if n, err := b.Recv(buf); n != len(frame) || err != nil {
			t.Fatalf("got %d bytes, %v", n, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
