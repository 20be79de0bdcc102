//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

const tunDevice = netns.TUN

// A tapLink is a TAP, with a pump between it and a plug.
type tapLink struct{ pump }

// tap returns the TAP configuration of an interface.
func (cfg Interface) tap(index int) netns.TAP {
	return netns.TAP{
		Name:  cfg.Name,
		Flags: nic.Flags(cfg.offload()), Offloads: nic.Offloads(cfg.offload()),
		Index: index,
		Up:    !cfg.Down && cfg.MAC == nil && cfg.MTU == DefaultMTU, // these are set before
	}
}

func (cfg Interface) offload() nic.Offload {
	return (nic.All &^ nic.Offload(cfg.NoOffload)).Usable()
}

// makeTAP makes the interface.
func (i *iface) makeTAP(nl *rtnl.Conn, plug vdeplug.Conn) error {
	fd, index, up, err := i.openTAP(i.cfg.tap(i.wanted))
	if err != nil {
		return err
	}
	dev, err := nic.NewTAP(fd, tunDevice, i.cfg.offload())
	if err != nil {
		return err
	}
	i.link, i.index, i.up = &tapLink{pump{i: i, plug: plug, dev: dev}}, index, up
	if i.index == 0 {
		if i.index, err = nl.IfNameToIndex(i.cfg.Name); err != nil {
			return err
		}
	}
	if i.cfg.MAC != nil {
		if err := nl.LinkSetAddr(i.index, i.cfg.MAC); err != nil {
			return err
		}
	}
	if i.cfg.MTU != DefaultMTU {
		return nl.LinkSetMTU(i.index, i.cfg.MTU)
	}
	return nil
}

// openTAP is that of the namespace, and explains errors.
func (i *iface) openTAP(t netns.TAP) (fd, index int, up bool, err error) {
	fd, index, up, err = i.s.ns.OpenTAP(t)
	if isOpening(err) {
		return -1, 0, false, explainTUN(err)
	}
	if err != nil {
		return -1, 0, false, fmt.Errorf("making interface %s: %w", i.cfg.Name, explainTUN(err))
	}
	return fd, index, up, nil
}

// start implements [link].
func (t *tapLink) start(context.Context) error {
	t.run()
	return nil
}

// remove implements [link].
func (t *tapLink) remove(socket int) error {
	defer teardown.Within(t.running.Wait) // the kernel may hold one of them in its plug
	return t.i.closeDevice(t.dev, socket)
}

// stats implements [link].
func (t *tapLink) stats(st *InterfaceStats) {
	if name, err := t.dev.Name(); err == nil {
		st.Name = name
	}
	t.pump.stats(st)
}

// explainTaken explains an error of a name that is in use.
func explainTaken(err error) error {
	return inUse(fmt.Errorf("%w (the namespace may have an interface of this name already: give this one another Name)", err))
}

// noDevice reports whether this user cannot have a TAP at all.
func noDevice(err error) bool {
	errno, _ := errors.AsType[unix.Errno](err)
	return slices.Contains([]unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ENODEV, unix.ENXIO, unix.ENOTTY, unix.EISDIR, unix.EACCES, unix.EPERM}, errno)
}

// explainTUN explains an error of the device, or of the ioctl that makes an interface.
func explainTUN(err error) error {
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return err
	}
	text := ""
	switch {
	case errno == unix.ENOENT, errno == unix.ENOTDIR:
		text = "there is no such device: modprobe tun, or pass it into the container, docker --device " + tunDevice
	case errno == unix.ENODEV, errno == unix.ENXIO:
		text = "the kernel has no driver for it: modprobe tun"
	case errno == unix.ENOTTY, errno == unix.EISDIR:
		text = "this is not the TUN device: mknod " + tunDevice + " c 10 200"
	case isOpening(err) && (errno == unix.EACCES || errno == unix.EPERM):
		text = tunMode()
	case errno == unix.EPERM:
		return netns.Refused(err)
	case errno == unix.EBUSY, errno == unix.EINVAL:
		return explainTaken(err)
	default:
		return err
	}
	return refused(err, text)
}

// isOpening reports whether the device could not be opened.
func isOpening(err error) bool {
	_, ok := errors.AsType[*os.PathError](err)
	return ok
}

// tunMode says which permission is missing to open the device.
func tunMode() string {
	var st unix.Stat_t
	if err := unix.Stat(tunDevice, &st); err != nil {
		return "this user may not look there"
	}
	if unix.Faccessat(unix.AT_FDCWD, tunDevice, unix.R_OK|unix.W_OK, unix.AT_EACCESS) != nil {
		return fmt.Sprintf("it has mode %04o and owner %d:%d, this is user %d group %d: chmod 0666 %s lets every user make TAPs",
			st.Mode&0o7777, st.Uid, st.Gid, os.Geteuid(), os.Getegid(), tunDevice)
	}
	return "its mode allows it, but the file system is mounted nodev, or the container has no right to devices: docker --device " + tunDevice
}
