package vdestack

import (
	"context"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack/internal/dns"
)

// LookupNetIP returns the addresses of a host, see
// [net.Resolver.LookupNetIP]; network is "ip", "ip4" or "ip6". Nothing but the
// stack's [DNS] is asked. They are in the order in which to try them, RFC 6724
// with the source addresses of the stack.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := s.check(); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err}
	}
	addrs, err := s.dns.Load().LookupNetIP(ctx, network, host)
	if err != nil && s.st.Closed() {
		err = s.st.ErrClosed()
		return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err}
	}
	if err == nil && len(addrs) > 1 {
		dns.Sort(addrs, s.source)
	}
	return addrs, err
}

// resolve has names resolved by d.
func (s *Stack) resolve(d DNS) error {
	c, err := dns.New(dns.Config{Servers: d.Servers, Search: d.Search, Ndots: d.Ndots, Hosts: d.Hosts}, s.dialDNS)
	if err == nil {
		s.dns.Store(c)
	}
	return err
}

// source returns the address from which the stack reaches dst. Connecting a UDP
// socket asks the routing table and sends nothing.
func (s *Stack) source(dst netip.Addr) (netip.Addr, bool) {
	c, err := s.Dial("udp", netip.AddrPortFrom(dst, 9).String())
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), true
}

// dialDNS connects to a DNS server, which is a literal address.
func (s *Stack) dialDNS(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialContext(ctx, network, address)
}

// Resolver returns a resolver of package net that asks the stack's DNS servers
// from within the stack, for LookupTXT, LookupMX, LookupSRV, LookupAddr and the
// like. No packet of it goes anywhere else. Where the host must not decide at
// all, use [Stack.LookupNetIP], for what package net does before it asks cannot be
// kept from the host:
//
//   - LookupHost, LookupIP, LookupIPAddr, LookupNetIP, LookupCNAME and LookupAddr
//     look into the host's /etc/hosts first, or only, as /etc/nsswitch.conf says.
//   - A name without a trailing dot is asked for in the search list of the
//     host's /etc/resolv.conf, with its ndots; those of [DNS] do not count.
//   - The timeout and the attempts are those of /etc/resolv.conf too.
//   - Errors name a server of the host, which was not asked. The text at their
//     end is that of the servers that were.
//   - Addresses are put in order by the routes of the host, which package net
//     finds out without sending a packet.
//   - LookupPort reads /etc/services.
func (s *Stack) Resolver() *net.Resolver {
	if err := s.check(); err != nil {
		return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.dns.Load().Resolver().Dial(ctx, network, address)
	}}
}
