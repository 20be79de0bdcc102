//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// An iface is an interface: a TAP in the namespace, a plug on a network, and
// the pump that carries frames between the two; or an end of a veth pair, the
// other end of which is a port of a lan.
type iface struct {
	s     *Stack
	cfg   Interface
	index int

	tap   *nic.Device
	plug  vdeplug.Conn
	pumps sync.WaitGroup

	lan  *lan
	port int

	tx, rx counters
	// failure says why the plug is gone.
	failure atomic.Pointer[error]
}

type counters struct {
	frames, bytes, dropped atomic.Uint64
}

func (c *counters) add(n nic.Counts) {
	c.frames.Add(n.Frames)
	c.bytes.Add(n.Bytes)
	c.dropped.Add(n.Dropped)
}

// newIface opens the network, makes the interface and configures it.
func (s *Stack) newIface(ctx context.Context, nl *rtnl.Conn, cfg Interface) (_ *iface, err error) {
	if strings.HasPrefix(cfg.VNL, lanScheme) {
		return s.newLANIface(ctx, nl, cfg)
	}
	i := &iface{s: s, cfg: cfg}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	vnl := cfg.VNL
	if vnl == "" {
		vnl = "null://"
	}
	if i.plug, err = vdeplug.OpenContext(ctx, vnl, nil); err != nil {
		return nil, err
	}
	if i.tap, err = s.openTAP(cfg.Name, nic.All&^nic.Offload(cfg.NoOffload)); err != nil {
		return nil, err
	}
	return i, i.configure(ctx, nl)
}

func (i *iface) configure(ctx context.Context, nl *rtnl.Conn) (err error) {
	if i.index, err = nl.IfNameToIndex(i.cfg.Name); err != nil {
		return err
	}
	if i.cfg.MAC != nil {
		if err := nl.LinkSetAddr(i.index, i.cfg.MAC); err != nil {
			return err
		}
	}
	if i.cfg.MTU != DefaultMTU {
		if err := nl.LinkSetMTU(i.index, i.cfg.MTU); err != nil {
			return err
		}
	}
	if !i.cfg.Down {
		if err := nl.LinkSetUp(i.index); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, localWait)
	defer cancel()
	awaitLocal := i.awaitLocal(ctx, nl.Watch)
	for _, p := range i.cfg.Addrs {
		if err := nl.AddrAdd(i.index, p, rtnl.NoDAD); err != nil {
			return err
		}
	}
	for _, gw := range i.cfg.Gateways {
		err := nl.RouteAdd(netip.Prefix{}, gw.WithZone(""), i.index)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			err = fmt.Errorf("gateway %v is in no network of the addresses %v: %w", gw, i.cfg.Addrs, err)
		}
		if err != nil {
			return err
		}
	}
	awaitLocal()
	return nil
}

// localWait bounds the wait for the routes of IPv6 addresses, which takes a
// millisecond or two. The kernel has one queue of such work for all namespaces
// of the machine, which waits for its lock on all networks: where hundreds of
// namespaces come and go it has taken nine seconds.
const localWait = 30 * time.Second

// awaitLocal returns a function that waits until packets reach the IPv6
// addresses that are given to the interface after this call, or ctx ends. The
// kernel lets an address be bound at once but leaves the rest to a worker:
// without its local route, packets for it are dropped, and those from the stack
// itself go out to the network.
func (i *iface) awaitLocal(ctx context.Context, watch func(context.Context) iter.Seq2[rtnl.Event, error]) (wait func()) {
	missing := make(map[netip.Addr]bool)
	for _, p := range i.cfg.Addrs {
		if p.Addr().Is6() && !i.cfg.Down {
			missing[p.Addr()] = true
		}
	}
	if len(missing) == 0 {
		return func() {}
	}
	events := watch(ctx)
	return func() {
		for e, err := range events {
			if err != nil {
				return
			}
			if e.Route != nil && e.Route.Table == rtnl.TableLocal && !e.Deleted {
				delete(missing, e.Route.Dst.Addr())
			}
			if len(missing) == 0 {
				return
			}
		}
		i.s.log.Debug("IPv6 addresses are not usable yet", "interface", i.cfg.Name, "addresses", missing)
	}
}

