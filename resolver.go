package vdestack

import (
	"context"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack/internal/dns"
)

// resolve has names resolved by d.
func (s *Stack) resolve(d DNS) error {
	c, err := dns.New(dns.Config{
		Servers: d.Servers, Search: d.Search, Ndots: d.Ndots, Hosts: d.Hosts, Cache: d.Cache, Source: s.source,
	}, s.DialContext)
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

// lookup looks a name up, unless the stack is closed, or none.
func lookup[T any](s *Stack, name string, f func(c *dns.Client) (T, error)) (T, error) {
	var none T
	if err := s.check(); err != nil {
		return none, &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err}
	}
	found, err := f(s.dns.Load())
	if closed := s.closed(); closed != nil {
		return none, &net.DNSError{Err: closed.Error(), Name: name, UnwrapErr: closed}
	}
	return found, err
}

// LookupNetIP returns the addresses of a host, see [net.Resolver.LookupNetIP]; network
// is "ip", "ip4" or "ip6". It uses nothing but the stack's [DNS]. The addresses are in
// the order in which to try them, by RFC 6724 with the source addresses of the stack; of
// each family at most 128.
//
// This and the other lookups have the results and errors of [net.Resolver]; where that and
// its documentation differ, they follow the documentation. Errors are [*net.DNSError], but
// for an unknown network.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return lookup(s, host, func(c *dns.Client) ([]netip.Addr, error) { return c.LookupNetIP(ctx, network, host) })
}

// LookupHost returns the addresses of a host as text, see [net.Resolver.LookupHost] and
// [Stack.LookupNetIP].
func (s *Stack) LookupHost(ctx context.Context, host string) ([]string, error) {
	return lookup(s, host, func(c *dns.Client) ([]string, error) { return c.LookupHost(ctx, host) })
}

// LookupIP returns the addresses of a host, see [net.Resolver.LookupIP] and
// [Stack.LookupNetIP].
func (s *Stack) LookupIP(ctx context.Context, network, host string) ([]net.IP, error) {
	return lookup(s, host, func(c *dns.Client) ([]net.IP, error) { return c.LookupIP(ctx, network, host) })
}

// LookupIPAddr returns the addresses of a host, see [net.Resolver.LookupIPAddr] and
// [Stack.LookupNetIP].
func (s *Stack) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return lookup(s, host, func(c *dns.Client) ([]net.IPAddr, error) { return c.LookupIPAddr(ctx, host) })
}

// LookupAddr returns the names of an address, see [net.Resolver.LookupAddr]: those that
// DNS.Hosts has, or else those of the stack's servers.
func (s *Stack) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return lookup(s, addr, func(c *dns.Client) ([]string, error) { return c.LookupAddr(ctx, addr) })
}

// LookupCNAME returns the name at the end of the aliases of a host, see
// [net.Resolver.LookupCNAME].
func (s *Stack) LookupCNAME(ctx context.Context, host string) (string, error) {
	return lookup(s, host, func(c *dns.Client) (string, error) { return c.LookupCNAME(ctx, host) })
}

// LookupMX returns the mail servers of a domain by preference, see
// [net.Resolver.LookupMX].
func (s *Stack) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return lookup(s, name, func(c *dns.Client) ([]*net.MX, error) { return c.LookupMX(ctx, name) })
}

// LookupNS returns the name servers of a domain, see [net.Resolver.LookupNS].
func (s *Stack) LookupNS(ctx context.Context, name string) ([]*net.NS, error) {
	return lookup(s, name, func(c *dns.Client) ([]*net.NS, error) { return c.LookupNS(ctx, name) })
}

// LookupSRV returns the servers of a service by priority, and at random by weight where that
// is equal, see [net.Resolver.LookupSRV].
func (s *Stack) LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error) {
	addrs, err = lookup(s, name, func(c *dns.Client) (srvs []*net.SRV, err error) {
		cname, srvs, err = c.LookupSRV(ctx, service, proto, name)
		return srvs, err
	})
	if addrs == nil {
		cname = ""
	}
	return cname, addrs, err
}

// LookupTXT returns the TXT records of a name, see [net.Resolver.LookupTXT].
func (s *Stack) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return lookup(s, name, func(c *dns.Client) ([]string, error) { return c.LookupTXT(ctx, name) })
}

// Resolver returns a resolver of package net for libraries that take no other, as near to
// the Lookup methods of the stack as package net allows. Its questions are answered in the
// process by the stack's [DNS], its servers, search list and hosts, and its packets go
// nowhere else. But package net also uses the host's configuration, which those methods do
// not:
//
//   - LookupHost, LookupIP, LookupIPAddr, LookupNetIP, LookupCNAME and LookupAddr look
//     into the host's /etc/hosts first, or only, as /etc/nsswitch.conf says.
//   - It appends the domains of the host's search list to names. None of these leaves the
//     process: names below such a domain do not exist, even if they are asked for in full,
//     unless DNS.Search has the domain, or a domain below it that the name is in. The
//     addresses of DNS.Hosts are found.
//   - A dot at the end of a name is lost: the stack's search list is used for it too.
//   - How long and how often servers are asked is also up to /etc/resolv.conf.
//   - Errors name a server of the host, which was not asked. The text at their end is
//     that of the servers that were. A failure of a server counts as temporary, and ends
//     the lookup, as StrictErrors says.
//   - Which family of addresses comes first depends on the routes of the host, which
//     package net finds out without sending a packet.
//   - LookupPort reads /etc/services.
func (s *Stack) Resolver() *net.Resolver {
	return dns.NewResolver(func() (*dns.Client, error) {
		if err := s.check(); err != nil {
			return nil, err
		}
		if err := s.closed(); err != nil {
			return nil, err
		}
		return s.dns.Load(), nil
	})
}
