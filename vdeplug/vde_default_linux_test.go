package vdeplug

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestSwitchLocked has another program keep a lock on the directory that a killed switch has
// left.
func TestSwitchLocked(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	testenv.Check(t, os.Mkdir(dir, 0o755))
	f, err := os.Open(dir)
	testenv.Check(t, err)
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

// TestVDEDefault has a switch of another user in the default directory. Open fails, whoever
// owns the socket's file, unless the locator names the directory.
func TestVDEDefault(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Skip("starting a program as another user needs root")
	}
	testenv.NoLeaks(t)
	base := testenv.ShortDir(t)
	testenv.Check(t, os.Chown(base, 65534, 65534))
	dir := filepath.Join(base, "sw")
	cmd := goSwitchCommand(t, "switch://"+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	startSwitch(t, dir, cmd)
	setDefaults(t, dir)
	for _, owner := range []int{0, 65534} {
		testenv.Check(t, os.Chown(filepath.Join(dir, "ctl"), owner, -1))
		wantOpenError(t, "vde://", "the switch in "+dir+" belongs to user 65534", unix.EPERM)
		openPlug(t, "vde://"+dir).Close()
	}
	// Its own user may use it, and everybody a switch of root.
	plugtest.AsNobody(t, "TestVDEDefaultUser", dir)
	testenv.Check(t, os.Chmod(base, 0o777))
	root := filepath.Join(base, "root")
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
