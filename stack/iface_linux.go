//go:build amd64 || arm64

package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/nlsocket"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// An iface is an interface of a stack.
type iface struct {
	s      *Stack
	cfg    Interface
	wanted int    // the index that it gets if that is free
	index  int    // 0 until the interface is made
	up     bool   // made up
	ready  *ahead // what was done before; nil: nothing
	link   link   // nil until the interface is made
	tun    *TUN   // what link becomes, if there is no network

	recording *recording // nil: none
	reported  reported

	remover *rtnl.Conn // set by leave where the namespace stays; else nil

	cancel context.CancelCauseFunc // ends the set-up; guarded by s.mu
}

// setUp makes the interface, configures it and joins it to its network. n is the
// network that it is plugged into, nil if the kernel switches that. After an error the
// interface has left the network, and the caller removes it.
func (i *iface) setUp(ctx context.Context, nl *rtnl.Conn, n *network) (err error) {
	defer func() {
		if err != nil {
			i.leave(i.s.joined || i.s.lent.Load() || i.s.inUse.Load(), nl)
		}
	}()
	if err := i.make(ctx, nl, n); err != nil {
		return err
	}
	if err := i.startCapture(); err != nil {
		return err
	}
	configure := i.configure
	if port, ok := i.link.(*portLink); ok && port.port.InCrowd() && !i.cfg.Down && !i.up {
		configure = i.configureInCrowd
	}
	if err := configure(ctx, nl); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// leave leaves the network, and ends the recording. stays says that the namespace stays
// in use, so that the interface does not end with it: nl, if there is one, removes it now or
// at remove.
func (i *iface) leave(stays bool, nl *rtnl.Conn) error {
	if i.link == nil {
		return nil
	}
	if stays {
		i.remover = nl
	}
	return i.link.leave(stays)
}

// remove removes the interface; see [link] for socket.
func (i *iface) remove(socket int) error {
	i.s.neighbors.Load().Disown(i.index)
	if i.link == nil {
		return nil
	}
	return i.link.remove(socket)
}

// closeDevice closes the descriptor of a TAP or TUN, which removes the interface: that takes
// the kernel some 20 ms. One that is left to its namespace, see [link] for socket, is set
// down; it may have been moved to another one. The last descriptor that is closed removes;
// a child of the process has copies of all until it executes its program, so where the
// namespace stays the interface is removed first.
func (i *iface) closeDevice(dev *nic.Device, socket int) error {
	if socket >= 0 && netns.SetDown(socket, i.index) == nil {
		return dev.Detach()
	}
	if i.remover != nil {
		i.remover.LinkDel(i.index) // else Close removes it, perhaps later
	}
	return dev.Close()
}

func (i *iface) stats() InterfaceStats {
	st := InterfaceStats{Name: i.cfg.Name, Index: i.index, VNL: vdeplug.Redact(i.cfg.VNL)}
	i.link.stats(&st)
	if i.recording != nil {
		st.CaptureFrames, st.CaptureDropped = i.recording.Counts()
		st.Capturing, st.CaptureErr = i.recording.Recording(), i.recording.Err()
	}
	i.reported.raise(&st)
	if i.tun != nil && i.tun.peers != nil && !i.tun.closed.Load() {
		st.Peers = i.tun.peers()
	}
	return st
}

// A reported has the counters that were reported last. No counter goes down, as it would
// while frames of a batch are dropped that does not count as sent yet, or when the kernel's
// cannot be read: a collector would take it for the restart of the program.
type reported struct {
	mu   sync.Mutex // guards last
	last InterfaceStats
}

// raise raises the counters to what was reported before, and notes them.
func (r *reported) raise(st *InterfaceStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last.counters()
	for i, c := range st.counters() {
		*c = max(*c, *last[i])
	}
	r.last = *st
}

// configure sets the interface up, gives it addresses and routes, and joins it to its
// network.
func (i *iface) configure(ctx context.Context, nl *rtnl.Conn) error {
	if !i.cfg.Down && !i.up {
		if err := nl.LinkSetUp(i.index); err != nil {
			return err
		}
	}
	has := i.hasLinkLocal()
	local, err := i.watchLocal(has)
	if err != nil {
		return err
	}
	defer local.end()
	if !has && !i.cfg.Down && i.tun == nil { // the kernel detects no duplicates on a TUN
		// First: it takes the kernel longest.
		if err := i.replaceLinkLocal(ctx, nl, local); err != nil {
			return err
		}
	}
	if err := i.addAddrs(nl, local); err != nil {
		return err
	}
	if err := i.addGateways(nl); err != nil {
		return err
	}
	// Meanwhile the kernel makes the local routes.
	if i.tun == nil { // a TUN has none
		i.s.keepNeighbors(i.index)
	}
	if err := i.link.start(ctx); err != nil {
		return err
	}
	return i.awaitLocal(ctx, local)
}

// configureInCrowd is configure on a network where frames to all are a burden. When the
// link-local address is usable, the kernel asks for routers and reports its group. The
// interface is still down then, so these are lost: it asks again four seconds later, and
// reports the group when the interface is up.
func (i *iface) configureInCrowd(ctx context.Context, nl *rtnl.Conn) error {
	local, err := i.watchLocal(false)
	if err != nil {
		return err
	}
	defer local.end()
	if err := i.addLinkLocal(nl, local); err != nil {
		return err
	}
	if err := i.addAddrs(nl, local); err != nil {
		return err
	}
	i.s.keepNeighbors(i.index)
	if err := i.awaitLocal(ctx, local); err != nil {
		return err
	}
	if err := nl.LinkSetUp(i.index); err != nil {
		return err
	}
	if _, err := bridge.AwaitCarrier(ctx, nl, i.index); err != nil {
		return err
	}
	if err := i.addGateways(nl); err != nil {
		return err
	}
	return i.link.start(ctx)
}

// addAddrs adds the addresses of the configuration.
func (i *iface) addAddrs(nl *rtnl.Conn, local *localWatch) error {
	for _, p := range i.cfg.Addrs {
		if err := nl.AddrAdd(i.index, p, rtnl.NoDAD); err != nil {
			return err
		}
		if p.Addr().Is6() {
			local.expect(p.Addr())
		}
	}
	return nil
}

func (i *iface) addGateways(nl *rtnl.Conn) error {
	for _, gw := range i.cfg.Gateways {
		err := nl.RouteAdd(netip.Prefix{}, gw.WithZone(""), i.index)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			err = fmt.Errorf("gateway %v is in no network of the addresses %v: %w", gw, i.cfg.Addrs, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// localWait bounds the wait for the routes of IPv6 addresses, which takes a millisecond
// or two. The kernel has one queue of such work for all namespaces of the machine,
// which waits for its lock on all networks: with hundreds of namespaces that come and
// go it took nine seconds.
const localWait = 30 * time.Second

// replaceLinkLocal makes the link-local address that the kernel has given to the
// interface, which is up, usable at once, like those of the configuration: it replaces
// the address by itself, without duplicate address detection, which takes a second or
// two. The kernel's setting for that would also affect addresses that routers announce.
func (i *iface) replaceLinkLocal(ctx context.Context, nl *rtnl.Conn, local *localWatch) error {
	mac, err := i.hardwareAddr(ctx, nl)
	if err != nil || len(mac) != 6 {
		return err
	}
	a := netip.PrefixFrom(eui64(mac), 64)
	if nl.AddrDel(i.index, a) != nil {
		return nil // there is no IPv6, or a joined namespace has other settings
	}
	return i.giveLinkLocal(nl, a, local)
}

// hardwareAddr returns the hardware address of the interface, which is up, when the kernel
// has given it a link-local address.
func (i *iface) hardwareAddr(ctx context.Context, nl *rtnl.Conn) (net.HardwareAddr, error) {
	if t, ok := i.link.(*tapLink); ok {
		return t.dev.HardwareAddr() // quicker than asking for the link
	}
	l, err := bridge.AwaitCarrier(ctx, nl, i.index) // a veth has one, and then the address, when the other end is up
	return l.HardwareAddr, err
}

// addLinkLocal adds, before the interface is up, the link-local address that the kernel
// would give it. The kernel leaves it as it is then.
func (i *iface) addLinkLocal(nl *rtnl.Conn, local *localWatch) error {
	m, err := modeOf(nl, i.index)
	if err != nil || !m.eui64() {
		return err
	}
	err = i.giveLinkLocal(nl, netip.PrefixFrom(eui64(m.mac), 64), local)
	if errors.Is(err, unix.EACCES) { // IPv6 is disabled here
		return nil
	}
	return err
}

// A mode says what the kernel does with a link by itself.
type mode struct {
	mac     net.HardwareAddr
	address uint8   // how it makes the link-local address, IN6_ADDR_GEN_MODE of linux/if_link.h
	conf    []int32 // settings of IPv6, by DEVCONF of linux/ipv6.h; none without IPv6
}

const (
	genModeEUI64 = 0
	genModeNone  = 1
)

// eui64 reports whether the link-local address comes from the hardware address.
func (m mode) eui64() bool { return m.address == genModeEUI64 && len(m.mac) == 6 && len(m.conf) > 0 }

// solicits reports whether it asks for routers.
func (m mode) solicits() bool {
	const forwarding, acceptRA, solicitations = 0, 3, 7
	if len(m.conf) <= solicitations || m.conf[solicitations] == 0 {
		return false
	}
	return m.conf[acceptRA] == 2 || m.conf[acceptRA] == 1 && m.conf[forwarding] == 0
}

func modeOf(nl *rtnl.Conn, index int) (mode, error) {
	info := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(info[4:], uint32(index))
	answer, err := nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK}, Data: info})
	if err != nil || len(answer) == 0 || len(answer[0].Data) < len(info) {
		return mode{}, err
	}
	return decodeMode(answer[0].Data[len(info):]), nil
}

// decodeMode reads the attributes of a link.
func decodeMode(attributes []byte) (m mode) {
	link, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return m
	}
	for link.Next() {
		switch link.Type() {
		case unix.IFLA_ADDRESS:
			m.mac = link.Bytes()
		case unix.IFLA_AF_SPEC:
			link.Nested(func(families *netlink.AttributeDecoder) error {
				for families.Next() {
					if families.Type() == unix.AF_INET6 {
						families.Nested(m.decodeInet6)
					}
				}
				return nil
			})
		}
	}
	return m
}

