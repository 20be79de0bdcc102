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

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// goSwitch starts a process with a switch of this package.
func goSwitch(t *testing.T) *vdetest.Switch {
	t.Helper()
	dir := filepath.Join(vdetest.ShortDir(t), "sw")
	return startSwitch(t, dir, goSwitchCommand("switch://"+dir))
}

func goSwitchCommand(vnl string) *exec.Cmd {
	return plugtest.ChildCommand("TestSwitchProcess", vnl)
}

// TestSwitchProcess is the process of goSwitch. It ends with its standard input.
func TestSwitchProcess(t *testing.T) {
	c, err := Open(plugtest.ChildArg(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.Copy(io.Discard, os.Stdin)
}

// serve opens a switch in a new directory, and returns it as plug and its
// directory.
func serve(t *testing.T, kind, options string) (c Conn, dir string) {
	t.Helper()
	dir = filepath.Join(vdetest.ShortDir(t), "sw")
	return openPlug(t, kind+"://"+dir+options), dir
}

// TestSwitchKinds joins two plugs of the process and clients of both languages
// to all kinds of switches, and sees which get what.
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
					plugtest.Send(t, in, frame)
					a.Want(t, frame)
					b.Want(t, frame)
					if tt.clientToClient {
						c.Want(t, frame)
					}
					frame = plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), n)
					plugtest.Send(t, c, frame)
					a.Want(t, frame)
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
					plugtest.Send(t, a, frame)
					c.Want(t, frame)
					b.WantNone(t, "a frame for one station", plugtest.Station(1))
					in.WantNone(t, "a frame for one station", plugtest.Station(1))
				}
				if got := a.Conn.(Dropper).Drops(); got != (Drops{}) {
					t.Errorf("drops: %+v", got)
				}
			})
		}
	}
}

func TestSwitchConn(t *testing.T) {
	for _, kind := range []string{"switch", "hub", "multi", "bonding"} {
		t.Run(kind, func(t *testing.T) {
			testConn(t, func(t *testing.T) Conn {
				c, dir := serve(t, kind, "")
				openInbox(t, dir)
				return c
			})
		})
	}
}

// TestSwitchRace joins, sends and leaves from many goroutines, plugs of the
// process and clients; the switch itself comes and goes meanwhile.
func TestSwitchRace(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(vdetest.ShortDir(t), "sw")
	stop := time.After(2 * time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-stop
	}()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			vnl := "switch://" + dir
			if i%2 == 1 {
				vnl = dir
			}
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				c, err := Open(vnl, nil)
				if err != nil {
					if i%2 == 0 {
						t.Error(err)
						return
					}
					continue // the switch has just gone
				}
				wg.Go(func() {
					buf := make([]byte, ether.MaxFrame)
					for {
						if _, err := c.Recv(buf); err != nil {
							return
						}
					}
				})
				for j := range 8 {
					c.Send(plugtest.TestFrame(plugtest.Station(j), plugtest.Station(i), 60))
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	// A client that was about to ask may have kept the directory.
	openPlug(t, "switch://"+dir).Close()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there after the last Close: %v", err)
	}
}

