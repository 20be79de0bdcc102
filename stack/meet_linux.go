//go:build amd64 || arm64

package stack

import (
	"context"
	"net/netip"
)

// Meet is called before a socket of the stack is connected to an address. On a crowded
// network of the kernel, the stack and the one with that address, or with that of the
// gateway to it, learn the hardware addresses of each other, so that nobody has to ask
// for them. It fails in silence: then the kernel asks. As with everything about
// interfaces, it may have to wait for the kernel, which does one thing at a time; ctx
// bounds that.
func (s *Stack) Meet(ctx context.Context, to netip.Addr) {
	if to = to.Unmap(); s.neighbors.Load() == nil || !to.IsGlobalUnicast() {
		return
	}
	if i, from, next := s.hop(to); i != nil {
		if p, ok := i.link.(*portLink); ok {
			p.port.Meet(ctx, from, next)
		}
	}
}

// hop returns the interface by which the configuration leads to an address, its own
// address and the next one on the way. The routes may be others by now; then the
// introduction is of no use.
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
