package vdestack

import (
	"context"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack/internal/dns"
)

// LookupNetIP returns the addresses of a host, see [net.Resolver.LookupNetIP]; network
// is "ip", "ip4" or "ip6". It uses nothing but the stack's [DNS]. The addresses are in
// the order in which to try them, by RFC 6724 with the source addresses of the stack.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := s.check(); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err}
	}
	addrs, err := s.dns.Load().LookupNetIP(ctx, network, host)
	if closed := s.closed(); closed != nil {
		return nil, &net.DNSError{Err: closed.Error(), Name: host, UnwrapErr: closed}
	}
	if err == nil && len(addrs) > 1 {
		dns.Sort(addrs, s.source)
	}
	return addrs, err
}

// resolve has names resolved by d.
func (s *Stack) resolve(d DNS) error {
	c, err := dns.New(dns.Config{Servers: d.Servers, Search: d.Search, Ndots: d.Ndots, Hosts: d.Hosts}, s.DialContext)
	if err == nil {
		s.dns.Store(c)
	}
	return err
}

// source returns the address from which the stack reaches dst: connecting a UDP socket
// asks the routing table, and sends nothing.
func (s *Stack) source(dst netip.Addr) (netip.Addr, bool) {
	c, err := s.Dial("udp", netip.AddrPortFrom(dst, 9).String())
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), true
}

// Resolver returns a resolver of package net that asks the stack's DNS servers from
// within the stack, for LookupTXT, LookupMX, LookupSRV, LookupAddr and the like. Its
// packets go nowhere else. But package net also uses the host's configuration, which
// [Stack.LookupNetIP] does not:
//
//   - LookupHost, LookupIP, LookupIPAddr, LookupNetIP, LookupCNAME and LookupAddr look
//     into the host's /etc/hosts first, or only, as /etc/nsswitch.conf says.
//   - For names without a trailing dot, the search list and ndots are those of the
//     host's /etc/resolv.conf, not those of [DNS].
//   - Timeout and attempts are those of /etc/resolv.conf too.
//   - Errors name a server of the host, which was not asked. The text at their end is
//     that of the servers that were.
//   - Addresses are in the order of the routes of the host, which package net finds out
//     without sending a packet.
//   - LookupPort reads /etc/services.
func (s *Stack) Resolver() *net.Resolver {
	if err := s.check(); err != nil {
		return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := s.closed(); err != nil {
			return nil, err
		}
		return s.dns.Load().Resolver().Dial(ctx, network, address)
	}}
}
