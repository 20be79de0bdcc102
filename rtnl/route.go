package rtnl

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/mdlayher/netlink"
)

// A Route is an entry of a routing table.
type Route struct {
	// Dst is the destination; 0.0.0.0/0 or ::/0 for the default route.
	Dst netip.Prefix
	// From limits the route to packets from these sources, IPv6 only; the zero Prefix
	// does not.
	From netip.Prefix
	TOS  TOS // IPv4 only; 0 is for all packets
	// Gateway is the zero Addr for directly connected destinations. IPv4 routes
	// may have an IPv6 gateway.
	Gateway  netip.Addr
	OutIface int // interface index; 0 if there is no interface, or several
	Table    Table
	Protocol Protocol
	Scope    Scope
	Type     RouteType
	Metric   Metric // lower wins; 0 is IPv4's best, IPv6 routes get 1024
	// Src is the preferred source address, or the zero Addr.
	Src netip.Addr
	// MultiPath are the next hops of a route with several, whose Gateway and OutIface
	// are empty.
	MultiPath []NextHop
	// NextHopID is the next-hop object that the route uses, or 0. Gateway, OutIface
	// and MultiPath are then those of the object when the route was listed.
	NextHopID NextHopID
	Flags     RouteFlags
	Realm     Realm // IPv4 only
	Encap     Encap
	Metrics   Metrics
	Pref      RoutePref // IPv6 only
	Expires   Expires   // IPv6 only; 0: it stays
}

// A NextHop is one next hop of a route that has several. RouteAdd does not make such
// routes; [Conn.Execute] can.
type NextHop struct {
	Gateway  netip.Addr
	OutIface int
	Weight   int // 1 to 256
	Flags    RouteFlags
	Realm    Realm
	Encap    Encap
}

// String returns, for example, "default via 10.0.0.9 on interface 3".
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

// A RouteOption sets more of a route to add or delete: a RouteType, Scope,
// Table, Metric, Protocol, Source, TOS, From, NextHopID, RouteFlags, Realm,
// Encap, Metrics, RoutePref or Expires.
type RouteOption interface{ setRoute(*Route) }

var _ = []RouteOption{
	RouteType(0), Scope(0), Table(0), Metric(0), Protocol(0), Source{}, TOS(0), From{},
	NextHopID(0), RouteFlags(0), Realm(0), Encap{}, Metrics{}, RoutePref(0), Expires(0),
}

// RouteType is what happens to packets of a route. The default is Unicast.
type RouteType uint8

// The kernel's types. Routes that drop packets have neither gateway nor interface.
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
	NAT         // not used by today's kernels
	XResolve    // not used by today's kernels
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
	TableLocal   Table = 255 // the stack's own addresses, kept by the kernel
)

func (t Table) setRoute(r *Route) { r.Table = t }

// Metric orders routes to the same destination: the lowest wins.
type Metric uint32

func (m Metric) setRoute(r *Route) { r.Metric = m }

// Protocol says which program made a route. The default is ProtocolBoot, as in C
// nlinline.
type Protocol uint8

// Some protocols. Package unix has the others as RTPROT_ constants.
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

// TOS limits an IPv4 route to packets of a type of service, whose lower two bits are
// zero. Routes with TOS 0 are for all packets.
type TOS uint8

func (t TOS) setRoute(r *Route) { r.TOS = t }

// From is the option for Route.From.
type From netip.Prefix

func (f From) setRoute(r *Route) { r.From = netip.Prefix(f) }

// NextHopID is the number of a next-hop object (ip nexthop). A route that is added
// with an object has no gateway and no interface of its own.
type NextHopID uint32

func (n NextHopID) setRoute(r *Route) { r.NextHopID = n }

// RouteFlags are those of the kernel's RTNH_F_ flags that the maker of a route sets.
type RouteFlags uint8

// OnLink makes the gateway a neighbour, even if no address of the interface is in its
// network.
const OnLink RouteFlags = 4

func (f RouteFlags) setRoute(r *Route) { r.Flags |= f }

