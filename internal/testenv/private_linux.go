package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stage says how far the set-up of the private namespace has come.
const stage = "VDESTACK_TEST_STAGE"

// Main is a TestMain that runs all tests of the package in a network namespace
// of its own, so that no packet of a test reaches the machine's network. It has
// loopback with IPv4 multicast, and a veth pair (test0 with fd09::1/64 and
// 203.0.113.1/24, and test1) for IPv6 multicast. Sockets for ping are allowed.
// Root keeps its privileges, and has a mount namespace with a /dev/net/tun for
// everybody; an ordinary user has none in there, as outside.
func Main(m *testing.M) {
	for _, arg := range os.Args[1:] {
		// A fuzzing run passes descriptors to its workers; the fuzz targets
		// are pure functions.
		if strings.HasPrefix(arg, "-test.fuzz=") || strings.HasPrefix(arg, "-test.fuzzworker") {
			os.Exit(m.Run())
		}
	}
	switch os.Getenv(stage) {
	case "":
		os.Exit(respawn())
	case "1":
		if err := setup(); err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			os.Exit(1)
		}
		panic("unreachable")
	}
	os.Unsetenv(stage)
	os.Exit(m.Run())
}

// respawn starts the test binary again in new namespaces and returns its exit
// status. A user namespace is made only where the network namespace needs it.
func respawn() int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	run := func(attr *syscall.SysProcAttr) error {
		cmd := exec.Command(exe, os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), stage+"=1")
		attr.Pdeathsig = syscall.SIGKILL
		cmd.SysProcAttr = attr
		runtime.LockOSThread() // Pdeathsig follows the thread
		defer runtime.UnlockOSThread()
		return cmd.Run()
	}
	// Unshareflags, for package syscall then keeps mounts from propagating.
	err = run(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS})
	if errors.Is(err, unix.EPERM) {
		err = run(&syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		})
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "testenv:", err)
	return 1
}

// network is the private network: loopback with IPv4 multicast, and a veth pair
// with IPv6 multicast, which loopback does not carry. Were the scope of its IPv4
// address larger, it would be the source of what is sent on loopback.
const network = `link set lo up multicast on
route add 224.0.0.0/4 dev lo
link add test0 type veth peer name test1
link set test1 up
link set test0 up
addr add fd09::1/64 dev test0 nodad
addr add 203.0.113.1/24 dev test0 scope link
`

// setup configures the network and executes the binary once more, without the
// capability that it took.
func setup() error {
	runtime.LockOSThread() // exec takes the credentials of this thread
	ip := exec.Command("/sbin/ip", "-batch", "-")
	ip.Stdin = strings.NewReader(network)
	if out, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s (apt-get install iproute2)", err, out)
	}
	// What distributions with systemd allow everybody. Where /proc/sys cannot be
	// written, tests that need it say so.
	os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "%d %[1]d", os.Getegid()), 0)
	if os.Geteuid() == 0 {
		if err := publicTUN(); err != nil {
			return fmt.Errorf("a TUN device for ordinary users: %w", err)
		}
	}
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

// publicTUN puts a device of mode 0666, as distributions have it, in the place
// of a /dev/net/tun that is for root alone: root's tests have parts that an
// ordinary user plays. Where no device may be made, the old one stays, and those
// tests say what they miss.
func publicTUN() error {
	const device = "/dev/net/tun"
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil || st.Mode&0o666 == 0o666 {
		return nil
	}
	dir, err := os.MkdirTemp("", "vdestack-test")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) // what is bound from it stays
	node := dir + "/tun"
	switch err := unix.Mknod(node, unix.S_IFCHR, int(st.Rdev)); err {
	case nil:
	case unix.EPERM:
		return nil
	default:
		return os.NewSyscallError("mknod", err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		return err
	}
	return os.NewSyscallError("mount", unix.Mount(node, device, "", unix.MS_BIND, ""))
}
