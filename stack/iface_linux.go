//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/teardown"
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
	up    bool // since it was made

	dev   *nic.Device
	cable *cable // nil: dev is a TAP
	plug  vdeplug.Conn
	wire  *wire // the plug, when the pump has started
	pumps sync.WaitGroup

	lan     *lan
	port    lanPort
	lanLast atomic.Pointer[InterfaceStats] // of a closed one
	met     acquaintances

	recording *recording // nil: it is not recorded

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

// plugged says whether the interface is joined to its network by a plug, and not
// in the kernel.
func (cfg Interface) plugged() bool {
	l, err := vdeplug.Parse(cfg.VNL)
	return err != nil || l.Scheme() != lanScheme && (l.Scheme() != memScheme || memnet.UserSpace.Load())
}

// A network is one that is reached by a plug.
type network struct {
	ctx     context.Context
	vnl     string
	options vdeplug.Options
	opened  chan struct{} // closed when it is open; nil: nobody opens it yet
	plug    vdeplug.Conn  // nil once it is taken
	err     error
}

func (s *Stack) newNetwork(ctx context.Context, cfg Interface) *network {
	vnl := cfg.VNL
	if vnl == "" {
		vnl = "null://"
	}
	o := vdeplug.Options{Reconnect: !cfg.NoReconnect, Notify: func(l vdeplug.Link) { s.linkChanged(cfg.Name, l) }}
	return &network{ctx: ctx, vnl: vnl, options: o}
}

// begin begins to open the network beside what the caller does.
func (n *network) begin() {
	if n == nil {
		return
	}
	n.opened = make(chan struct{})
	go func() {
		defer close(n.opened)
		n.open()
	}()
}

func (n *network) open() { n.plug, n.err = vdeplug.OpenContext(n.ctx, n.vnl, &n.options) }

// take returns the plug, and opens the network if begin has not.
func (n *network) take() (plug vdeplug.Conn, err error) {
	if n.opened == nil {
		n.open()
	} else {
		<-n.opened
	}
	plug, n.plug = n.plug, nil
	return plug, n.err
}

// linkChanged logs what has become of a network that is opened again.
func (s *Stack) linkChanged(name string, l vdeplug.Link) {
	switch {
	case l.Err == nil:
		s.log.Info("network is back", "interface", name, "reconnects", l.Reconnects)
	case l.Reconnecting:
		s.log.Warn("network is gone, reconnecting", "interface", name, "error", l.Err)
	}
	// The pump meets the end.
}

// plugNetworks returns the networks of those interfaces that reach theirs by plugs,
// nil for the others. discard gives up what nobody has taken.
func (s *Stack) plugNetworks(ctx context.Context, interfaces []Interface) (all []*network, discard func()) {
	ctx, cancel := context.WithCancel(ctx)
	all = make([]*network, len(interfaces))
	for j, f := range interfaces {
		if f.plugged() {
			all[j] = s.newNetwork(ctx, f)
		}
	}
	return all, func() {
		cancel()
		for _, n := range all {
			if n != nil && n.opened != nil {
				<-n.opened
				if n.plug != nil {
					n.plug.Close()
				}
			}
		}
	}
}

// newIface makes an interface and configures it. network is what it is plugged
// into, nil if it is joined in the kernel.
func (s *Stack) newIface(ctx context.Context, nl *rtnl.Conn, cfg Interface, network *network) (_ *iface, err error) {
	if network == nil {
		if i, err := s.newLANIface(ctx, nl, cfg); i != nil || err != nil {
			return i, err
		}
		network = s.newNetwork(ctx, cfg) // the kernel cannot
	}
	i := &iface{s: s, cfg: cfg}
	defer func() {
		if err != nil {
			i.leave()
			s.behind(func() { i.remove(-1) })
		}
	}()
	if i.plug, err = network.take(); err != nil {
		return nil, err
	}
	if err := i.open(ctx, nl); err != nil {
		return nil, err
	}
	if err := i.startCapture(nl); err != nil {
		return nil, err
	}
	if err := i.configure(ctx, nl); err != nil || cfg.Down || i.cable == nil {
		return i, err
	}
	return i, i.cable.hub.await(i.cable.far)
}

// open makes the interface: a TAP or, where that is not to be had, a cable.
func (i *iface) open(ctx context.Context, nl *rtnl.Conn) (err error) {
	var terr error
	if i.cfg.Kind != KindVeth {
		if terr = i.openTAP(); terr == nil {
			return nil
		}
		if i.cfg.Kind == KindTAP || !noDevice(terr) {
			return terr
		}
		i.s.log.Debug("the interface is a veth pair", "interface", i.cfg.Name, "reason", terr)
	}
	if i.cable, i.dev, err = i.s.openCable(ctx, nl, i.cfg, i.cfg.offload()); err != nil {
		i.cable, i.dev = nil, nil
		if terr != nil {
			return fmt.Errorf("%w; without it: %w", terr, err)
		}
		return fmt.Errorf("making interface %s: %w", i.cfg.Name, err)
	}
	return nil
}