func (m *mode) decodeInet6(inet6 *netlink.AttributeDecoder) error {
	for inet6.Next() {
		switch inet6.Type() {
		case unix.IFLA_INET6_ADDR_GEN_MODE:
			m.address = inet6.Uint8()
		case unix.IFLA_INET6_CONF:
			for b := inet6.Bytes(); len(b) >= 4; b = b[4:] {
				m.conf = append(m.conf, int32(binary.NativeEndian.Uint32(b)))
			}
		}
	}
	return nil
}

// giveLinkLocal adds a link-local address. If the configuration has one, packets come
// from that.
func (i *iface) giveLinkLocal(nl *rtnl.Conn, a netip.Prefix, local *localWatch) error {
	options := []rtnl.AddrOption{rtnl.NoDAD, rtnl.ScopeLink}
	if slices.ContainsFunc(i.cfg.Addrs, isLinkLocal) {
		options = append(options, rtnl.Lifetime{Valid: rtnl.Forever}) // deprecated from the beginning
	}
	err := nl.AddrAdd(i.index, a, options...)
	if err == nil {
		local.expect(a.Addr())
	}
	return err
}

// loose returns the interface that the stack's namespace had before; nil if it had none.
func (i *iface) loose() *bridge.Loose {
	if i.ready == nil {
		return nil
	}
	return i.ready.loose
}

