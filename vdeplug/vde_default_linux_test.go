package vdeplug

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// TestSwitchLocked has somebody who may read the directory that a killed switch has
// left lock it for ever.
func TestSwitchLocked(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(vdetest.ShortDir(t), "sw")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
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

// TestVDEDefault has a switch of another user where a locator without a directory
// looks. It is refused, whatever the file says of its owner, unless it is named.
func TestVDEDefault(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a program as another user needs root")
	}
	testenv.NoLeaks(t)
	base := vdetest.ShortDir(t)
	if err := os.Chown(base, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "sw")
	cmd := goSwitchCommand("switch://" + dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	startSwitch(t, dir, cmd)
	setDefaults(t, dir)
	for _, owner := range []int{0, 65534} {
		if err := os.Chown(filepath.Join(dir, "ctl"), owner, -1); err != nil {
			t.Fatal(err)
		}
		_, err := Open("vde://", nil)
		wantError(t, err, "the switch in "+dir+" is that of user 65534")
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%v is not %v", err, unix.EPERM)
		}
		openPlug(t, "vde://"+dir).Close()
	}
	// Its own user may have it, and everybody that of root.
	plugtest.AsNobody(t, "TestVDEDefaultUser", dir)
	if err := os.Chmod(base, 0o777); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(base, "root")
	openPlug(t, "switch://"+root+"[mode=0666/dirmode=0755]")
	plugtest.AsNobody(t, "TestVDEDefaultUser", root)
}

// TestVDEDefaultUser is the part of TestVDEDefault of the ordinary user.
func TestVDEDefaultUser(t *testing.T) {
	dir := plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	setDefaults(t, dir)
	openPlug(t, "vde://")
}

// TestVDEDefaultOwn has the switch of this user where a locator without a directory
// looks.
func TestVDEDefaultOwn(t *testing.T) {
	testenv.NoLeaks(t)
	_, dir := serve(t, "switch", "")
	setDefaults(t, dir)
	openPlug(t, "vde://")
}

// TestVDEDefaultRedirected has another user lead to a switch of this user, where a
// locator without a directory looks: by a directory with a link in it, and by a link.
func TestVDEDefaultRedirected(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of another user")
	}
	testenv.NoLeaks(t)
	_, dir := serve(t, "switch", "")
	inside, link := filepath.Join(t.TempDir(), "inside"), filepath.Join(t.TempDir(), "link")
	for _, err := range []error{
		os.Mkdir(inside, 0o777), os.Symlink(dir+"/ctl", inside+"/ctl"), os.Lchown(inside, 65534, 65534),
		os.Symlink(dir, link), os.Lchown(link, 65534, 65534),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{inside, link} {
		setDefaults(t, dir)
		_, err := Open("vde://", nil)
		wantError(t, err, "is that of user 65534")
		openPlug(t, "vde://"+dir).Close()
	}
}

func setDefaults(t *testing.T, dir string) {
	before := defaultSwitches
	defaultSwitches = []string{dir}
	t.Cleanup(func() { defaultSwitches = before })
}
