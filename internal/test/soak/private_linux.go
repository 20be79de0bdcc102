package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// stage says how far the set-up of the private namespace has come.
const stage = "VDESTACK_SOAK_STAGE"

// private starts the program again in a network namespace of its own, with a
// loopback that carries multicast, so that nothing reaches the machine's
// network. In there it returns true; else the exit status of the program. An
// ordinary user needs a user namespace for it.
func private() (inside bool, status int, err error) {
	defer os.Unsetenv(stage)
	switch os.Getenv(stage) {
	case "":
		status, err = respawn()
		return false, status, err
	case "1":
		return false, 1, setup()
	}
	return true, 0, nil
}

// respawn runs the program in new namespaces.
func respawn() (status int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	// The terminal's interrupt reaches the inner program by itself.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	run := func(attr *syscall.SysProcAttr) error {
		cmd := exec.Command(exe, os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), stage+"=1")
		attr.Pdeathsig = syscall.SIGKILL
		cmd.SysProcAttr = attr
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() {
			for s := range signals {
				if s == unix.SIGTERM {
					cmd.Process.Signal(s)
				}
			}
		}()
		return cmd.Wait()
	}
	err = run(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
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
		return 1, fmt.Errorf("private network namespace: %w", err)
	}
	return 0, nil
}

// setup configures loopback and executes the program once more, without the
// capability that it took: an ordinary user has none in there, as outside.
func setup() error {
	if err := loopback(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	runtime.LockOSThread() // exec takes the credentials of this thread
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	os.Setenv(stage, "2")
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(exe, append([]string{exe}, os.Args[1:]...), os.Environ())
}

// loopback sets lo up, with IPv4 multicast for vxvde.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING | unix.IFF_MULTICAST)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", err)
	}
	nl, err := rtnl.Dial(nil)
	if err != nil {
		return err
	}
	defer nl.Close()
	index, err := nl.IfNameToIndex("lo")
	if err != nil {
		return err
	}
	return nl.RouteAdd(netip.MustParsePrefix("224.0.0.0/4"), netip.Addr{}, index)
}
