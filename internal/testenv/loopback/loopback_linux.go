// Package loopback configures the loopback interface of a private network namespace.
package loopback

import (
	"net/netip"
	"os"

	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// Up sets lo up, with IPv4 multicast, for programs in package private.
func Up() error {
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
