package vdestack

import (
	"errors"
	"net"
	"net/netip"
)

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}