// Realm is for packet classifiers, IPv4 only: the realm of the destination and,
// shifted by 16, that of the source.
type Realm uint32

func (m Realm) setRoute(r *Route) { r.Realm = m }

// Encap is the encapsulation of a route's packets, such as MPLS or IP in IP. The zero
// Encap means no encapsulation.
type Encap struct {
	Type uint16 // package unix has the types as LWTUNNEL_ENCAP_ constants
	Data string // the attributes of the type, in wire format
}

func (e Encap) setRoute(r *Route) { r.Encap = e }

// Metrics are parameters for connections on a route, most of them for TCP. A field of 0
// sets nothing.
type Metrics struct {
	Lock             uint32 // bits of the fields that the kernel may not change, such as 1<<2 for MTU (RTAX_ constants)
	MTU              uint32
	Window           uint32
	RTT              uint32 // in eighths of a millisecond
	RTTVar           uint32 // in quarters of a millisecond
	SSThresh         uint32
	Cwnd             uint32
	AdvMSS           uint32
	Reordering       uint32
	HopLimit         uint32
	InitCwnd         uint32
	Features         uint32
	RTOMin           uint32 // in milliseconds
	InitRwnd         uint32
	QuickAck         uint32
	FastOpenNoCookie uint32
	CongCtl          string // congestion control, such as "cubic"
}

func (m Metrics) setRoute(r *Route) { r.Metrics = m }

// RoutePref is the preference among IPv6 routes of the same metric (RFC 4191).
type RoutePref uint8

// The preferences. The default is PrefMedium.
const (
	PrefMedium RoutePref = 0
	PrefHigh   RoutePref = 1
	PrefLow    RoutePref = 3
)

func (p RoutePref) setRoute(r *Route) { r.Pref = p }

// Expires is the time after which the kernel removes an IPv6 route, in whole seconds, like
// the routes that it learns from routers. A route that is listed has the time that is left,
// which is negative until the kernel has seen to it.
type Expires time.Duration

func (e Expires) setRoute(r *Route) { r.Expires = e }

// String returns the time, such as "30m0s".
func (e Expires) String() string { return time.Duration(e).String() }

// newRoute returns a route with the constants of C nlinline, so that C and Go programs
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

// RouteAdd adds a route to dst through gw. It replaces iproute_add, and its options what
// data2prefix packs.
//
//   - The zero dst is the default route of gw's family.
//   - With the zero gw, dst is reachable on the interface itself.
//   - With ifindex 0 the kernel chooses the interface.
//   - Without options the route is in TableMain, of ProtocolBoot and ScopeUniverse.
//
// EEXIST: there is a route with this destination and metric; ENETUNREACH (IPv4),
// EHOSTUNREACH (IPv6): the gateway is not in a network of the stack.
func (c *Conn) RouteAdd(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...RouteOption) error {
	r := newRoute(dst, gw, ifindex, opts)
	return fail("add route", r, c.changeRoute(rtmNewRoute, netlink.Excl|netlink.Create, r))
}

// RouteAppend adds a route after others to the same destination with the same metric, where
// RouteAdd would return EEXIST: IPv4 then uses one of them whose gateway answers, IPv6
// shares the packets between them. EEXIST: the very route is there. If it is an IPv6 route
// that expires, it now does so as this call says.
func (c *Conn) RouteAppend(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...RouteOption) error {
	r := newRoute(dst, gw, ifindex, opts)
	return fail("append route", r, c.changeRoute(rtmNewRoute, netlink.Create|netlink.Append, r))
}

// RouteDel is nlinline's iproute_del; RouteRemove takes a route that was listed. It
// deletes the first route that matches the arguments, which are those of RouteAdd;
// ESRCH if there is no such route. Table, protocol, scope and type have the defaults of
// RouteAdd. Everything else that is left out or zero matches any route.
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

// Routes returns the IPv4 and IPv6 routes of all tables, TableLocal included, in the
// kernel's order.
func (c *Conn) Routes() ([]Route, error) {
	return list(c, "list routes", rtmGetRoute, make([]byte, sizeofRtMsg), decodeRoute)
}
