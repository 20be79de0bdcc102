package vdeplug

import (
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

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"golang.org/x/sys/unix"
)

// startSwitch is vdetest.Start. vnl is the locator of dir, if it is not dir itself.
func startSwitch(t testing.TB, dir string, cmd *exec.Cmd, vnl ...string) *vdetest.Switch {
	t.Helper()
	return vdetest.Start(t, dir, cmd, func() error { return testenv.Closing(Open(append(vnl, dir)[0], nil)) })
}

// newSwitch starts a switch in a new directory.
func newSwitch(t testing.TB, command func(t testing.TB, dir string) *exec.Cmd) *vdetest.Switch {
	t.Helper()
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return startSwitch(t, dir, command(t, dir))
}

// classicSwitch starts vde_switch.
func classicSwitch(t testing.TB, arg ...string) *vdetest.Switch {
	t.Helper()
	return newSwitch(t, func(t testing.TB, dir string) *exec.Cmd { return vdetest.Classic(t, dir, arg...) })
}

// A switchKind is one of the switches of Debian, or ours.
type switchKind struct {
	name    string
	command func(t testing.TB, dir string) *exec.Cmd
	max     int // the longest frame that passes
}

var switchKinds = []switchKind{
	{"vde_switch", func(t testing.TB, dir string) *exec.Cmd { return vdetest.Classic(t, dir) }, 1518},
	{"switch", vdetest.Plug, ether.MaxFrame},
	{"ours", goSwitch, ether.MaxFrame},
}

func eachSwitch(t *testing.T, f func(t *testing.T, kind switchKind)) {
	for _, kind := range switchKinds {
		t.Run(kind.name, func(t *testing.T) { f(t, kind) })
	}
}

func init() {
	testenv.Programs["switch"] = func() { // ends with its standard input
		c, err := Open("switch://"+os.Args[1], nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer c.Close()
		io.Copy(io.Discard, os.Stdin)
	}
}

// goSwitch returns a command with a switch of this package in dir.
func goSwitch(t testing.TB, dir string) *exec.Cmd {
	return testenv.Program(context.Background(), t, "switch", dir) // it ends with its input
}

// serve opens a switch in a new directory, and returns it as plug and its
// directory.
func serve(t *testing.T, kind, options string) (c Conn, dir string) {
	t.Helper()
	dir = filepath.Join(testenv.ShortDir(t), "sw")
	return openPlug(t, kind+"://"+dir+options), dir
}

// TestSwitchKinds connects two plugs of the process, and clients in Go and C, to all kinds of
// switches, and checks who gets which frames.
func TestSwitchKinds(t *testing.T) {
	for _, tt := range []struct {
		kind                          string
		toLocal, toClient             bool // from a plug of the process, broadcasts
		clientToLocal, clientToClient bool
	}{
		{"switch", true, true, true, true},
		{"hub", true, true, true, true},
		{"multi", false, true, true, false},
		{"bonding", false, true, true, false},
	} {
		for _, gso := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/gso=%v", tt.kind, gso), func(t *testing.T) {
				testenv.NoLeaks(t)
				setGSO(t, gso)
				local, dir := serve(t, tt.kind, "")
				a, b := plugtest.NewInbox(t, local), openInbox(t, tt.kind+"://"+dir)
				in, c := openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
				plugtest.Carry(t, c, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60))
				for _, n := range []int{14, 60, 1514, ether.MaxFrame} {
					frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
					plugtest.Send(t, a, frame)
					if tt.kind == "bonding" {
						plugtest.Send(t, a, frame) // to the other
					}
					in.Want(t, frame)
					c.Want(t, frame)
					if tt.toLocal {
						b.Want(t, frame)
					}
					frame = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), n)
					plugtest.Deliver(t, in, a, frame)
					b.Want(t, frame)
					if tt.clientToClient {
						c.Want(t, frame)
					}
					frame = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), n)
					plugtest.Deliver(t, c, a, frame)
					b.Want(t, frame)
					if tt.clientToClient {
						in.Want(t, frame)
					}
				}
				if !tt.toLocal {
					in.WantNone(t, "a client has a frame of another", plugtest.Station(3))
					b.WantNone(t, "a plug of the process has one of another", plugtest.Station(1))
				}
				if tt.kind == "switch" {
					frame := plugtest.TestFrame(plugtest.Station(3), plugtest.Station(1), 60) // known
					plugtest.Deliver(t, a, c, frame)
					b.WantNone(t, "a frame for one station", plugtest.Station(1))
					in.WantNone(t, "a frame for one station", plugtest.Station(1))
				}
				wantDrops(t, a.Conn, Drops{})
			})
		}
	}
}

