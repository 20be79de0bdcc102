package slirp

import (
	"fmt"
	"net/netip"

	"github.com/vdestack/vdestack/vdeplug"
)

// A Guest is what a host on the network needs to use it.
type Guest struct {
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	DNS      []netip.Addr
}

// FirstGuest returns the configuration of the first guest of a network, for those who
// ask neither DHCP nor the router: the address and name server that DHCP gives it, and
// fd00::f, or the next that is free. On a restricted network there are only addresses.
func FirstGuest(l vdeplug.Locator) (Guest, error) {
	if l.Scheme() != scheme {
		return Guest{}, fmt.Errorf("%s: not a %s:// locator", l, scheme)
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