// isLinkLocal reports whether it is an address of IPv6 that is valid on one network only.
func isLinkLocal(p netip.Prefix) bool { return p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() }

// hasLinkLocal reports whether the interface has got its link-local address before it was
// taken, and needs no other.
func (i *iface) hasLinkLocal() bool {
	return i.up && i.ready != nil && i.ready.local != nil && !slices.ContainsFunc(i.cfg.Addrs, isLinkLocal)
}

// eui64 returns the link-local address of an Ethernet address, RFC 4291, appendix A.
func eui64(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// A localWatch waits for the local routes of the IPv6 addresses that an interface gets
// since it was made.
type localWatch struct {
	s       *nlsocket.Socket // hears of IPv6 routes; nil: nobody waits
	missing map[netip.Addr]bool
}

// watchLocal returns the watch of the interface, which has its link-local address or not.
func (i *iface) watchLocal(has bool) (*localWatch, error) {
	switch {
	case i.cfg.Down, has && !slices.ContainsFunc(i.cfg.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }):
		return &localWatch{}, nil
	case has:
		return i.ready.local, nil
	}
	return watchLocal(i.s.ns)
}

func watchLocal(ns *netns.NS) (*localWatch, error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s, err := nlsocket.New(fd, true, 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
	if err != nil {
		return nil, err
	}
	s.Strict = true
	return &localWatch{s, make(map[netip.Addr]bool)}, nil
}

func (w *localWatch) end() {
	if w.s != nil {
		w.s.Close()
	}
}

func (w *localWatch) expect(a netip.Addr) {
	if w.s != nil {
		w.missing[a] = true
	}
}

// awaitLocal waits for the routes of the interface. If the kernel is very late, it only logs
// that.
func (i *iface) awaitLocal(ctx context.Context, w *localWatch) error {
	missing := w.await(ctx)
	if len(missing) == 0 {
		return nil
	}
	err := fmt.Errorf("the kernel has not made the routes of %v yet, for which it has one queue on the whole machine", missing)
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	i.s.log.Warn("IPv6 addresses are not usable", "interface", i.cfg.Name, "error", err)
	return nil
}

// await waits for the routes, and returns those that are missing.
func (w *localWatch) await(ctx context.Context) []netip.Addr {
	if len(w.missing) == 0 {
		return nil
	}
	defer context.AfterFunc(ctx, w.end)()
	w.s.SetDeadline(time.Now().Add(localWait))
	return awaitLocal(w.routes, w.missing)
}

// routes yields the addresses of new local routes, until an error of the socket.
func (w *localWatch) routes(yield func(netip.Addr) bool) {
	for {
		b, err := w.s.Recv()
		if err != nil {
			return
		}
		for m, err := range nlsocket.Messages(b) {
			if err != nil {
				break
			}
			if a, ok := localRoute(m); ok && !yield(a) {
				return
			}
		}
	}
}

// localRoute reads the address of a new local route of IPv6.
func localRoute(m netlink.Message) (a netip.Addr, ok bool) {
	const atTable = 4
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || m.Data[atTable] != unix.RT_TABLE_LOCAL {
		return netip.Addr{}, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
	if err != nil {
		return netip.Addr{}, false
	}
	for ad.Next() {
		if ad.Type() == unix.RTA_DST {
			return netip.AddrFromSlice(ad.Bytes())
		}
	}
	return netip.Addr{}, false
}

// awaitLocal waits until packets reach the IPv6 addresses that were given to an
// interface since routes began, or until these end. An address can be bound at once,
// but the kernel leaves its local route to a worker: until then, packets for it are
// dropped, and those from the stack itself go out to the network. It returns the
// missing addresses.
func awaitLocal(routes iter.Seq[netip.Addr], missing map[netip.Addr]bool) []netip.Addr {
	for a := range routes {
		if delete(missing, a); len(missing) == 0 {
			break
		}
	}
	return slices.SortedFunc(maps.Keys(missing), netip.Addr.Compare)
}

// firstIndex is the index of the first interface of a stack; the second has the next
// one, and so on: none is used twice, as a stack finds and removes its interfaces by that.
// In a namespace that was joined, stacks of others may make and remove interfaces too: there
// they are random, and larger. Package net names the zones of IPv6 addresses by the host's
// interfaces: an index that the host does not have stays a number, which is valid in
// the stack.
const firstIndex = 1 << 20