// TestSwitchRace opens, sends and closes in many goroutines, plugs of the process and clients;
// meanwhile the switch itself comes and goes.
func TestSwitchRace(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			vnl := "switch://" + dir
			if i%2 == 1 {
				vnl = dir
			}
			for ctx.Err() == nil {
				c, err := Open(vnl, nil)
				if err != nil && i%2 == 0 {
					t.Error(err)
					return
				}
				if err != nil {
					continue // the switch has just gone
				}
				wg.Go(func() { plugtest.Drain(c) })
				for j := range 8 {
					c.Send(plugtest.TestFrame(plugtest.Station(j), plugtest.Station(i), 60))
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	// A client that was just connecting may have kept the directory.
	openPlug(t, "switch://"+dir).Close()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there after the last Close: %v", err)
	}
}

// TestSwitchRestart closes a switch, which ends its clients, and opens it again for new ones.
func TestSwitchRestart(t *testing.T) {
	testenv.NoLeaks(t)
	c, dir := serve(t, "switch", "")
	in, peer := openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
	plugtest.Carry(t, peer, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	c.Close()
	plugtest.WantError(t, in.WantEnd(t), "the switch closed the connection")
	peer.WantExit(t)
	c = openPlug(t, "switch://"+dir)
	in, peer = openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
	plugtest.Carry(t, peer, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	plugtest.Carry(t, c, peer.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
}

// setGSO sets whether clients and switches exchange GSO packets.
func setGSO(t *testing.T, gso bool) {
	t.Helper()
	before := vdeproto.WithoutGSO.Swap(!gso)
	t.Cleanup(func() { vdeproto.WithoutGSO.Store(before) })
}

// TestSwitchShared has several plugs of the process on one switch, which ends with the last
// one.
func TestSwitchShared(t *testing.T) {
	testenv.NoLeaks(t)
	first, dir := serve(t, "switch", "[mode=0660/hashsize=5]")
	again := openPlug(t, "switch://"+dir)
	openPlug(t, "switch://"+dir+"/../sw[hashsize=5/mode=660]")
	for vnl, text := range map[string]string{
		"switch://" + dir + "[mode=0666]": "with other options",
		"hub://" + dir:                    "this program has a switch in " + dir,
	} {
		wantOpenError(t, vnl, text, unix.EADDRINUSE)
	}
	first.Close()
	first.Close()
	in := openInbox(t, dir)
	plugtest.Carry(t, again, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

// TestSwitchFiles looks at the files of a switch while it runs and after.
func TestSwitchFiles(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o027))
	gid := os.Getegid()
	for _, tt := range []struct {
		options  string
		dir, ctl fs.FileMode
	}{
		{"", 0o700, 0o600},
		{"[mode=0666]", 0o777, 0o666},
		{"[mode=0777]", 0o777, 0o666},
		{"[mode=0660]", 0o770, 0o660},
		{"[mode=0640]", 0o750, 0o640},
		{"[dirmode=0755]", 0o755, 0o600},
		{fmt.Sprintf("[mode=0660/dirmode=2710/grp=%d]", gid), 0o710, 0o660},
	} {
		t.Run(tt.options, func(t *testing.T) {
			testenv.NoLeaks(t)
			setGSO(t, false)
			c, dir := serve(t, "switch", tt.options)
			client := openPlug(t, dir)
			files := make(map[string]fs.FileMode)
			testenv.Eventually(t, "ctl and a data socket only", func() bool {
				clear(files)
				entries := testenv.Must(os.ReadDir(dir))(t)
				for _, e := range entries {
					info, err := os.Lstat(filepath.Join(dir, e.Name()))
					if err != nil {
						return false
					}
					files[e.Name()] = info.Mode()
				}
				return len(files) == 2
			})
			for name, mode := range files {
				if mode != fs.ModeSocket|tt.ctl {
					t.Errorf("%s has mode %v, want %v", name, mode, tt.ctl)
				}
			}
			info, err := os.Stat(dir)
			if err != nil || info.Mode() != fs.ModeDir|fs.ModeSetgid|tt.dir {
				t.Errorf("the directory has mode %v, %v, want %v", info.Mode(), err, tt.dir)
			}
			if got := info.Sys().(*syscall.Stat_t).Gid; int(got) != gid {
				t.Errorf("the directory has group %d, want %d", got, gid)
			}
			client.Close()
			testenv.Eventually(t, "ctl only", func() bool {
				entries, err := os.ReadDir(dir)
				return err == nil && len(entries) == 1 && entries[0].Name() == "ctl"
			})
			c.Close()
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory is there after Close: %v", err)
			}
		})
	}
}

// TestSwitchStale starts a switch in the directory of a killed one, and fails in that of a
// running one.
func TestSwitchStale(t *testing.T) {
	testenv.Long(t)
	for _, kind := range switchKinds {
		t.Run(kind.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := newSwitch(t, kind.command)
			client := openPlug(t, s.Dir) // so that there is a data socket
			wantOpenError(t, "switch://"+s.Dir, s.Dir+" is the directory of a running switch", unix.EADDRINUSE)
			s.Kill(t)
			client.Close()
			stale, err := os.ReadDir(s.Dir)
			if err != nil || len(stale) == 0 {
				t.Fatalf("the switch has left %v, %v", stale, err)
			}
			c, in := openPlug(t, "switch://"+s.Dir), openInbox(t, s.Dir)
			plugtest.Carry(t, c, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			in.Close()
			c.Close()
			if _, err := os.Lstat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory is there after Close: %v", err)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		testenv.NoLeaks(t)
		s := classicSwitch(t)
		s.Signal(syscall.SIGSTOP)
		wantOpenError(t, "switch://"+s.Dir, "may be the directory of a running switch: the switch did not answer within")
	})
}

// TestSwitchPlace opens switches in impossible directories.
func TestSwitchPlace(t *testing.T) {
	base := testenv.ShortDir(t)
	join := func(name string) string { return filepath.Join(base, name) }
	testenv.Check(t, errors.Join(os.WriteFile(join("file"), nil, 0o600), os.Mkdir(join("home"), 0o755),
		os.WriteFile(join("home/x"), nil, 0o600), os.Symlink("home", join("link")), os.Mkdir(join("empty"), 0o755)))
	for _, tt := range []struct {
		dir, text string
		err       error
	}{
		{join("file"), "exists and is not a directory", unix.ENOTDIR},
		{join("link"), "exists and is not a directory", unix.ENOTDIR},
		{join("home"), "contains x, which no switch has left", fs.ErrExist},
		{join("no/where"), "where the directory " + join("no/where") + " should be", fs.ErrNotExist},
		{join(strings.Repeat("x", 100)), "that of a switch may have 97", unix.ENAMETOOLONG},
		{join("group") + "[grp=no-such-group]", `option "grp=no-such-group": must be a gid or a group`, nil},
	} {
		wantOpenError(t, "switch://"+tt.dir, tt.text, tt.err)
	}
	if os.Geteuid() != 0 {
		wantOpenError(t, "switch://"+join("other")+"[grp=0]", `option "grp=0": giving `)
		wantOpenError(t, "switch:///proc/sw", "/proc/sw")
	} else if err := os.Chown(join("empty"), 65534, -1); err == nil {
		wantOpenError(t, "switch://"+join("empty"), "belongs to user 65534, this is user 0")
		os.Chown(join("empty"), 0, -1)
	}
	if info, err := os.Stat(join("home")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory of another program has mode %v now, %v", info.Mode(), err)
	}
	for _, name := range []string{"other", "group"} {
		if _, err := os.Lstat(join(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	openPlug(t, "switch://"+join("empty")).Close()
	// A locked directory, as by another switch that starts.
	testenv.Check(t, os.Mkdir(join("locked"), 0o700))
	f, err := os.Open(join("locked"))
	testenv.Check(t, err)
	defer f.Close()
	testenv.Check(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = OpenContext(ctx, "switch://"+join("locked"), nil)
	plugtest.WantError(t, err, "somebody else has locked "+join("locked"))
}

// TestSwitchForeignFile has a file of another program in the directory when the switch ends:
// it stays.
func TestSwitchForeignFile(t *testing.T) {
	testenv.NoLeaks(t)
	c, dir := serve(t, "switch", "")
	name := filepath.Join(dir, "notes")
	testenv.Check(t, os.WriteFile(name, nil, 0o600))
	c.Close()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v, want the file", entries, err)
	}
}

// TestSwitchOtherUser has a switch of root with clients of an ordinary user, and a switch of
// an ordinary user with clients of root.
func TestSwitchOtherUser(t *testing.T) {
	testenv.Long(t)
	testenv.NeedRoot(t, "starting a program as another user")
	plug := testenv.Need(t, "vde_plug", "vdeplug")
	asUser := testenv.Need(t, "setpriv", "util-linux")
	for _, gso := range []bool{true, false} {
		t.Run(fmt.Sprintf("of root/gso=%v", gso), func(t *testing.T) {
			testenv.NoLeaks(t)
			setGSO(t, gso)
			for _, options := range []string{"[mode=0666]", "[mode=0666/dirmode=0755]", fmt.Sprintf("[mode=0660/grp=%d]", nobody)} {
				dir := nobodyDir(t)
				local := openInbox(t, "switch://"+dir+options)
				plugtest.AsNobody(t, "TestVDERootUser", dir)
				if got := local.Next(t); len(got) != 60 {
					t.Errorf("%s: got %d bytes", options, len(got))
				}
				c := plugtest.CCommand(t, asUser, "--reuid=65534", "--regid=65534", "--clear-groups", plug, "vde://"+dir)
				plugtest.Carry(t, c, local, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
				plugtest.Carry(t, local, c.Inbox, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
				noSocketLeft(t, dir)
			}
			// Others may not.
			dir := nobodyDir(t)
			openPlug(t, "switch://"+dir)
			plugtest.AsNobody(t, "TestSwitchForbiddenUser", dir)
		})
	}
	for _, kind := range switchKinds {
		t.Run("of nobody, "+kind.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := nobodyDir(t)
			s := startSwitch(t, dir, asNobody(kind.command(t, dir)))
			in, c := openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
			plugtest.CarryBoth(t, in, c.Inbox, 60)
			s.Kill(t)
			wantOpenError(t, "switch://"+dir, "belongs to user 65534, this is user 0") // it is not root's
		})
	}
}

// TestSwitchForbiddenUser is a part of TestSwitchOtherUser.
func TestSwitchForbiddenUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	_, err := Open(dir, nil)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want fs.ErrPermission", err)
	}
}

// TestSwitchLocked has another program keep a lock on the directory that a killed switch has
// left.
func TestSwitchLocked(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	testenv.Check(t, os.Mkdir(dir, 0o755))
	f := testenv.Must(os.Open(dir))(t)
	defer f.Close()
	testenv.Check(t, unix.Flock(int(f.Fd()), unix.LOCK_SH))
	c := openPlug(t, "switch://"+dir+"[dirmode=0755]")
	a, b := openInbox(t, dir), openInbox(t, dir)
	plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	a.Close()
	b.Close()
	c.Close()
	testenv.Eventually(t, "the directory to be gone", func() bool {
		_, err := os.Lstat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
}
