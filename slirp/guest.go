package slirp

import (
	"fmt"
	"net/netip"

	"github.com/vdestack/vdestack/vdeplug"
)

// A Guest is the configuration of a guest's interface.
type Guest struct {
	Addrs    []netip.Prefix
	Gateways []netip.Addr // default routes
	DNS      []netip.Addr // name servers, on port 53
}

// FirstGuest returns the configuration of a network's first guest, for programs that
// use neither DHCP nor router advertisements: the address and name server that DHCP
// would give it, and for IPv6 fd00::f or the next free address. On a restricted
// network there are only addresses. It does not open the network; the error is about
// the locator.
func FirstGuest(l vdeplug.Locator) (Guest, error) {
	if l.Scheme() != scheme {
		return Guest{}, fmt.Errorf("%s: not a %s:// locator", vdeplug.Redact(l.String()), scheme)
	}
	cfg, err := parse(l)
	if err != nil {
		return Guest{}, err
	}
	var g Guest
	if cfg.v6 {
		for number := dhcpNumber; number < 256; number++ {
			if a := numbered(cfg.host6, byte(number)); !cfg.own(a) {
				g.Addrs = append(g.Addrs, netip.PrefixFrom(a, cfg.host6.Bits()))
				break
			}
		}
		g.Gateways = append(g.Gateways, routerAddr)
		g.DNS = []netip.Addr{cfg.dns6}
	}
	if cfg.v4 {
		g.Addrs = append(g.Addrs, netip.PrefixFrom(cfg.dhcp, cfg.host.Bits()))
		g.Gateways = append(g.Gateways, cfg.host.Addr())
		g.DNS = []netip.Addr{cfg.dns}
	}
	if cfg.restricted {
		g.Gateways, g.DNS = nil, nil
	}
	return g, nil
}
