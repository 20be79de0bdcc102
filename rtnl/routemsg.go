package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// check checks a route of the caller's. One of the kernel's may have a gateway of
// another family.
func (r *Route) check() error {
	if err := ifIndex(r.OutIface).check(); err != nil {
		return err
	}
	if !r.Dst.IsValid() {
		return invalid(syscall.EINVAL, "neither a valid destination nor a gateway")
	}
	fam := family(r.Dst.Addr())
	if r.From != (netip.Prefix{}) {
		if !r.From.IsValid() {
			return invalid(syscall.EINVAL, "the source prefix is not valid")
		}
		if err := checkAddr("source prefix", r.From.Addr(), fam); err != nil {
			return err
		}
	}
	if r.Gateway.Is4In6() {
		return invalid(syscall.EINVAL, "gateway %v: an IPv4 address in IPv6 form, use Unmap", r.Gateway)
	}
	if r.Gateway.IsValid() {
		if err := checkAddr("gateway", r.Gateway, fam); err != nil {
			return err
		}
	}
	if e := time.Duration(r.Expires); e < 0 || e > 0 && e < time.Second {
		return invalid(syscall.EINVAL, "it expires after %v, want a second or more", e)
	}
	if r.Expires != 0 && fam == afInet {
		return invalid(syscall.EINVAL, "IPv4 routes do not expire")
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
	if r.From.IsValid() {
		b[2] = uint8(r.From.Bits())
	}
	b[3] = uint8(r.TOS)
	var wide Table
	if r.Table <= 0xff {
		b[4] = uint8(r.Table)
	} else {
		wide = r.Table
	}
	b[5] = uint8(r.Protocol)
	b[6] = uint8(r.Scope)
	b[7] = uint8(r.Type)
	binary.NativeEndian.PutUint32(b[8:], uint32(r.Flags))

	// Without an interface C nlinline sends the attribute as type 0.
	oif := uint16(rtaOIF)
	if r.OutIface == 0 || r.NextHopID != 0 {
		oif = rtaUnspec
	}
	attrs := []netlink.Attribute{number(oif, uint32(r.OutIface))}
	if r.Dst.Bits() > 0 {
		attrs = append(attrs, raw(rtaDst, dst.AsSlice()))
	}
	var hop NextHop
	if r.NextHopID == 0 { // else its object has the rest
		hop = NextHop{Gateway: r.Gateway, Realm: r.Realm, Encap: r.Encap}
	}
	if r.NextHopID == 0 && len(r.MultiPath) > 0 {
		attrs = append(attrs, raw(rtaMultipath, encodeNextHops(r.MultiPath, b[0])))
	} else {
		attrs = append(attrs, hop.gateway(b[0]))
	}
	attrs = append(attrs,
		raw(rtaPrefSrc, r.Src.AsSlice()),
		nonzero(rtaPriority, uint32(r.Metric)),
		nonzero(rtaTable, uint32(wide)),
		raw(rtaSrc, r.From.Addr().AsSlice()),
		nonzero(rtaNHID, uint32(r.NextHopID)))
	attrs = append(append(attrs, hop.extras()...), r.Metrics.encode(false))
	if r.Pref != PrefMedium {
		attrs = append(attrs, raw(rtaPref, []byte{uint8(r.Pref)}))
	}
	attrs = append(attrs, nonzero(rtaExpires, uint32(min(time.Duration(r.Expires), Forever)/time.Second)))
	return encode(b, attrs...)
}

// gateway returns the gateway in a route of the given family.
func (h *NextHop) gateway(fam uint8) netlink.Attribute {
	gw := h.Gateway.AsSlice()
	if f := family(h.Gateway); f != fam && f != afUnspec {
		return raw(rtaVia, append(binary.NativeEndian.AppendUint16(nil, uint16(f)), gw...))
	}
	return raw(rtaGateway, gw)
}

// extras returns attributes that few next hops have.
func (h *NextHop) extras() []netlink.Attribute {
	attrs := []netlink.Attribute{nonzero(rtaFlow, uint32(h.Realm))}
	if h.Encap.Type != 0 {
		attrs = append(attrs, raw(rtaEncapType, binary.NativeEndian.AppendUint16(nil, h.Encap.Type)), raw(rtaEncap, []byte(h.Encap.Data)))
	}
	return attrs
}

// encodeNextHops returns an array of struct rtnexthop, each with attributes.
func encodeNextHops(hops []NextHop, fam uint8) (all []byte) {
	for _, h := range hops {
		b := make([]byte, sizeofNextHop)
		b[2], b[3] = uint8(h.Flags), uint8(h.Weight-1)
		binary.NativeEndian.PutUint32(b[4:], uint32(h.OutIface))
		b = append(append(b, marshal(h.gateway(fam))...), marshal(h.extras()...)...)
		binary.NativeEndian.PutUint16(b, uint16(len(b)))
		all = append(all, b...)
	}
	return all
}

// values returns the metrics that are numbers, by attribute.
func (m *Metrics) values() [rtaxMax + 1]*uint32 {
	return [...]*uint32{
		rtaxLock: &m.Lock, rtaxMTU: &m.MTU, rtaxWindow: &m.Window, rtaxRTT: &m.RTT,
		rtaxRTTVar: &m.RTTVar, rtaxSSThresh: &m.SSThresh, rtaxCwnd: &m.Cwnd, rtaxAdvMSS: &m.AdvMSS,
		rtaxReordering: &m.Reordering, rtaxHopLimit: &m.HopLimit, rtaxInitCwnd: &m.InitCwnd,
		rtaxFeatures: &m.Features, rtaxRTOMin: &m.RTOMin, rtaxInitRwnd: &m.InitRwnd,
		rtaxQuickAck: &m.QuickAck, rtaxFastOpenNoCookie: &m.FastOpenNoCookie,
	}
}

// encode returns the metrics that are not zero or, with all, every number.
func (m *Metrics) encode(all bool) netlink.Attribute {
	var attrs []netlink.Attribute
	for t, v := range m.values() {
		if v != nil && (all || *v != 0) {
			attrs = append(attrs, number(uint16(t), *v))
		}
	}
	return nest(rtaMetrics, append(attrs, words(rtaxCCAlgo, m.CongCtl))...)
}

func (m *Metrics) decode(b []byte) error {
	values := m.values()
	return attributes(b, func(ad *netlink.AttributeDecoder) {
		switch t := int(ad.Type()); {
		case t == rtaxCCAlgo:
			m.CongCtl = ad.String()
		case t < len(values) && values[t] != nil:
			*values[t] = ad.Uint32()
		}
	})
}

// decodeRoute returns false for other families (multicast routing, MPLS) and for the
// kernel's cached copies of routes.
func decodeRoute(b []byte) (Route, bool, error) {
	const kind = "route message"
	var (
		r        Route
		hop      NextHop
		fam      uint8
		bits     int
		from     int // bits
		dst, src netip.Addr
	)
	if len(b) >= sizeofRtMsg {
		fam, bits = b[0], int(b[1])
		from, r.TOS = int(b[2]), TOS(b[3])
		r.Table, r.Protocol, r.Scope, r.Type = Table(b[4]), Protocol(b[5]), Scope(b[6]), RouteType(b[7])
		r.Flags = RouteFlags(uint32At(b, 8)) & OnLink
		var ok bool
		dst, ok = unspecified(fam)
		if src = dst; !ok || uint32At(b, 8)&rtmFCloned != 0 {
			return Route{}, false, nil
		}
	}
	err := decode(kind, b, sizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case rtaDst:
			addrAttr(ad, fam, &dst)
		case rtaSrc:
			addrAttr(ad, fam, &src)
		case rtaOIF:
			r.OutIface = int(ad.Int32())
		case rtaNHID:
			r.NextHopID = NextHopID(ad.Uint32())
		case rtaMetrics:
			ad.Do(r.Metrics.decode)
		case rtaPref:
			r.Pref = RoutePref(ad.Uint8())
		case rtaCacheInfo:
			ad.Do(r.Expires.decode)
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
		default:
			hop.decode(ad, fam)
		}
	})
	if err != nil {
		return Route{}, false, err
	}
	if r.Dst = netip.PrefixFrom(dst, bits).Masked(); !r.Dst.IsValid() {
		return Route{}, false, malformed(kind, fmt.Errorf("destination %v, prefix length %d", dst, bits))
	}
	if from > 0 {
		if r.From = netip.PrefixFrom(src, from).Masked(); !r.From.IsValid() {
			return Route{}, false, malformed(kind, fmt.Errorf("source %v, prefix length %d", src, from))
		}
	}
	hop.decoded()
	r.Gateway, r.Realm, r.Encap = hop.Gateway, hop.Realm, hop.Encap
	return r, true, nil
}

