package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

func init() {
	Register(Scheme{
		Name:  "macvtap",
		Open:  plugsOn(openMacVTAP),
		Usage: Usage{Form: "macvtap://NAME", About: "the network of an interface of the host, by a macvtap interface"},
	})
}

// openMacVTAP opens the device of a macvtap interface. The plug sends and receives with
// the address of the interface; in passthru mode, with others too.
func openMacVTAP(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	name, err := interfaceName(l)
	if err != nil {
		return nil, err
	}
	index, err := hostInterface(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	device := fmt.Sprintf("/dev/tap%d", index)
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainMacVTAP(name, device, err)
	}
	// As with a TAP, the ioctl comes before the poller.
	req, err := unix.NewIfreq("")
	if err == nil {
		req.SetUint16(nic.Flags(nic.All))
		err = os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is not the device of a macvtap interface: %w", device, err)
	}
	dev, err := nic.NewTAP(fd, "macvtap "+name, nic.All)
	if err != nil {
		return nil, err
	}
	return &tapConn{name: name, dev: dev}, nil
}

// interfaceName returns the name of an existing interface: the whole body of a locator.
func interfaceName(l Locator) (string, error) {
	if l.Body() == "" {
		return "", errors.New("no interface given")
	}
	return l.Body(), checkInterfaceName(l.Body())
}

// hostInterface returns the number of an interface in the caller's namespace.
func hostInterface(name string) (uint32, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return sockio.InterfaceIndex(fd, name)
}

func explainMacVTAP(name, device string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("interface %q has no device %s: either it is no macvtap interface (ip link add link ETH name %s type macvtap), or the device must be made here: %w", name, device, name, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("no access to %s (its owner gives it, chown or chmod): %w", device, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("interface %q is in use by another program: %w", name, err)
	}
	return fmt.Errorf("opening %s: %w", device, err)
}
