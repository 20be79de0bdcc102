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
	"slices"
	"time"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// An iface is an interface of a stack.
type iface struct {
	s     *Stack
	cfg   Interface
	place int  // its number, from 0
	index int  // 0 until the interface is made
	up    bool // made up
	link  link // nil until the interface is made

	recording *recording // nil: none

	cancel context.CancelCauseFunc // ends the set-up; guarded by s.mu
}

// setUp makes the interface, configures it and joins it to its network. n is the
// network that it is plugged into, nil if the kernel switches that. After an error the
// interface has left the network, and the caller removes it.
func (i *iface) setUp(ctx context.Context, nl *rtnl.Conn, n *network) (err error) {
	defer func() {
		if err != nil {
			i.leave(i.s.joined || i.s.lent.Load() || i.s.inUse.Load())
		}
	}()
	if err := i.make(ctx, nl, n); err != nil {
		return err
	}
	i.s.neighbors.Load().Own(i.index)
	if err := i.startCapture(); err != nil {
		return err
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	events, missing, err := i.configure(ctx, wait, nl)
	if err != nil {
		return err
	}
	// Meanwhile the kernel makes the local routes.
	if err := i.link.start(ctx); err != nil {
		return err
	}
	defer time.AfterFunc(localWait, cancel).Stop()
	if missing := awaitLocal(events, missing); len(missing) > 0 {
		err := fmt.Errorf("the kernel has not made the routes of %v yet, for which it has one queue on the whole machine", missing)
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w: %w", err, cause)
		}
		i.s.log.Warn("IPv6 addresses are not usable", "interface", i.cfg.Name, "error", err)
	}
	return context.Cause(ctx)
}

// leave leaves the network, and ends the recording. stays says that the namespace stays
// in use, so that the interface does not end with it.
func (i *iface) leave(stays bool) error {
	if i.link == nil {
		return nil
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

func (i *iface) stats() InterfaceStats {
	st := InterfaceStats{Name: i.cfg.Name, Index: i.index, VNL: i.cfg.VNL}
	i.link.stats(&st)
	if i.recording != nil {
		st.CaptureDropped, st.CaptureErr = i.recording.Dropped(), i.recording.Err()
	}
	return st
}

// configure sets the interface up, and gives it addresses and routes. It returns the
// addresses that still miss their local routes, and the events, until wait ends, that tell
// of these: see awaitLocal.
func (i *iface) configure(ctx, wait context.Context, nl *rtnl.Conn) (events iter.Seq2[rtnl.Event, error], missing map[netip.Addr]bool, err error) {
	if !i.cfg.Down && !i.up {
		if err := nl.LinkSetUp(i.index); err != nil {
			return nil, nil, err
		}
	}
	if !i.cfg.Down {
		events = nl.Watch(wait)
	}
	missing = make(map[netip.Addr]bool)
	for _, p := range i.cfg.Addrs {
		if err := nl.AddrAdd(i.index, p, rtnl.NoDAD); err != nil {
			return nil, nil, err
		}
		if p.Addr().Is6() && !i.cfg.Down {
			missing[p.Addr()] = true
		}
	}
	if !i.cfg.Down {
		local, err := i.linkLocal(ctx, nl)
		if err != nil {
			return nil, nil, err
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
			return nil, nil, err
		}
	}
	return events, missing, nil
}

// localWait bounds the wait for the routes of IPv6 addresses, which takes a millisecond
// or two. The kernel has one queue of such work for all namespaces of the machine,
// which waits for its lock on all networks: with hundreds of namespaces that come and
// go it took nine seconds.
const localWait = 30 * time.Second

// linkLocal makes the link-local address that the kernel has given to the interface,
// which is up, usable at once, like those of the configuration: it replaces the address
// by itself, without duplicate address detection, which takes a second or two. The
// kernel's setting for that would also affect addresses that routers announce. If the
// configuration has a link-local address, packets come from that one. linkLocal returns
// the address, or the zero Addr if there is none.
func (i *iface) linkLocal(ctx context.Context, nl *rtnl.Conn) (netip.Addr, error) {
	link := bridge.AwaitCarrier // a veth has one, and then the address, when the other end is up
	if _, ok := i.link.(*tapLink); ok {
		link = func(_ context.Context, nl *rtnl.Conn, index int) (rtnl.Link, error) { return nl.Link(index) }
	}
	l, err := link(ctx, nl, i.index)
	if err != nil || len(l.HardwareAddr) != 6 {
		return netip.Addr{}, err
	}
	a := netip.PrefixFrom(eui64(l.HardwareAddr), 64)
	err = nl.AddrDel(i.index, a)
	if err != nil {
		// There is no IPv6, or a joined namespace has other settings.
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

// awaitLocal waits until packets reach the IPv6 addresses that were given to an
// interface since events began, or until events end. An address can be bound at once,
// but the kernel leaves its local route to a worker: until then, packets for it are
// dropped, and those from the stack itself go out to the network. It returns the
// missing addresses.
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

// firstIndex is the index of the first interface of a stack; the second has the next
// one, and so on. Package net names the zones of IPv6 addresses by the host's
// interfaces: an index that the host does not have stays a number, which is valid in
// the stack.
const firstIndex = 1 << 20
