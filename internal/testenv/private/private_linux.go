// Package private runs programs in a network namespace of their own, so that none
// of their packets reaches the machine's network.
package private

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stage is the environment variable that says how far the set-up has come: unset,
// [Created] or [Ready]. A process that a program starts may be given Ready: it is in
// the namespace of the program.
const Stage = "VDESTACK_TEST_STAGE"

// The values of Stage.
const (
	Created = "1" // the namespace is there, and is to be set up
	Ready   = "2"
)

// Enter starts the program again in new namespaces, for the network and for those
// in flags. There it calls setup, which has CAP_NET_ADMIN, and executes the program
// once more, without the capabilities that it took. In that program it returns true;
// in the first one false, and the exit status. A user namespace is created only where
// the network namespace needs it. The program in the namespace is killed when the
// first one ends, and gets SIGTERM when ctx is done: the interrupt of a terminal
// reaches it by itself.
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

// respawn runs the program in new namespaces and returns its exit status.
func respawn(ctx context.Context, flags uintptr) (status int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	run := func(attr *syscall.SysProcAttr) error {
		cmd := exec.Command(exe, os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), Stage+"="+Created)
		attr.Pdeathsig = syscall.SIGKILL
		cmd.SysProcAttr = attr
		if err := cmd.Start(); err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { cmd.Process.Signal(unix.SIGTERM) })()
		return cmd.Wait()
	}
	// Unshareflags, for package syscall then keeps mounts from propagating.
	err = run(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: flags})
	if errors.Is(err, unix.EPERM) {
		err = run(&syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		})
	}
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
	runtime.LockOSThread() // exec takes the credentials of this thread
	// And its Pdeathsig, which only the first thread has got from respawn.
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