// findIndex asks for the index of the interface where the kernel has chosen it.
func (i *iface) findIndex(nl *rtnl.Conn) (err error) {
	if i.index == 0 {
		i.index, err = nl.IfNameToIndex(i.cfg.Name)
	}
	return err
}

func (i *iface) configure(ctx context.Context, nl *rtnl.Conn) (err error) {
	if err := i.findIndex(nl); err != nil {
		return err
	}
	i.s.neighbors.Own(i.index)
	// A veth pair was made with these.
	if i.cfg.MAC != nil && i.lan == nil && i.cable == nil {
		if err := nl.LinkSetAddr(i.index, i.cfg.MAC); err != nil {
			return err
		}
	}
	if i.cfg.MTU != DefaultMTU && i.lan == nil && i.cable == nil {
		if err := nl.LinkSetMTU(i.index, i.cfg.MTU); err != nil {
			return err
		}
	}
	if !i.cfg.Down && !i.up {
		if err := nl.LinkSetUp(i.index); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, localWait)
	defer cancel()
	var events iter.Seq2[rtnl.Event, error]
	if !i.cfg.Down {
		events = nl.Watch(wait)
	}
	missing := make(map[netip.Addr]bool)
	for _, p := range i.cfg.Addrs {
		if err := nl.AddrAdd(i.index, p, rtnl.NoDAD); err != nil {
			return err
		}
		if p.Addr().Is6() && !i.cfg.Down {
			missing[p.Addr()] = true
		}
	}
	if !i.cfg.Down {
		local, err := i.linkLocal(nl)
		if err != nil {
			return err
		}
		if local.IsValid() {
			missing[local] = true
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
	if missing := awaitLocal(events, missing); len(missing) > 0 {
		err := fmt.Errorf("the kernel has not made the routes of %v yet, for which it has one queue on the whole machine", missing)
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w: %w", err, cause)
		}
		i.s.log.Warn("IPv6 addresses are not usable", "interface", i.cfg.Name, "error", err)
	}
	return nil
}

// localWait bounds the wait for the routes of IPv6 addresses, which takes a
// millisecond or two. The kernel has one queue of such work for all namespaces
// of the machine, which waits for its lock on all networks: where hundreds of
// namespaces come and go it has taken nine seconds.
const localWait = 30 * time.Second

// linkLocal makes the link-local address that the kernel has given to the
// interface, which is up, usable at once, as those of the configuration are: it
// takes the place of itself, without duplicate address detection, which lasts a
// second or two. The kernel's setting would do that for all addresses, those of
// routers too. Packets come from it only where the configuration has no link-local
// address: who was asked by one that it has answers from that. linkLocal returns
// the address, or the zero Addr if there is no such.
func (i *iface) linkLocal(nl *rtnl.Conn) (netip.Addr, error) {
	l, err := nl.Link(i.index)
	if err == nil && l.Kind == "veth" {
		// It has a carrier when the other end is up, and the address then.
		l, err = await(nl, i.index)
	}
	if err != nil || len(l.HardwareAddr) != 6 {
		return netip.Addr{}, err
	}
	a := netip.PrefixFrom(eui64(l.HardwareAddr), 64)
	err = nl.AddrDel(i.index, a)
	if err != nil {
		// There is no IPv6, or it is made otherwise in a namespace that was joined.
		return netip.Addr{}, nil
	}
	options := []rtnl.AddrOption{rtnl.NoDAD, rtnl.ScopeLink}
	if slices.ContainsFunc(i.cfg.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() }) {
		options = append(options, rtnl.Lifetime{Valid: rtnl.Forever}) // deprecated from the beginning
	}
	return a.Addr(), nl.AddrAdd(i.index, a, options...)
}

