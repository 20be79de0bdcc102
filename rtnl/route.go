package rtnl

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/mdlayher/netlink"
)

// A Route is an entry of a routing table.
type Route struct {
	// Dst is the destination; 0.0.0.0/0 or ::/0 for the default route.
	Dst netip.Prefix
	// From is the source that the route is for, IPv6 only; the zero Prefix if it
	// is for all.
	From netip.Prefix
	TOS  TOS // IPv4 only; 0 is for all
	// Gateway is the zero Addr for directly connected destinations. IPv4 routes
	// may have an IPv6 gateway.
	Gateway  netip.Addr
	OutIface int // interface index, 0 if none or several
	Table    Table
	Protocol Protocol
	Scope    Scope
	Type     RouteType
	Metric   Metric // lower wins; 0 is IPv4's best, IPv6 routes get 1024
	// Src is the preferred source address, the zero Addr if there is none.
	Src netip.Addr
	// MultiPath are the next hops of a route with several; Gateway and
	// OutIface are empty then.
	MultiPath []NextHop
	// NextHopID is the next-hop object that the route uses, or 0. Gateway,
	// OutIface and MultiPath say what the object was when the route was listed.
	NextHopID NextHopID
	Flags     RouteFlags
	Realm     Realm // IPv4 only
	Encap     Encap
	Metrics   Metrics
	Pref      RoutePref // IPv6 only
}

// A NextHop is one way of a route with several.
type NextHop struct {
	Gateway  netip.Addr
	OutIface int
	Weight   int // 1 to 256
	Flags    RouteFlags
	Realm    Realm
	Encap    Encap
}

