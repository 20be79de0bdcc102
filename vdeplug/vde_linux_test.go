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

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// TestVDEFrames connects two plugs and one in C by a switch.
func TestVDEFrames(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		testenv.NoLeaks(t)
		s := newSwitch(t, kind.command)
		a, b, c := openInbox(t, "vde://"+s.Dir), openInbox(t, s.Dir), plugtest.CPlug(t, "vde://"+s.Dir)
		plugtest.Carry(t, a, c.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		for _, n := range []int{14, 15, 60, 1514, kind.max} {
			frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
			plugtest.Deliver(t, a, b, frame)
			c.Want(t, frame)
			frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(3), n)
			plugtest.Deliver(t, c, a, frame)
			plugtest.Deliver(t, b, c, plugtest.TestFrame(plugtest.Station(3), plugtest.Station(2), n))
		}
		wantDrops(t, a.Conn, Drops{})
		entries := testenv.Must(os.ReadDir(s.Dir))(t)
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
		s := newSwitch(t, kind.command)
		conns, errs := make([]Conn, 24), make([]error, 24)
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() { conns[i], errs[i] = Open(s.Dir, nil) })
		}
		wg.Wait()
		testenv.Check(t, errors.Join(errs...))
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

// TestVDEPort asks for a port, where the switch shows its description.
func TestVDEPort(t *testing.T) {
	testenv.NoLeaks(t)
	mgmt := filepath.Join(testenv.ShortDir(t), "mgmt")
	s := classicSwitch(t, "-M", mgmt)
	a := testenv.Must(Open(s.Dir+"[7]", &Options{Description: "lab one"}))(t)
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
	plugtest.WantError(t, err, `no port group "lab": there is no socket `+s.Dir+`/lab (`, fs.ErrNotExist)
	plugtest.WantError(t, err, "port=N, portgroup=NAME, group=NAME and mode=OCTAL")
	f := vdetest.NewFake(t, filepath.Join(s.Dir, "lab"))
	f.Serve(func(c *vdetest.FakeClient) {
		if kind := c.Request[8:12]; !bytes.Equal(kind, make([]byte, 4)) {
			t.Errorf("the request asks for a port: % x", kind)
		}
		c.Accept(filepath.Join(f.Dir, "data"))
	})
	openPlug(t, s.Dir+"[lab]").Close()
}

// TestVDESilent opens switches that do not answer.
func TestVDESilent(t *testing.T) {
	testenv.Long(t)
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
		{"stopped", "", "(\"vde_switch\", stopped)", func(t *testing.T) string {
			s := classicSwitch(t)
			s.Signal(syscall.SIGSTOP)
			return s.Dir
		}},
		{"queue full", "", "many clients wait", func(t *testing.T) string {
			dir := testenv.ShortDir(t)
			fd := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
			t.Cleanup(func() { unix.Close(fd) })
			testenv.Check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "ctl")}))
			testenv.Check(t, unix.Listen(fd, 0))
			c := testenv.Must(net.Dial("unix", filepath.Join(dir, "ctl")))(t)
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
			plugtest.WantError(t, err, "the switch did not answer within ")
			plugtest.WantError(t, err, tt.text, context.DeadlineExceeded)
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
		wantOpenError(t, s.Dir, "the switch did not answer within 3s: it is process ", os.ErrDeadlineExceeded)
	})
}

func noSocketLeft(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left in the directory: %q, %v", names, err)
	}
}

// TestVDEAbsent opens what is not a switch, or not a usable one.
func TestVDEAbsent(t *testing.T) {
	dir := testenv.ShortDir(t)
	join := func(name string) string { return filepath.Join(dir, name) }
	stale := classicSwitch(t)
	stale.Kill(t)
	testenv.Check(t, errors.Join(os.Mkdir(join("empty"), 0o700), os.WriteFile(join("file"), nil, 0o600), os.Mkdir(join("packets"), 0o700)))
	packets, err := net.ListenPacket("unixgram", join("packets/ctl"))
	testenv.Check(t, err)
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
			wantOpenError(t, tt.vnl, tt.text, tt.err)
		})
	}
	t.Run("defaults", func(t *testing.T) {
		defer func(dirs []string) { defaultSwitches = dirs }(defaultSwitches)
		defaultSwitches = []string{stale.Dir, join("none")}
		wantOpenError(t, "vde://", stale.Dir+"/ctl")
		wantOpenError(t, "vde://", join("none/ctl"))
		defaultSwitches = []string{stale.Dir, classicSwitch(t).Dir}
		openPlug(t, "vde://")
	})
}

// TestVDEForbidden checks the errors for missing permissions.
func TestVDEForbidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	testenv.NoLeaks(t)
	s := classicSwitch(t)
	for _, name := range []string{"ctl", "."} {
		path := filepath.Join(s.Dir, name)
		testenv.Check(t, os.Chmod(path, 0))
		wantOpenError(t, s.Dir, fmt.Sprintf("no permission: %s has mode 0000 and owner %d:%d", path, os.Geteuid(), os.Getegid()), fs.ErrPermission)
		testenv.Check(t, os.Chmod(path, 0o700))
	}
	// A user cannot give a socket to a group that it is not in.
	wantOpenError(t, s.Dir+"[group=0]", `option "group=0": giving `)
	noSocketLeft(t, s.Dir)
}

