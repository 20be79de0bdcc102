package private

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stage is the environment variable that says how far the set-up has come: unset,
// [Created] or [Ready]. A process that a program starts may be given Ready: it is in
// the namespace of the program.
const Stage = "VDESTACK_TEST_STAGE"

// The values of Stage.
const (
	Created = "1" // the namespace exists, and is not set up yet
	Ready   = "2"
)

// Enter starts the program again in new namespaces, one for the network and those in
// flags:
//
//   - There it calls setup, which has CAP_NET_ADMIN, and executes the program once more,
//     without the capabilities that it took. In that program Enter returns true.
//   - In the first program it returns false and the exit status of the other.
//   - A user namespace is created only where the network namespace needs it.
//   - The other program is killed when the first one ends, and gets SIGTERM when ctx is
//     done. The interrupt of a terminal reaches it directly.
func Enter(ctx context.Context, flags uintptr, setup func() error) (inside bool, status int, err error) {
	switch os.Getenv(Stage) {
	case Ready:
		return true, 0, os.Unsetenv(Stage)
	case Created:
		if err = setup(); err == nil {
			err = again()
		}
	default:
		status, err = respawn(ctx, flags)
	}
	if err != nil {
		return false, 1, fmt.Errorf("private network namespace: %w", err)
	}
	return false, status, nil
}

// Loopback sets lo up, with IPv4 multicast.
func Loopback() error { return IP("link set lo up multicast on\nroute add 224.0.0.0/4 dev lo\n") }

// IP runs commands of ip, one a line.
func IP(batch string) error {
	path, err := Find("ip", "iproute2")
	if err != nil {
		return err
	}
	ip := exec.Command(path, "-batch", "-")
	ip.Stdin = strings.NewReader(batch)
	if out, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return nil
}

// AwaitIPv6 waits until addresses of this host can be used. The kernel adds their routes
// in the background, and until then looks for the addresses on the link.
func AwaitIPv6(limit time.Duration, addrs ...string) error {
	const routes = "/proc/thread-self/net/ipv6_route"
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(routes)
		if err != nil {
			return err
		}
		missing := slices.IndexFunc(addrs, func(a string) bool {
			return !strings.Contains(string(text), fmt.Sprintf("%x 80", netip.MustParseAddr(a).As16()))
		})
		if missing < 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no route to %s after %v", routes, addrs[missing], limit)
		}
	}
}

// Root returns the attributes of a process that is root of a new user namespace, in
// which only this process's user exists, and in the new namespaces of flags.
func Root(flags uintptr) *syscall.SysProcAttr { return namespaces(flags, 0, 0) }

// namespaces returns the attributes of a process in a new user namespace, in which this
// process's user and group have the given ids, and in the new namespaces of flags.
func namespaces(flags uintptr, uid, gid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getegid(), Size: 1}},
	}
}

// Same returns the attributes of a process in a new user namespace, in which it is the
// same user as here and has capabilities, and in the new namespaces of flags.
func Same(flags uintptr, capabilities ...uintptr) *syscall.SysProcAttr {
	attr := namespaces(flags, os.Geteuid(), os.Getegid())
	attr.AmbientCaps = capabilities
	return attr
}

// respawn runs the program in new namespaces and returns its exit status.
func respawn(ctx context.Context, flags uintptr) (status int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	run := func(attr *syscall.SysProcAttr) (status int, err error) {
		cmd := exec.Command(exe, os.Args[1:]...)
		cmd.Env = append(os.Environ(), Stage+"="+Created)
		cmd.SysProcAttr = attr
		return Run(ctx, cmd)
	}
	// With Unshareflags package syscall keeps mounts from propagating.
	status, err = run(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: flags})
	if errors.Is(err, unix.EPERM) {
		status, err = run(Same(unix.CLONE_NEWNET, unix.CAP_NET_ADMIN))
	}
	return status, err
}

// Run runs a command with the files of this program, and returns its exit status. The
// command is killed when this program ends, and gets SIGTERM when ctx is done.
func Run(ctx context.Context, cmd *exec.Cmd) (status int, err error) {
	runtime.LockOSThread() // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Signal(unix.SIGTERM) })()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// again executes the program once more, without the capabilities that it took.
func again() error {
	runtime.LockOSThread() // exec uses the credentials of this thread
	// And its Pdeathsig, which only the first thread got from respawn.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_PDEATHSIG", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	os.Setenv(Stage, Ready)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(exe, append([]string{exe}, os.Args[1:]...), os.Environ())
}
