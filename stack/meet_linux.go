//go:build amd64 || arm64

package stack

import (
	"context"
	"net/netip"
)

// meet prepares for a socket that is to be connected to an address. On a crowded
// network of the kernel, the stack and the one with that address (or with that of the
// gateway to it) learn each other's hardware addresses, so that nobody has to ask for
// them. It fails silently: then the kernel asks. It may have to wait for the kernel,
// which changes one interface at a time; ctx bounds that.
func (s *Stack) meet(ctx context.Context, to netip.Addr) {
	if to = to.Unmap(); s.neighbors.Load() == nil || !to.IsGlobalUnicast() {
		return
	}
	if i, from, next := s.hop(to); i != nil {
		if p, ok := i.link.(*portLink); ok {
			p.port.Meet(ctx, from, next)
		}
	}
}

// hop returns the interface by which the configuration leads to an address, the address
// of that interface, and the next hop. Routes may have changed since; then the
// introduction is useless.
func (s *Stack) hop(to netip.Addr) (_ *iface, from, next netip.Addr) {
	all := s.interfaces()
	for _, i := range all {
		if from := i.near(to); from.IsValid() {
			return i, from, to
		}
	}
	for _, i := range all {
		for _, gw := range i.cfg.Gateways {
			if from := i.near(gw); from.IsValid() && gw.Is4() == to.Is4() {
				return i, from, gw
			}
		}
	}
	return nil, netip.Addr{}, netip.Addr{}
}

// near returns the address of the interface in the subnet of another one.
func (i *iface) near(a netip.Addr) netip.Addr {
	for _, p := range i.cfg.Addrs {
		if p.Contains(a) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
