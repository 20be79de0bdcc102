package autoconf

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// Source is who knows something about the configuration of an interface.
type Source string

// The sources, in the order in which their servers of names are asked.
const (
	Static Source = "static" // the Config
	DHCP6  Source = "dhcp6"
	DHCP4  Source = "dhcp4"
	RD     Source = "rd" // router advertisements
)

// order has all sources.
var order = []Source{Static, DHCP6, DHCP4, RD}

// A Lease is what one source knows. The zero Time means never; instants that were learned
// by this process have a reading of the monotonic clock, so that changes of the time of day
// do not matter.
type Lease struct {
	Source Source
	Addrs  []Addr
	Routes []Route
	DNS    []Server
	Search []Domain

	// MTU is that of the network in bytes: of the interface if it is DHCPv4's, of IPv6 if
	// it is that of router advertisements. 0 if it was not said.
	MTU int
	// NTP are servers of time, and CaptivePortal is the URI of RFC 8910. Nothing here uses
	// them.
	NTP           []netip.Addr
	CaptivePortal string

	// Server is the DHCP server, or the router that was heard last.
	Server netip.Addr
	// Renew and Rebind are T1 and T2 of DHCP: when the server is asked, and when all are.
	// Expires is the end of the whole lease.
	Renew, Rebind, Expires time.Time
}

// Addr is an address of the interface.
type Addr struct {
	// Prefix is the address with the length of its network.
	Prefix netip.Prefix
	// NoPrefixRoute means that the address brings no route to its network.
	NoPrefixRoute bool
	// Preferred and Valid are when new connections begin to avoid the address, and when
	// the kernel removes it.
	Preferred, Valid time.Time
	// Temporary means that the kernel makes temporary addresses of the same network,
	// which are not listed here.
	Temporary bool
}

// Route is a route by way of the interface.
type Route struct {
	Dst     netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	Gateway netip.Addr   // the zero Addr for a destination on the link
	Expires time.Time
	// Preference is that of RFC 4191: -1 low, 0 medium, 1 high.
	Preference int
}

// Server is a DNS server.
type Server struct {
	Addr    netip.Addr // without a zone: it is the interface
	Expires time.Time
}

// Domain is a suffix of the search list.
type Domain struct {
	Name    string // without a trailing dot
	Expires time.Time
}

// publicLease returns a copy of what a source has said.
func publicLease(by Source, l source.Lease) Lease {
	return Lease{
		Source:        by,
		Addrs:         convert(l.Addrs, func(a source.Addr) Addr { return Addr(a) }),
		Routes:        convert(l.Routes, func(r source.Route) Route { return Route(r) }),
		DNS:           convert(l.DNS, func(s source.Server) Server { return Server(s) }),
		Search:        convert(l.Search, func(d source.Domain) Domain { return Domain(d) }),
		MTU:           l.MTU,
		NTP:           append([]netip.Addr(nil), l.NTP...),
		CaptivePortal: l.CaptivePortal,
		Server:        l.Server,
		Renew:         l.Renew,
		Rebind:        l.Rebind,
		Expires:       l.Expires,
	}
}

func convert[F, T any](from []F, f func(F) T) (to []T) {
	for _, v := range from {
		to = append(to, f(v))
	}
	return to
}

// usable returns what can be applied of what a source has learned from others, and the
// rest: whoever answers as a server must not be able to give the stack addresses that mean
// something else, to lead loopback away, or to fill the kernel's tables.
func usable(l source.Lease) (_ source.Lease, left []string) {
	l.Addrs = keep(l.Addrs, &left, func(a source.Addr) bool {
		return a.Prefix.IsValid() && a.Prefix.Bits() > 0 && usableHost(a.Prefix.Addr()) && (!a.Temporary || a.Prefix.Bits() == 64)
	})
	l.Routes = keep(l.Routes, &left, func(r source.Route) bool {
		dst := r.Dst
		return dst.IsValid() && dst == dst.Masked() && !dst.Addr().Is4In6() && !reserved(dst) &&
			(!r.Gateway.IsValid() || r.Gateway.Is4() == dst.Addr().Is4() && usableHost(r.Gateway))
	})
	l.DNS = keep(l.DNS, &left, func(s source.Server) bool { return usableHost(s.Addr) })
	l.Search = keep(l.Search, &left, func(d source.Domain) bool {
		name, err := parseName(d.Name)
		return err == nil && name == d.Name
	})
	l.NTP = keep(l.NTP, &left, usableHost)
	return l, left
}

// keep returns the values for which ok returns true, and not too many.
func keep[T any](all []T, left *[]string, ok func(T) bool) (kept []T) {
	for _, v := range all {
		if ok(v) && len(kept) < source.MaxItems {
			kept = append(kept, v)
		} else {
			*left = append(*left, fmt.Sprintf("%+v", v))
		}
	}
	return kept
}

// usableHost reports whether an address can be that of a single host on a network.
func usableHost(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// reserved reports whether all addresses of a prefix mean the same everywhere, or on every
// link.
func reserved(p netip.Prefix) bool {
	return slices.ContainsFunc(reservedPrefixes, func(r netip.Prefix) bool { return p.Bits() >= r.Bits() && r.Contains(p.Addr()) })
}

var reservedPrefixes = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}