// String returns for example "default via 10.0.0.9 on interface 3".
func (r Route) String() string {
	s := r.Dst.String()
	switch {
	case r.Dst.IsValid() && r.Dst.Bits() == 0:
		s = "default"
	case !r.Dst.IsValid():
		s = "without destination"
	}
	if r.Type != Unicast {
		s = r.Type.String() + " " + s
	}
	if r.From.IsValid() {
		s += " from " + r.From.String()
	}
	if r.TOS != 0 {
		s += fmt.Sprintf(" TOS %#x", uint8(r.TOS))
	}
	if r.NextHopID != 0 {
		s += " by next hop " + strconv.FormatUint(uint64(r.NextHopID), 10)
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.OutIface != 0 {
		s += " on " + ifIndex(r.OutIface).String()
	}
	if r.Table != TableMain {
		s += " in table " + strconv.Itoa(int(r.Table))
	}
	return s
}

// A RouteOption says more about a route to add or delete: a RouteType, Scope,
// Table, Metric, Protocol, Source, TOS, From, NextHopID, RouteFlags, Realm,
// Encap, Metrics or RoutePref.
type RouteOption interface{ setRoute(*Route) }

var _ = []RouteOption{
	RouteType(0), Scope(0), Table(0), Metric(0), Protocol(0), Source{}, TOS(0), From{},
	NextHopID(0), RouteFlags(0), Realm(0), Encap{}, Metrics{}, RoutePref(0),
}

// RouteType is what happens to packets of a route. The default is Unicast.
type RouteType uint8

// The types of the kernel. One that drops packets is without gateway and
// interface.
const (
	Unicast        RouteType = 1 + iota
	Local                    // to this stack
	LocalBroadcast           // to this stack, sent as broadcast
	Anycast                  // to this stack, sent as unicast
	Multicast
	Blackhole   // dropped
	Unreachable // dropped, answered with host unreachable
	Prohibit    // dropped, answered with prohibited
	Throw       // not in this table: the next rule decides
	NAT         // no kernel has it any more
	XResolve    // nor this
)

func (t RouteType) setRoute(r *Route) { r.Type = t }

// String returns the name of the type.
func (t RouteType) String() string {
	names := [...]string{
		"unspecified", "unicast", "local", "broadcast", "anycast", "multicast",
		"blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return "type " + strconv.Itoa(int(t))
}

// Table is the number of a routing table. The default is TableMain.
type Table uint32

// The tables that always exist.
const (
	TableDefault Table = 253
	TableMain    Table = 254
	TableLocal   Table = 255 // addresses of the stack itself, kept by the kernel
)

func (t Table) setRoute(r *Route) { r.Table = t }

// Metric orders routes to the same destination: lower wins.
type Metric uint32

func (m Metric) setRoute(r *Route) { r.Metric = m }

// Protocol says who made a route. The default is ProtocolBoot, as C nlinline has it.
type Protocol uint8

// Some protocols; package unix has the rest as RTPROT_ constants.
const (
	ProtocolRedirect Protocol = 1
	ProtocolKernel   Protocol = 2
	ProtocolBoot     Protocol = 3
	ProtocolStatic   Protocol = 4
	ProtocolRA       Protocol = 9
	ProtocolDHCP     Protocol = 16
)

func (p Protocol) setRoute(r *Route) { r.Protocol = p }

// Source is the option for Route.Src.
type Source netip.Addr

func (s Source) setRoute(r *Route) { r.Src = netip.Addr(s) }

// TOS is the type of service of the packets that an IPv4 route is for, with
// the lower two bits zero. IPv4 routes of TOS 0 are for all.
type TOS uint8

func (t TOS) setRoute(r *Route) { r.TOS = t }

// From is the option for Route.From.
type From netip.Prefix

func (f From) setRoute(r *Route) { r.From = netip.Prefix(f) }

// NextHopID is the number of a next-hop object (ip nexthop). A route that is
// added with one has neither gateway nor interface of its own.
type NextHopID uint32

func (n NextHopID) setRoute(r *Route) { r.NextHopID = n }

// RouteFlags are the kernel's RTNH_F_ flags that are set by who adds the route.
type RouteFlags uint8

// OnLink takes the gateway for a neighbour, whatever the addresses are.
const OnLink RouteFlags = 4

func (f RouteFlags) setRoute(r *Route) { r.Flags |= f }

// Realm is what an IPv4 route says to packet classifiers: that of the
// destination and, shifted by 16, that of the source.
type Realm uint32

func (m Realm) setRoute(r *Route) { r.Realm = m }

// Encap is how packets are encapsulated on their way, with MPLS or IP in IP;
// the zero Encap if they are not.
type Encap struct {
	Type uint16 // package unix has them as LWTUNNEL_ENCAP_ constants
	Data string // the attributes that belong to the type, as the kernel has them
}

func (e Encap) setRoute(r *Route) { r.Encap = e }

// Metrics are what a route says to TCP and others; what is 0 it does not say.
// The times are in the kernel's units.
type Metrics struct {
	Lock             uint32 // a bit for each that the kernel may not change, 1<<2 for MTU
	MTU              uint32
	Window           uint32
	RTT              uint32
	RTTVar           uint32
	SSThresh         uint32
	Cwnd             uint32
	AdvMSS           uint32
	Reordering       uint32
	HopLimit         uint32
	InitCwnd         uint32
	Features         uint32
	RTOMin           uint32
	InitRwnd         uint32
	QuickAck         uint32
	FastOpenNoCookie uint32
	CongCtl          string // congestion control, as "cubic"
}

func (m Metrics) setRoute(r *Route) { r.Metrics = m }

// RoutePref is the preference of RFC 4191 among IPv6 routes of the same metric.
type RoutePref uint8

// The preferences. The default is PrefMedium.
const (
	PrefMedium RoutePref = 0
	PrefHigh   RoutePref = 1
	PrefLow    RoutePref = 3
)

func (p RoutePref) setRoute(r *Route) { r.Pref = p }

// newRoute is a route with the constants of C nlinline, so that C and Go
// delete each other's routes.
func newRoute(dst netip.Prefix, gw netip.Addr, ifindex int, opts []RouteOption) Route {
	if dst == (netip.Prefix{}) {
		if zero, ok := unspecified(family(gw)); ok {
			dst = netip.PrefixFrom(zero, 0)
		}
	}
	r := Route{
		Dst: dst, Gateway: gw, OutIface: ifindex,
		Table: TableMain, Protocol: ProtocolBoot, Scope: ScopeUniverse, Type: Unicast,
	}
	for _, o := range opts {
		o.setRoute(&r)
	}
	return r
}

// RouteAdd adds a route to dst through gw. The zero dst is the default route of
// gw's family, the zero gw makes dst reachable on the interface itself; ifindex
// 0 leaves the choice to the kernel. EEXIST: there is one with that destination
// and metric; ENETUNREACH (IPv4), EHOSTUNREACH (IPv6): the gateway is not on a
// network of the stack. Without options the route is of table main, protocol
// boot and scope universe. It replaces iproute_add, its options the packing of
// data2prefix.
func (c *Conn) RouteAdd(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...RouteOption) error {
	r := newRoute(dst, gw, ifindex, opts)
	return fail("add route", r, c.changeRoute(rtmNewRoute, netlink.Excl|netlink.Create, r))
}

// RouteDel deletes a route that RouteAdd made with the same arguments; ESRCH if
// there is no such. What is left out or zero matches any route, as it does for
// C nlinline: RouteRemove is exact. It replaces iproute_del, its options the
// packing of data2prefix.
func (c *Conn) RouteDel(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...RouteOption) error {
	r := newRoute(dst, gw, ifindex, opts)
	return fail("delete route", r, c.changeRoute(rtmDelRoute, 0, r))
}

func (c *Conn) changeRoute(typ netlink.HeaderType, flags netlink.HeaderFlags, r Route) error {
	if err := r.check(); err != nil {
		return err
	}
	return c.send(typ, flags, &r)
}

// Routes returns the IPv4 and IPv6 routes of all tables, those of TableLocal
// too.
func (c *Conn) Routes() ([]Route, error) {
	return list(c, "list routes", rtmGetRoute, make([]byte, sizeofRtMsg), decodeRoute)
}
