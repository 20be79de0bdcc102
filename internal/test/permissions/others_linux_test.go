//go:build amd64 || arm64

package permissions

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// Refusals that need more than a child in a user namespace.
var (
	nested = refusal{
		name: "nested",
		want: user + "no space left on device (no more namespaces for this user (user.max_user_namespaces=2147483647, user.max_net_namespaces=2147483647, maybe less outside of the container; user namespaces nest 32 deep): close some stacks, or raise the limit)",
	}
	ownersDevice = refusal{
		name: "TUN of root", ask: interfaceUp, helper: true, prepare: rootsDevice,
		want: noTUN + "permission denied (it has mode 0600 and owner 0:0, this is user 65534 group 65534: chmod 0666 /dev/net/tun lets every user make TAPs)",
	}
	deviceGroup = refusal{
		name: "device group", ask: interfaceUp, helper: true,
		want: noTUN + "operation not permitted (its mode allows it, but the file system is mounted nodev, or the container has no right to devices: docker --device /dev/net/tun)",
	}
)

// TestNested asks for a stack where user namespaces are nested as deep as the kernel
// allows.
func TestNested(t *testing.T) {
	unshare := testenv.Need(t, "unshare", "util-linux")
	self := testenv.Opened(os.Open("/proc/self/exe"))(t)
	for depth := 33; depth > 0; depth-- {
		args := strings.Fields(strings.Repeat(unshare+" --map-current-user ", depth) + "/proc/self/fd/3")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.ExtraFiles = []*os.File{self}
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := nested.start(cmd, "meet")
		if err == nil {
			t.Logf("%d deep: %s", depth, out)
			return
		}
		if !strings.Contains(out, "unshare failed") {
			t.Fatalf("%d deep: %v\n%s", depth, err, out)
		}
	}
	t.Fatal("user namespaces are not nested at all")
}

// TestRootsDevice has a /dev/net/tun for root only, as the kernel makes it.
func TestRootsDevice(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Skip("making devices needs root")
	}
	ownersDevice.runAs(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS})
}

// rootsDevice makes the device, and becomes an ordinary user.
func rootsDevice() error {
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE); err != nil {
		return err
	}
	if err := mount("none", "/dev/net", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(65534, 65534, 65534), syscall.Setresuid(65534, 65534, 65534))
}

// TestDeviceGroup denies the child the device as container programs do.
func TestDeviceGroup(t *testing.T) {
	testenv.Long(t)
	groups := testenv.Must(os.ReadFile("/proc/self/cgroup"))(t)
	var own string
	for line := range bytes.Lines(groups) {
		if f := strings.SplitN(strings.TrimSpace(string(line)), ":", 3); len(f) == 3 && f[1] == "devices" {
			own = filepath.Join("/sys/fs/cgroup/devices", f[2])
		}
	}
	if own == "" || os.Geteuid() != 0 {
		t.Skip("needs root and the device controller of cgroup v1")
	}
	group, err := os.MkdirTemp(own, "vdestack-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(group)
	testenv.Check(t, os.WriteFile(filepath.Join(group, "devices.deny"), []byte("c 10:200 rwm"), 0))
	// The child is in the group of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	enter := func(group string) {
		testenv.Check(t, os.WriteFile(filepath.Join(group, "tasks"), fmt.Append(nil, unix.Gettid()), 0))
	}
	enter(group)
	out, err := deviceGroup.start(exec.Command("/proc/self/exe"), "meet")
	enter(own)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
}
