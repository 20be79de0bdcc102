package autoconf

import (
	"net/netip"
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