// firstIndex is the index of the first interface that a stack makes; the second
// has the next one, and so on. Package net names the zones of IPv6 addresses by
// the host's interfaces: an index that the host does not have stays a number,
// which is right in the stack.
const firstIndex = 1 << 20

const tunDevice = "/dev/net/tun"

// openTAP makes a TAP interface in the namespace. The device belongs to the
// namespace of the task that opens the file.
func (s *Stack) openTAP(name string, offload nic.Offload) (*nic.Device, error) {
	fd, err := s.ns.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, explainTUN(err)
	}
	// TUNSETIFF must come before the descriptor meets the poller: one that is
	// registered earlier reports an error for ever.
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// IFF_TUN_EXCL: a joined namespace may have a TAP of this name, which is
		// not ours to use.
		ifr.SetUint16(nic.Flags(offload) | unix.IFF_TUN_EXCL)
		// A joined namespace can have the index already: 0 lets the kernel choose.
		for _, index := range []int{firstIndex + len(s.ifaces), 0} {
			unix.IoctlSetPointerInt(fd, unix.TUNSETIFINDEX, index)
			if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != unix.EBUSY {
				break
			}
		}
		err = explainTUN(os.NewSyscallError("ioctl TUNSETIFF", err))
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making interface %s: %w", name, err)
	}
	return nic.NewTAP(fd, tunDevice, offload)
}

// explainTUN says what to do about an error of the device, or of the ioctl that
// makes an interface.
func explainTUN(err error) error {
	_, opening := errors.AsType[*os.PathError](err)
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
	case opening && (errno == unix.EACCES || errno == unix.EPERM):
		text = tunMode()
	case errno == unix.EPERM:
		return netns.Refused(err)
	case errno == unix.EBUSY, errno == unix.EINVAL:
		text = "a joined namespace may have an interface of this name already: give this one another Name"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, text)
}

// tunMode says whose permission is missing where the device cannot be opened.
func tunMode() string {
	var st unix.Stat_t
	if err := unix.Stat(tunDevice, &st); err != nil {
		return "this user may not look there"
	}
	if unix.Faccessat(unix.AT_FDCWD, tunDevice, unix.R_OK|unix.W_OK, unix.AT_EACCESS) != nil {
		return fmt.Sprintf("it has mode %04o and owner %d:%d, this is user %d group %d: chmod 0666 %s lets every user make stacks",
			st.Mode&0o7777, st.Uid, st.Gid, os.Geteuid(), os.Getegid(), tunDevice)
	}
	return "its mode allows it, but the file system is mounted nodev, or the container has no right to devices: docker --device " + tunDevice
}

// fail notes why the network is gone, once.
func (i *iface) fail(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	if i.failure.CompareAndSwap(nil, &err) {
		i.s.log.Warn("network is gone", "interface", i.cfg.Name, "error", err)
	}
}

func (i *iface) stats() InterfaceStats {
	if i.lan != nil {
		st := InterfaceStats{Name: i.cfg.Name, Index: i.index, VNL: i.cfg.VNL}
		i.lanStats(&st)
		return st
	}
	st := InterfaceStats{
		Name: i.cfg.Name, Index: i.index, VNL: i.cfg.VNL,
		TxFrames: i.tx.frames.Load(), TxBytes: i.tx.bytes.Load(), TxDropped: i.tx.dropped.Load(),
		RxFrames: i.rx.frames.Load(), RxBytes: i.rx.bytes.Load(), RxDropped: i.rx.dropped.Load(),
	}
	st.TxDropped += i.tap.Bad.Load()
	if d, ok := i.plug.(vdeplug.Dropper); ok {
		drops := d.Drops()
		st.TxFrames -= min(st.TxFrames, drops.Send)
		st.TxDropped += drops.Send
		st.RxDropped += drops.Recv
	}
	if err := i.failure.Load(); err != nil {
		st.Err = *err
	}
	return st
}

// close leaves the network, removes the interface and waits for the pump.
func (i *iface) close() error {
	if i.lan != nil {
		return i.closeLAN()
	}
	var errs []error
	if i.plug != nil {
		errs = append(errs, i.plug.Close())
	}
	if i.tap != nil {
		errs = append(errs, i.tap.Close())
	}
	i.pumps.Wait()
	return errors.Join(errs...)
}