// eui64 returns the link-local address of an Ethernet address, RFC 4291, appendix A.
func eui64(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// awaitLocal waits until packets reach IPv6 addresses that were given to an
// interface since events began, or these end. The kernel lets an address be bound
// at once but leaves the rest to a worker: without its local route, packets for it
// are dropped, and those from the stack itself go out to the network. It returns
// those that are missing.
func awaitLocal(events iter.Seq2[rtnl.Event, error], missing map[netip.Addr]bool) []netip.Addr {
	if len(missing) == 0 {
		return nil
	}
	for e, err := range events {
		if err != nil {
			break
		}
		if e.Route != nil && e.Route.Table == rtnl.TableLocal && !e.Deleted {
			delete(missing, e.Route.Dst.Addr())
		}
		if len(missing) == 0 {
			break
		}
	}
	return slices.SortedFunc(maps.Keys(missing), netip.Addr.Compare)
}

// firstIndex is the index of the first interface that a stack makes; the second
// has the next one, and so on. Package net names the zones of IPv6 addresses by
// the host's interfaces: an index that the host does not have stays a number,
// which is right in the stack.
const firstIndex = 1 << 20

const tunDevice = netns.TUN

// tap says how the TAP of the interface is made, which is that with the given
// place in the stack.
func (cfg Interface) tap(place int) netns.TAP {
	return netns.TAP{
		Name:  cfg.Name,
		Flags: nic.Flags(cfg.offload()), Offloads: nic.Offloads(cfg.offload()),
		Index: firstIndex + place,
		Up:    !cfg.Down && cfg.MAC == nil && cfg.MTU == DefaultMTU, // nothing comes before that
	}
}

func (cfg Interface) offload() nic.Offload {
	return (nic.All &^ nic.Offload(cfg.NoOffload)).Usable()
}

// openTAP makes the interface.
func (i *iface) openTAP() error {
	fd, index, up, err := i.s.ns.OpenTAP(i.cfg.tap(len(i.s.ifaces)))
	if _, opening := errors.AsType[*os.PathError](err); opening {
		return explainTUN(err)
	}
	if err != nil {
		return fmt.Errorf("making interface %s: %w", i.cfg.Name, explainTUN(err))
	}
	i.index, i.up = index, up
	i.dev, err = nic.NewTAP(fd, tunDevice, i.cfg.offload())
	return err
}

// taken explains that an interface cannot be made because there is another one.
const taken = "a joined namespace may have an interface of this name already: give this one another Name"

// noDevice reports that this user cannot have a TAP at all.
func noDevice(err error) bool {
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return false
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ENODEV, unix.ENXIO, unix.ENOTTY, unix.EISDIR, unix.EACCES, unix.EPERM:
		return true
	}
	return false
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
		text = taken
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

// name returns the name that the interface has now, which a command or netlink can
// change; of one that is gone, the name that it was given.
func (i *iface) name() string {
	if i.dev != nil && i.cable == nil {
		if name, err := i.dev.Name(); err == nil {
			return name
		}
	} else if fd, err := i.s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0); err == nil {
		defer unix.Close(fd)
		if name, err := netns.IfName(fd, i.index); err == nil {
			return name
		}
	}
	return i.cfg.Name
}

func (i *iface) stats() InterfaceStats {
	st := i.networkStats()
	if i.recording != nil {
		st.CaptureDropped, st.CaptureErr = i.recording.Dropped(), i.recording.Err()
	}
	return st
}

func (i *iface) networkStats() InterfaceStats {
	if i.lan != nil {
		return i.lanStats()
	}
	st := InterfaceStats{
		Name: i.name(), Index: i.index, VNL: i.cfg.VNL,
		TxFrames: i.tx.frames.Load(), TxBytes: i.tx.bytes.Load(), TxDropped: i.tx.dropped.Load(),
		RxFrames: i.rx.frames.Load(), RxBytes: i.rx.bytes.Load(), RxDropped: i.rx.dropped.Load(),
	}
	st.TxDropped += i.dev.Bad.Load()
	st.GRORejected = i.dev.GRORejected.Load()
	if i.wire != nil {
		dropped := i.wire.dropped()
		st.TxFrames -= min(st.TxFrames, dropped)
		st.TxDropped += dropped
	}
	if d, ok := i.plug.(vdeplug.Dropper); ok {
		st.RxDropped += d.Drops().Recv
	}
	if l, ok := i.plug.(vdeplug.Linker); ok {
		link := l.Link()
		st.Err, st.Reconnecting, st.Reconnects = link.Err, link.Reconnecting, link.Reconnects
	}
	if err := i.failure.Load(); err != nil {
		st.Err, st.Reconnecting = *err, false
	}
	return st
}

// leave leaves the network, and ends the recording.
func (i *iface) leave() error {
	if i.lan != nil {
		return errors.Join(i.recording.close(), i.closeLAN())
	}
	if i.plug == nil {
		return nil
	}
	return errors.Join(i.plug.Close(), i.recording.close())
}

// remove removes the interface and waits for the pump. That takes the kernel
// some 20 ms, unless socket is one in the namespace, and nobody keeps that: then
// the interface is set down, and goes with the namespace.
func (i *iface) remove(socket int) error {
	if i.dev == nil {
		return nil
	}
	defer teardown.Within(i.pumps.Wait) // the kernel may hold one of them in its plug
	switch {
	case i.cable != nil && (i.s.joined || i.s.lent.Load()):
		return errors.Join(i.dev.Close(), i.cable.remove())
	case i.cable != nil:
		return errors.Join(i.dev.Close(), i.cable.abandon())
	case socket < 0 || netns.SetDown(socket, i.index) != nil:
		return i.dev.Close()
	}
	return i.dev.Detach()
}
