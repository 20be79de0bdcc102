//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// An ahead is what was done in a namespace of the pool before a stack took it.
type ahead struct {
	nl    *rtnl.Conn
	local *localWatch   // nil: no interface has got its link-local address
	loose *bridge.Loose // nil: there is none

	// A loose interface has sent its first router solicitation to nobody.
	solicit int // the descriptor of a socket for another one; -1: there is none
	mac     net.HardwareAddr
}

var _ netns.Ready = (*ahead)(nil)

// missed is when a stack last found a loose interface of another network in the pool. Programs
// that change between networks do better with namespaces that suit all of them.
var missed atomic.Pointer[time.Time]

// missedTime is how long no loose interfaces are made then.
const missedTime = 10 * time.Second

// miss notes that, and reports false.
func miss() bool {
	now := time.Now()
	missed.Store(&now)
	return false
}

// aheadTime bounds what is done for a namespace of the pool: its network may end meanwhile.
const aheadTime = time.Second

// prepareAhead is that of the pool.
func prepareAhead(ns *netns.NS, t netns.TAP) (_ netns.Ready, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), aheadTime)
	defer cancel()
	a := &ahead{solicit: -1}
	if a.nl, err = rtnl.Dial(netns.Sockets{NS: ns}); err != nil {
		return nil, err
	}
	switch {
	case t.Up && t.Flags&unix.IFF_TAP != 0:
		err = a.replaceLinkLocal(ctx, ns, t.Index)
	case t == netns.TAP{} && loosely():
		err = a.plugLoose(ctx, ns)
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// loosely reports whether loose interfaces are worth while.
func loosely() bool {
	last := missed.Load()
	return last == nil || time.Since(*last) > missedTime
}

// plugLoose makes the interface that an Interface of the defaults has on a network of the
// kernel, for the one that was joined last.
func (a *ahead) plugLoose(ctx context.Context, ns *netns.NS) (err error) {
	a.loose, err = bridge.NewLoose(ctx, bridge.End{NS: ns, Netlink: a.nl, Name: "vde0", Index: firstIndex, MTU: DefaultMTU})
	if err != nil || a.loose == nil {
		return err
	}
	if _, err = bridge.AwaitCarrier(ctx, a.nl, firstIndex); err == nil {
		err = a.replaceLinkLocal(ctx, ns, firstIndex)
	}
	return err
}

// replaceLinkLocal is that of an interface. The network of a loose one would not hear of another
// address than that, which the kernel makes for settings that are inherited.
func (a *ahead) replaceLinkLocal(ctx context.Context, ns *netns.NS, index int) error {
	m, err := modeOf(a.nl, index)
	if err == nil && a.loose != nil && len(m.conf) > 0 && !m.eui64() && m.address != genModeNone {
		miss()
		err = errGenMode
	}
	if err != nil || !m.eui64() {
		return err
	}
	local, err := watchLocal(ns)
	if err != nil {
		return err
	}
	addr := netip.PrefixFrom(eui64(m.mac), 64)
	if a.nl.AddrDel(index, addr) != nil {
		local.end()
		return nil // IPv6 is disabled
	}
	if err = a.nl.AddrAdd(index, addr, rtnl.NoDAD, rtnl.ScopeLink); err == nil {
		local.expect(addr.Addr())
		if len(local.await(ctx)) > 0 {
			local.end()
			return nil // the stack does the same again, and waits longer
		}
	}
	if err == nil && a.loose != nil && m.solicits() {
		a.solicit, err = solicitor(ns)
	}
	if err != nil {
		local.end()
		return err
	}
	a.local, a.mac = local, m.mac
	return nil
}

var errGenMode = errors.New("the link-local address is not made of the hardware address")

// Plain implements [netns.Ready].
func (a *ahead) Plain() bool { return a.loose == nil }

// Close implements [netns.Ready].
func (a *ahead) Close() error {
	if a.local != nil {
		a.local.end()
	}
	if a.solicit >= 0 {
		unix.Close(a.solicit)
	}
	return a.nl.Close()
}

// fromPool takes a namespace from the pool; nil if there is none for such interfaces.
func fromPool(first netns.TAP, interfaces []Interface) *netns.NS {
	if len(interfaces) == 0 {
		return netns.FromPool(first, nil, func(netns.Ready) bool { return miss() })
	}
	var place bridge.Place
	cfg := interfaces[0]
	if l, err := vdeplug.Parse(cfg.VNL); err == nil && !cfg.Down && cfg.Capture == nil && !cfg.plugged() && !shared(l) {
		place = bridge.PlaceOf(l.String())
	}
	end := bridge.End{Name: cfg.Name, Index: firstIndex, MTU: cfg.MTU, MAC: cfg.MAC}
	return netns.FromPool(first, prepareAhead, func(r netns.Ready) bool {
		loose := r.(*ahead).loose
		return loose.Fits(place, end) || !loose.Ended() && miss()
	})
}

// firstRTNL is RTNL, for the set-up of a new stack. The caller closes what it returns.
func (s *Stack) firstRTNL() (*ahead, error) {
	if a, ok := s.ns.TakeReady().(*ahead); ok {
		return a, nil
	}
	nl, err := s.RTNL()
	return &ahead{nl: nl, solicit: -1}, err
}

// solicitor returns a socket for router solicitations, which receives nothing.
func solicitor(ns *netns.NS) (fd int, err error) {
	fd, err = ns.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &blockAll)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

var blockAll = unix.ICMPv6Filter{Data: [8]uint32{^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}}

const solicitation = 133 // of the types of ICMPv6

var allRouters = [16]byte{0: 0xff, 1: 2, 15: 2}

// solicitRouters sends a router solicitation. The kernel sends more if no router answers. It
// fails silently: then the next one comes within four seconds.
func (a *ahead) solicitRouters(index int) {
	if a.solicit >= 0 {
		unix.Sendto(a.solicit, solicitationOf(a.mac), unix.MSG_NOSIGNAL, &unix.SockaddrInet6{Addr: allRouters, ZoneId: uint32(index)})
	}
}

// solicitationOf returns the one of a host, RFC 4861, section 4.1. The kernel fills in the checksum.
func solicitationOf(mac net.HardwareAddr) []byte {
	const sourceLinkLayerAddress = 1
	return append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0, sourceLinkLayerAddress, 1}, mac...)
}