// TestVDELongPath has directories with names near the limit of socket addresses.
func TestVDELongPath(t *testing.T) {
	testenv.NoLeaks(t)
	base := testenv.ShortDir(t)
	deep := func(n int) string { return base + "/" + strings.Repeat("x", n-len(base)-1) }
	// The name of the client's socket does not fit, that of the switch's does.
	dir := deep(99)
	s := startSwitch(t, dir, exec.Command(testenv.Need(t, "vde_switch", "vde2"), "-s", dir))
	a, b := openInbox(t, s.Dir), openInbox(t, s.Dir)
	plugtest.Deliver(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))

	dir = deep(104)
	testenv.Check(t, os.Mkdir(dir, 0o700))
	wantOpenError(t, dir, "has 108 bytes, a socket address has room for 107", unix.ENAMETOOLONG)
}

const nobody = 65534

// nobodyDir returns where an ordinary user can make a switch.
func nobodyDir(t *testing.T) string {
	t.Helper()
	base := testenv.ShortDir(t)
	testenv.Check(t, errors.Join(os.Chmod(base, 0o755), os.Chown(base, nobody, nobody)))
	return filepath.Join(base, "sw")
}

// asNobody has a program run as an ordinary user.
func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// TestVDERoot has a switch of root that is open to everybody, with a client of an ordinary
// user.
func TestVDERoot(t *testing.T) {
	testenv.Long(t)
	testenv.NeedRoot(t, "starting a program as another user")
	for name, dirmode := range map[string]string{"writable": "0777", "not writable": "0755"} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			base := testenv.ShortDir(t)
			testenv.Check(t, os.Chmod(base, 0o755))
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

// TestVDERootUser is the ordinary user of TestVDERoot.
func TestVDERootUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	a, b := openPlug(t, dir), openInbox(t, dir)
	plugtest.Deliver(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

// TestVDEGone ends the switch in several ways.
func TestVDEGone(t *testing.T) {
	eachSwitch(t, func(t *testing.T, kind switchKind) {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			t.Run(sig.String(), func(t *testing.T) {
				testenv.NoLeaks(t)
				s := newSwitch(t, kind.command)
				in := openInbox(t, s.Dir)
				idle := openPlug(t, s.Dir)
				s.Stop(t, sig)
				err := in.WantEnd(t)
				plugtest.WantError(t, err, "the switch closed the connection")
				var e *Error
				if !errors.As(err, &e) || e.Op != "recv" || e.VNL != "vde://"+s.Dir {
					t.Errorf("got %#v", err)
				}
				testenv.Eventually(t, "an error of Send", func() bool { return in.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)) != nil })
				plugtest.WantError(t, in.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "the switch closed the connection")
				// The error says it; it is not counted as a drop too.
				plugtest.WantError(t, idle.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "the switch closed the connection")
				for _, c := range []Conn{in.Conn, idle} {
					wantDrops(t, c, Drops{})
				}
				_, err = idle.Recv(make([]byte, ether.MaxFrame))
				plugtest.WantError(t, err, "the switch closed the connection")
				in.Close()
				if _, err := in.Recv(make([]byte, ether.MaxFrame)); err != net.ErrClosed {
					t.Errorf("after close: got %v, want net.ErrClosed", err)
				}
			})
		}
	})
}

// TestVDESlow sends to a stopped switch.
func TestVDESlow(t *testing.T) {
	testenv.Long(t)
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

// TestVDEDefault has a switch of another user in the default directory. Open fails, whoever
// owns the socket's file, unless the locator names the directory.
func TestVDEDefault(t *testing.T) {
	testenv.Long(t)
	testenv.NeedRoot(t, "starting a program as another user")
	testenv.NoLeaks(t)
	dir := nobodyDir(t)
	startSwitch(t, dir, asNobody(goSwitch(t, dir)))
	setDefaults(t, dir)
	for _, owner := range []int{0, nobody} {
		testenv.Check(t, os.Chown(filepath.Join(dir, "ctl"), owner, -1))
		wantOpenError(t, "vde://", "the switch in "+dir+" belongs to user 65534", unix.EPERM)
		openPlug(t, "vde://"+dir).Close()
	}
	// Its own user may use it, and everybody a switch of root.
	plugtest.AsNobody(t, "TestVDEDefaultUser", dir)
	root := nobodyDir(t)
	openPlug(t, "switch://"+root+"[mode=0666/dirmode=0755]")
	plugtest.AsNobody(t, "TestVDEDefaultUser", root)
}

// TestVDEDefaultUser is the ordinary user of TestVDEDefault.
func TestVDEDefaultUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	setDefaults(t, dir)
	openPlug(t, "vde://")
}

// TestVDEDefaultOwn has a switch of this user in the default directory.
func TestVDEDefaultOwn(t *testing.T) {
	testenv.NoLeaks(t)
	_, dir := serve(t, "switch", "")
	setDefaults(t, dir)
	openPlug(t, "vde://")
}

// TestVDEDefaultRedirected has another user redirect the default directory to a switch of
// this user: by a directory with a link in it, and by a link.
func TestVDEDefaultRedirected(t *testing.T) {
	testenv.NeedRoot(t, "making files of another user")
	testenv.NoLeaks(t)
	_, dir := serve(t, "switch", "")
	inside, link := filepath.Join(t.TempDir(), "inside"), filepath.Join(t.TempDir(), "link")
	for _, err := range []error{
		os.Mkdir(inside, 0o777), os.Symlink(dir+"/ctl", inside+"/ctl"), os.Lchown(inside, nobody, nobody),
		os.Symlink(dir, link), os.Lchown(link, nobody, nobody),
	} {
		testenv.Check(t, err)
	}
	for _, dir := range []string{inside, link} {
		setDefaults(t, dir)
		wantOpenError(t, "vde://", "belongs to user 65534")
		openPlug(t, "vde://"+dir).Close()
	}
}

func setDefaults(t *testing.T, dir string) {
	before := defaultSwitches
	defaultSwitches = []string{dir}
	t.Cleanup(func() { defaultSwitches = before })
}
