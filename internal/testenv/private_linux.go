package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

// Main is a TestMain that runs all tests of the package in a network namespace of its
// own, so that no packet of a test reaches the machine's network:
//
//   - It has loopback with IPv4 multicast, and a veth pair (test0 with fd09::1/64 and
//     203.0.113.1/24, and test1) for IPv6 multicast. Sockets for ping are allowed.
//   - Root keeps its privileges, and has a mount namespace with a /dev/net/tun for
//     everybody.
//   - An ordinary user has no privileges in it, as outside.
func Main(m *testing.M) {
	runProgram()
	for _, arg := range os.Args[1:] {
		// A fuzzing run passes descriptors to its workers; the fuzz targets
		// are pure functions.
		if strings.HasPrefix(arg, "-test.fuzz=") || strings.HasPrefix(arg, "-test.fuzzworker") {
			os.Exit(m.Run())
		}
	}
	inside, status, err := private.Enter(context.Background(), unix.CLONE_NEWNS, setup)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
	}
	if !inside {
		os.Exit(status)
	}
	if err := private.AwaitIPv6(Timeout, "fd09::1"); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// network is the private network besides loopback: a veth pair with IPv6 multicast,
// which loopback does not carry. With a larger scope its IPv4 address would be the source
// of what is sent on loopback.
const network = `link add test0 type veth peer name test1
link set test1 up
link set test0 up
addr add fd09::1/64 dev test0 nodad
addr add 203.0.113.1/24 dev test0 scope link
`

// setup configures the network.
func setup() error {
	if err := errors.Join(private.Loopback(), private.IP(network)); err != nil {
		return err
	}
	// As distributions with systemd have it. Where /proc/sys cannot be written, tests
	// that need it say so.
	os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "%d %[1]d", os.Getegid()), 0)
	if os.Geteuid() == 0 {
		if err := publicTUN(); err != nil {
			return fmt.Errorf("a TUN device for ordinary users: %w", err)
		}
	}
	return nil
}

// publicTUN replaces a /dev/net/tun for root only by one of mode 0666, as distributions
// have it: some of root's tests become an ordinary user. Where no device may be made, the
// old one stays, and those tests say what they miss.
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
	defer unix.Unmount(dir, unix.MNT_DETACH) // the bind mount stays
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
