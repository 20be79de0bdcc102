package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/mdlayher/netlink"
)

// A Route is an entry of a routing table.
type Route struct {
	// Dst is the destination; 0.0.0.0/0 or ::/0 for the default route.
	Dst netip.Prefix
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
}

// A NextHop is one way of a route with several.
type NextHop struct {
	Gateway  netip.Addr
	OutIface int
	Weight   int // 1 to 256
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

// A RouteOption says more about a route to add: a RouteType, Scope, Table,
// Metric, Protocol or Source.
type RouteOption interface{ setRoute(*Route) }

var _ = []RouteOption{RouteType(0), Scope(0), Table(0), Metric(0), Protocol(0), Source{}}

// RouteType is what happens to packets of a route. The default is Unicast.
type RouteType uint8

// Some types; package unix has the rest as RTN_ constants. A type that drops
// packets is without gateway and interface.
const (
	Unicast     RouteType = 1
	Local       RouteType = 2 // to this stack
	Blackhole   RouteType = 6 // dropped
	Unreachable RouteType = 7 // dropped, answered with host unreachable
	Prohibit    RouteType = 8 // dropped, answered with prohibited
)

func (t RouteType) setRoute(r *Route) { r.Type = t }

// String returns the name of the type.
func (t RouteType) String() string {
	switch t {
	case Unicast:
		return "unicast"
	case Local:
		return "local"
	case Blackhole:
		return "blackhole"
	case Unreachable:
		return "unreachable"
	case Prohibit:
		return "prohibit"
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

// check is for the routes that the caller wrote; those of the kernel may have
// a gateway of another family.
func (r *Route) check() error {
	if err := ifIndex(r.OutIface).check(); err != nil {
		return err
	}
	if !r.Dst.IsValid() {
		return invalid(syscall.EINVAL, "neither a valid destination nor a gateway")
	}
	fam := family(r.Dst.Addr())
	if r.Gateway.Is4In6() {
		return invalid(syscall.EINVAL, "gateway %v: an IPv4 address in IPv6 form, use Unmap", r.Gateway)
	}
	if r.Gateway.IsValid() {
		if err := checkAddr("gateway", r.Gateway, fam); err != nil {
			return err
		}
	}
	if r.Src.IsValid() {
		return checkAddr("source", r.Src, fam)
	}
	return nil
}

func (r *Route) encode() ([]byte, error) {
	dst := r.Dst.Addr()
	b := make([]byte, sizeofRtMsg)
	b[0] = family(dst)
	b[1] = uint8(r.Dst.Bits())
	if r.Table <= 0xff {
		b[4] = uint8(r.Table) // else an attribute
	}
	b[5] = uint8(r.Protocol)
	b[6] = uint8(r.Scope)
	b[7] = uint8(r.Type)

	ae := netlink.NewAttributeEncoder()
	// C nlinline sends the attribute without an interface too, as type 0.
	oif := uint16(rtaOIF)
	if r.OutIface == 0 {
		oif = rtaUnspec
	}
	ae.Uint32(oif, uint32(r.OutIface))
	if r.Dst.Bits() > 0 {
		ae.Bytes(rtaDst, dst.AsSlice())
	}
	switch {
	case !r.Gateway.IsValid():
	case family(r.Gateway) == family(dst):
		ae.Bytes(rtaGateway, r.Gateway.AsSlice())
	default:
		ae.Bytes(rtaVia, append(binary.NativeEndian.AppendUint16(nil, uint16(family(r.Gateway))), r.Gateway.AsSlice()...))
	}
	if r.Src.IsValid() {
		ae.Bytes(rtaPrefSrc, r.Src.AsSlice())
	}
	if r.Metric != 0 {
		ae.Uint32(rtaPriority, uint32(r.Metric))
	}
	if r.Table > 0xff {
		ae.Uint32(rtaTable, uint32(r.Table))
	}
	return encode(b, ae)
}

// decodeRoute reports false for other families (multicast routing, MPLS) and
// for the kernel's cached copies of routes.
func decodeRoute(b []byte) (Route, bool, error) {
	const kind = "route message"
	var (
		r    Route
		fam  uint8
		bits int
		dst  netip.Addr
	)
	if len(b) >= sizeofRtMsg {
		fam, bits = b[0], int(b[1])
		r.Table, r.Protocol, r.Scope, r.Type = Table(b[4]), Protocol(b[5]), Scope(b[6]), RouteType(b[7])
		var ok bool
		if dst, ok = unspecified(fam); !ok || uint32At(b, 8)&rtmFCloned != 0 {
			return Route{}, false, nil
		}
	}
	err := decode(kind, b, sizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case rtaDst:
			addrAttr(ad, fam, &dst)
		case rtaOIF:
			r.OutIface = int(ad.Int32())
		case rtaGateway, rtaVia:
			gatewayAttr(ad, fam, &r.Gateway)
		case rtaPrefSrc:
			addrAttr(ad, fam, &r.Src)
		case rtaPriority:
			r.Metric = Metric(ad.Uint32())
		case rtaTable:
			r.Table = Table(ad.Uint32())
		case rtaMultipath:
			ad.Do(func(b []byte) (err error) {
				r.MultiPath, err = decodeNextHops(b, fam)
				return err
			})
		}
	})
	if err != nil {
		return Route{}, false, err
	}
	if r.Dst = netip.PrefixFrom(dst, bits).Masked(); !r.Dst.IsValid() {
		return Route{}, false, malformed(kind, fmt.Errorf("destination %v, prefix length %d", dst, bits))
	}
	return r, true, nil
}

// gatewayAttr decodes RTA_GATEWAY, or RTA_VIA with its own family.
func gatewayAttr(ad *netlink.AttributeDecoder, fam uint8, dst *netip.Addr) {
	if ad.Type() == rtaGateway {
		addrAttr(ad, fam, dst)
		return
	}
	ad.Do(func(b []byte) error {
		if len(b) < 2 {
			return fmt.Errorf("gateway of %d bytes", len(b))
		}
		a, ok := netip.AddrFromSlice(b[2:])
		if !ok || uint16(family(a)) != binary.NativeEndian.Uint16(b) {
			return fmt.Errorf("gateway of %d bytes", len(b))
		}
		*dst = a
		return nil
	})
}

// decodeNextHops reads an array of struct rtnexthop, each with attributes.
func decodeNextHops(b []byte, fam uint8) ([]NextHop, error) {
	var hops []NextHop
	for len(b) > 0 {
		if len(b) < sizeofNextHop {
			return nil, fmt.Errorf("next hop of %d bytes", len(b))
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < sizeofNextHop || n > len(b) {
			return nil, fmt.Errorf("next hop of length %d in %d bytes", n, len(b))
		}
		h := NextHop{OutIface: indexAt(b, 4), Weight: int(b[3]) + 1}
		err := attributes(b[sizeofNextHop:n], func(ad *netlink.AttributeDecoder) {
			if t := ad.Type(); t == rtaGateway || t == rtaVia {
				gatewayAttr(ad, fam, &h.Gateway)
			}
		})
		if err != nil {
			return nil, err
		}
		hops = append(hops, h)
		b = b[min((n+3)&^3, len(b)):]
	}
	return hops, nil
}

// newRoute is a route with the constants of C nlinline, so that C and Go
// delete each other's routes.
func newRoute(dst netip.Prefix, gw netip.Addr, ifindex int) Route {
	if dst == (netip.Prefix{}) {
		if zero, ok := unspecified(family(gw)); ok {
			dst = netip.PrefixFrom(zero, 0)
		}
	}
	return Route{
		Dst: dst, Gateway: gw, OutIface: ifindex,
		Table: TableMain, Protocol: ProtocolBoot, Scope: ScopeUniverse, Type: Unicast,
	}
}

// RouteAdd adds a route to dst through gw. The zero dst is the default route of
// gw's family, the zero gw makes dst reachable on the interface itself; ifindex
// 0 leaves the choice to the kernel. EEXIST: there is one with that destination
// and metric; ENETUNREACH (IPv4), EHOSTUNREACH (IPv6): the gateway is not on a
// network of the stack. Without options the route is of table main, protocol
// boot and scope universe. It replaces iproute_add, its options the packing of
// data2prefix.
func (c *Conn) RouteAdd(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...RouteOption) error {
	r := newRoute(dst, gw, ifindex)
	for _, o := range opts {
		o.setRoute(&r)
	}
	return fail("add route", r, c.changeRoute(rtmNewRoute, netlink.Excl|netlink.Create, r))
}

// RouteDel deletes a route that RouteAdd made without options; ESRCH if there
// is no such. RouteRemove deletes others. It replaces iproute_del.
func (c *Conn) RouteDel(dst netip.Prefix, gw netip.Addr, ifindex int) error {
	r := newRoute(dst, gw, ifindex)
	return fail("delete route", r, c.changeRoute(rtmDelRoute, 0, r))
}

func (c *Conn) changeRoute(typ netlink.HeaderType, flags netlink.HeaderFlags, r Route) error {
	if err := r.check(); err != nil {
		return err
	}
	return c.send(typ, flags, &r)
}

// RouteRemove deletes a route as Routes lists it, whoever made it, from
// whatever table. Of a route with several next hops all go.
func (c *Conn) RouteRemove(r Route) error {
	err := ifIndex(r.OutIface).check()
	if err == nil && !r.Dst.IsValid() {
		err = invalid(syscall.EINVAL, "the destination is not valid")
	}
	if err == nil {
		err = c.send(rtmDelRoute, 0, &r)
	}
	return fail("delete route", r, err)
}

// Routes returns the IPv4 and IPv6 routes of all tables, those of TableLocal
// too.
func (c *Conn) Routes() ([]Route, error) {
	return list(c, "list routes", rtmGetRoute, sizeofRtMsg, decodeRoute)
}
