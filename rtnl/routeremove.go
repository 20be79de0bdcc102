package rtnl

import (
	"bytes"
	"net/netip"
	"slices"
	"syscall"
)

// RouteRemove deletes a route that Routes listed, and no other; RouteDel is nlinline's.
// ESRCH if the route is gone. A route with several next hops goes with all of them.
//
// The kernel deletes the first route that matches a request, and a request cannot
// describe a route completely:
//
//   - of an IPv4 route not the absence of a gateway, preferred source or congestion
//     control, nor the flags and weights of its next hops;
//   - of an IPv6 route neither type nor encapsulation.
//
// So RouteRemove lists the routes first. If the kernel would delete another, it returns
// EBUSY and names that route. A route that is added after the list is not seen.
func (c *Conn) RouteRemove(r Route) error {
	return fail("delete route", r, c.removeRoute(r))
}

func (c *Conn) removeRoute(r Route) error {
	if err := ifIndex(r.OutIface).check(); err != nil {
		return err
	}
	if !r.Dst.IsValid() {
		return invalid(syscall.EINVAL, "the destination is not valid")
	}
	r.Expires = 0 // it changes all the time, and the kernel does not look at it
	want, err := r.encode()
	if err != nil {
		return err
	}
	answer, err := c.dump(rtmGetRoute, append([]byte{want[0]}, make([]byte, sizeofRtMsg-1)...))
	if err != nil {
		return err
	}
	request := r.removal()
	var first *Route // the route that the kernel would delete
	for _, m := range answer {
		other, ok, err := decodeRoute(m.Data)
		if err != nil {
			return err
		}
		if !ok || !request.hits(&other) {
			continue
		}
		other.Expires = 0
		if got, err := other.encode(); err == nil && bytes.Equal(got, want) {
			if first != nil {
				return invalid(syscall.EBUSY, "the kernel would delete another: remove %v first", first)
			}
			return c.sendRemoval(&request)
		}
		if first == nil {
			first = &other
		}
	}
	return syscall.ESRCH
}

// removal returns what a request to delete the route says of it.
func (r Route) removal() Route {
	switch {
	case r.NextHopID != 0:
		if r.Type == Blackhole {
			r.Type = 0 // the object may be the blackhole
		}
	case r.Dst.Addr().Is4():
	case len(r.MultiPath) > 0:
		r.Protocol = 0 // each next hop has its own; only the first is listed
	case !r.Gateway.IsValid():
		r.Gateway = netip.IPv6Unspecified() // no gateway; without the attribute any would match
	}
	return r
}

func (c *Conn) sendRemoval(r *Route) error {
	fixed := *r
	fixed.Metrics = Metrics{}
	body, err := fixed.encode()
	if r.Dst.Addr().Is4() && err == nil {
		body, err = encode(body, r.Metrics.encode(true))
	}
	return c.change(rtmDelRoute, 0, body, err)
}

// hits reports whether the request to delete r matches other in the kernel. It returns
// true where kernels differ.
func (r *Route) hits(other *Route) bool {
	if r.Dst != other.Dst || r.From != other.From || r.Table != other.Table || r.TOS != other.TOS ||
		!matches(r.Metric, other.Metric) {
		return false
	}
	if r.Gateway == netip.IPv6Unspecified() && len(other.MultiPath) > 0 {
		return true // the kernel does not list routes between its next hops
	}
	if !matches(r.Protocol, other.Protocol) || !matches(r.NextHopID, other.NextHopID) {
		return false
	}
	if r.Dst.Addr().Is6() {
		return other.NextHopID != 0 || slices.ContainsFunc(r.hops(), func(h NextHop) bool {
			return slices.ContainsFunc(other.hops(), h.hits)
		})
	}
	numbers := other.Metrics
	numbers.CongCtl = r.Metrics.CongCtl
	if !matches(r.Type, other.Type) || r.Scope != ScopeNowhere && r.Scope != other.Scope ||
		!matches(r.Src, other.Src) || r.Metrics != numbers || !matches(r.Metrics.CongCtl, other.Metrics.CongCtl) {
		return false
	}
	hops, others := r.hops(), other.hops()
	switch {
	case r.NextHopID != 0:
		return true
	case other.NextHopID != 0:
		return r.OutIface == 0 && !r.Gateway.IsValid() && len(r.MultiPath) == 0
	case len(r.MultiPath) == 0:
		return hops[0].hits(others[0]) && matches(r.Encap, others[0].Encap)
	}
	for i, h := range others {
		if i == len(hops) || !hops[i].hits(h) {
			return false
		}
	}
	return true
}

// hops returns the next hops of a route, one or several.
func (r *Route) hops() []NextHop {
	if len(r.MultiPath) > 0 {
		return r.MultiPath
	}
	return []NextHop{{Gateway: r.Gateway, OutIface: r.OutIface, Realm: r.Realm, Encap: r.Encap}}
}

// hits reports whether other has what h says.
func (h NextHop) hits(other NextHop) bool {
	// The gateway :: matches routes without a gateway.
	none := h.Gateway == netip.IPv6Unspecified() && !other.Gateway.IsValid()
	return matches(h.OutIface, other.OutIface) && (none || matches(h.Gateway, other.Gateway)) && matches(h.Realm, other.Realm)
}

// matches reports whether an attribute has the value want; the zero value matches any.
func matches[T comparable](want, got T) bool {
	var any T
	return want == any || want == got
}