// TestSwitchRestart keeps clients of all kinds away from a switch that was
// closed, and takes them back at the next.
func TestSwitchRestart(t *testing.T) {
	testenv.NoLeaks(t)
	c, dir := serve(t, "switch", "")
	in, peer := openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
	plugtest.Carry(t, peer, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	c.Close()
	wantError(t, in.WantEnd(t), "the switch closed the connection")
	peer.WantExit(t)
	c = openPlug(t, "switch://"+dir)
	in, peer = openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
	plugtest.Carry(t, peer, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	plugtest.Carry(t, c, peer.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
}

// setGSO lets clients and switches use GSO packets between them, or not.
func setGSO(t *testing.T, gso bool) {
	t.Helper()
	before := vdeproto.WithoutGSO.Swap(!gso)
	t.Cleanup(func() { vdeproto.WithoutGSO.Store(before) })
}

// TestSwitchShared has several plugs of the process on one switch, which ends
// with the last.
func TestSwitchShared(t *testing.T) {
	testenv.NoLeaks(t)
	first, dir := serve(t, "switch", "[mode=0660/hashsize=5]")
	again := openPlug(t, "switch://"+dir)
	openPlug(t, "switch://"+dir+"/../sw[hashsize=5/mode=660]")
	for vnl, text := range map[string]string{
		"switch://" + dir + "[mode=0666]": "with other options",
		"hub://" + dir:                    "this program has a switch in " + dir,
	} {
		_, err := Open(vnl, nil)
		wantError(t, err, text)
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%v is not EADDRINUSE", err)
		}
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
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
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

// TestSwitchStale starts a switch where one was killed, and does not where one
// runs.
func TestSwitchStale(t *testing.T) {
	for _, kind := range switchKinds {
		t.Run(kind.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := kind.start(t)
			client := openPlug(t, s.Dir) // so that there is a data socket
			_, err := Open("switch://"+s.Dir, nil)
			wantError(t, err, s.Dir+" is the directory of a switch that runs")
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%v is not EADDRINUSE", err)
			}
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
		_, err := Open("switch://"+s.Dir, nil)
		wantError(t, err, "may be the directory of a switch that runs: the switch did not answer within")
	})
}

// TestSwitchPlace asks for directories that cannot be.
func TestSwitchPlace(t *testing.T) {
	base := vdetest.ShortDir(t)
	join := func(name string) string { return filepath.Join(base, name) }
	if err := errors.Join(os.WriteFile(join("file"), nil, 0o600), os.Mkdir(join("home"), 0o755),
		os.WriteFile(join("home/x"), nil, 0o600), os.Symlink("home", join("link")), os.Mkdir(join("empty"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir, text string
		err       error
	}{
		{join("file"), "exists and is no directory", unix.ENOTDIR},
		{join("link"), "exists and is no directory", unix.ENOTDIR},
		{join("home"), "has something in it that no switch has left (x)", fs.ErrExist},
		{join("no/where"), "where the directory " + join("no/where") + " should be", fs.ErrNotExist},
		{join(strings.Repeat("x", 100)), "that of a switch may have 97", unix.ENAMETOOLONG},
		{join("group") + "[grp=no-such-group]", `option "grp=no-such-group": must be a gid or a group`, nil},
	} {
		_, err := Open("switch://"+tt.dir, nil)
		wantError(t, err, tt.text)
		if tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%v is not %v", err, tt.err)
		}
	}
	if os.Geteuid() != 0 {
		_, err := Open("switch://"+join("other")+"[grp=0]", nil)
		wantError(t, err, `option "grp=0": giving `)
		_, err = Open("switch:///proc/sw", nil)
		wantError(t, err, "/proc/sw")
	} else if err := os.Chown(join("empty"), 65534, -1); err == nil {
		_, err := Open("switch://"+join("empty"), nil)
		wantError(t, err, "belongs to user 65534, this is user 0")
		os.Chown(join("empty"), 0, -1)
	}
	if info, err := os.Stat(join("home")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("somebody's directory has mode %v now, %v", info.Mode(), err)
	}
	for _, name := range []string{"other", "group"} {
		if _, err := os.Lstat(join(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	openPlug(t, "switch://"+join("empty")).Close()
	// A directory that is locked, as by another that starts.
	if err := os.Mkdir(join("locked"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(join("locked"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = OpenContext(ctx, "switch://"+join("locked"), nil)
	wantError(t, err, "somebody else has locked "+join("locked"))
}

// TestSwitchForeignFile finds a file of somebody else in the directory when it
// ends.
func TestSwitchForeignFile(t *testing.T) {
	testenv.NoLeaks(t)
	c, dir := serve(t, "switch", "")
	name := filepath.Join(dir, "notes")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Close()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v, want the file", entries, err)
	}
}

// TestSwitchOtherUser has a switch of root that is open to a group, and clients
// of an ordinary user in it; and a switch of an ordinary user, and root's.
func TestSwitchOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a program as another user needs root")
	}
	const nobody = 65534
	plug := testenv.Need(t, "vde_plug", "vdeplug")
	asUser := testenv.Need(t, "setpriv", "util-linux")
	newDir := func(t *testing.T) string {
		base := vdetest.ShortDir(t)
		if err := errors.Join(os.Chmod(base, 0o755), os.Chown(base, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(base, "sw")
	}
	for _, gso := range []bool{true, false} {
		t.Run(fmt.Sprintf("of root/gso=%v", gso), func(t *testing.T) {
			testenv.NoLeaks(t)
			setGSO(t, gso)
			for _, options := range []string{"[mode=0666]", "[mode=0666/dirmode=0755]", fmt.Sprintf("[mode=0660/grp=%d]", nobody)} {
				dir := newDir(t)
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
			dir := newDir(t)
			openPlug(t, "switch://"+dir)
			plugtest.AsNobody(t, "TestSwitchForbiddenUser", dir)
		})
	}
	t.Run("of nobody", func(t *testing.T) {
		testenv.NoLeaks(t)
		dir := newDir(t)
		cmd := goSwitchCommand("switch://" + dir)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		s := startSwitch(t, dir, cmd)
		in, c := openInbox(t, dir), plugtest.CPlug(t, "vde://"+dir)
		plugtest.Carry(t, c, in, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		plugtest.Carry(t, in, c.Inbox, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
		s.Kill(t)
		_, err := Open("switch://"+dir, nil) // it is not root's
		wantError(t, err, "belongs to user 65534, this is user 0")
	})
}

// TestSwitchForbiddenUser is a part of TestSwitchOtherUser.
func TestSwitchForbiddenUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	_, err := Open(dir, nil)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want fs.ErrPermission", err)
	}
}