// decode reads a struct rta_cacheinfo.
func (e *Expires) decode(b []byte) error {
	if len(b) < sizeofRtCache {
		return fmt.Errorf("cache information of %d bytes", len(b))
	}
	*e = Expires(int32(uint32At(b, 8))) * Expires(time.Second/userHZ)
	return nil
}

// decode reads an attribute of a route's next hop.
func (h *NextHop) decode(ad *netlink.AttributeDecoder, fam uint8) {
	switch ad.Type() {
	case rtaGateway:
		addrAttr(ad, fam, &h.Gateway)
	case rtaVia: // a gateway with its own family
		ad.Do(func(b []byte) error {
			if len(b) > 2 {
				a, ok := netip.AddrFromSlice(b[2:])
				if ok && uint16(family(a)) == binary.NativeEndian.Uint16(b) {
					h.Gateway = a
					return nil
				}
			}
			return fmt.Errorf("gateway of %d bytes", len(b))
		})
	case rtaFlow:
		h.Realm = Realm(ad.Uint32())
	case rtaEncapType:
		h.Encap.Type = ad.Uint16()
	case rtaEncap:
		h.Encap.Data = string(ad.Bytes())
	}
}

// decoded ends the decoding of a next hop.
func (h *NextHop) decoded() {
	if h.Encap.Type == 0 {
		h.Encap = Encap{}
	}
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
		h := NextHop{OutIface: indexAt(b, 4), Weight: int(b[3]) + 1, Flags: RouteFlags(b[2]) & OnLink}
		err := attributes(b[sizeofNextHop:n], func(ad *netlink.AttributeDecoder) { h.decode(ad, fam) })
		if err != nil {
			return nil, err
		}
		h.decoded()
		hops = append(hops, h)
		b = b[min((n+3)&^3, len(b)):]
	}
	return hops, nil
}
