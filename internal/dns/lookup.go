package dns

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// The methods of this file are those of [net.Resolver], with its results and errors, but
// their errors are as those of [Client.LookupNetIP].

// LookupHost returns the addresses of a host as text.
func (c *Client) LookupHost(ctx context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	addrs, err := c.LookupNetIP(ctx, "ip", host)
	return each(addrs, netip.Addr.String), err
}

// LookupIP returns the addresses of a host; network is as for LookupNetIP.
func (c *Client) LookupIP(ctx context.Context, network, host string) ([]net.IP, error) {
	addrs, err := c.LookupNetIP(ctx, network, host)
	return each(addrs, func(a netip.Addr) net.IP { return a.AsSlice() }), err
}

// LookupIPAddr returns the addresses of a host with their zones.
func (c *Client) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	addrs, err := c.LookupNetIP(ctx, "ip", host)
	return each(addrs, func(a netip.Addr) net.IPAddr { return net.IPAddr{IP: a.AsSlice(), Zone: a.Zone()} }), err
}

// LookupCNAME returns the name at the end of the aliases of a host. It needs no alias, but
// then addresses.
func (c *Client) LookupCNAME(ctx context.Context, host string) (string, error) {
	a, err := answer{}, dnsError(errNoSuchHost, "")
	if _, literal := netip.ParseAddr(host); literal != nil {
		a, err = c.lookup(ctx, typesOf["CNAME"], host)
	}
	switch {
	case err != nil:
		err.Name = host
		return "", err
	case !isDomain(a.name):
		return "", invalid(host)
	}
	return a.name, nil
}

// LookupTXT returns the TXT records of a name, the strings of each in one.
func (c *Client) LookupTXT(ctx context.Context, name string) ([]string, error) {
	_, records, err := lookupRecords[*dnsmessage.TXTResource](ctx, c, dnsmessage.TypeTXT, name)
	return each(records, func(r *dnsmessage.TXTResource) string { return strings.Join(r.TXT, "") }), err
}

// LookupNS returns the name servers of a domain.
func (c *Client) LookupNS(ctx context.Context, name string) ([]*net.NS, error) {
	_, records, err := lookupRecords[*dnsmessage.NSResource](ctx, c, dnsmessage.TypeNS, name)
	if err != nil {
		return nil, err
	}
	all := each(records, func(r *dnsmessage.NSResource) *net.NS { return &net.NS{Host: r.NS.String()} })
	return valid(name, all, func(ns *net.NS) bool { return isDomain(ns.Host) })
}

// LookupMX returns the mail servers of a domain, by preference; equal ones are in random
// order.
func (c *Client) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	_, records, err := lookupRecords[*dnsmessage.MXResource](ctx, c, dnsmessage.TypeMX, name)
	if err != nil {
		return nil, err
	}
	all := each(records, func(r *dnsmessage.MXResource) *net.MX { return &net.MX{Host: r.MX.String(), Pref: r.Pref} })
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	return valid(name, all, func(mx *net.MX) bool {
		// An address instead of a name is wrong, but in use.
		addr, err := netip.ParseAddr(strings.TrimSuffix(mx.Host, "."))
		return isDomain(mx.Host) || err == nil && addr.Zone() == ""
	})
}

// LookupSRV returns the servers of a service by priority and, where that is equal, in an
// order that is random by weight (RFC 2782), and the name at the end of the aliases of
// _service._proto.name, or of name if service and proto are empty.
func (c *Client) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	target := name
	if service != "" || proto != "" {
		target = "_" + service + "._" + proto + "." + name
	}
	cname, records, err := lookupRecords[*dnsmessage.SRVResource](ctx, c, dnsmessage.TypeSRV, target)
	if err != nil {
		return "", nil, err
	}
	if !isDomain(cname) {
		return "", nil, &net.DNSError{Err: "SRV header name is invalid", Name: name}
	}
	all := each(records, func(r *dnsmessage.SRVResource) *net.SRV {
		return &net.SRV{Target: r.Target.String(), Port: r.Port, Priority: r.Priority, Weight: r.Weight}
	})
	sortSRV(all)
	srvs, err := valid(name, all, func(srv *net.SRV) bool { return isDomain(srv.Target) })
	return cname, srvs, err
}

// sortSRV orders servers by priority. Of those with the same, each place is drawn by lot, with
// chances by weight; those without weight are last.
func sortSRV(srvs []*net.SRV) {
	slices.SortStableFunc(srvs, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) })
	for i, first := range srvs {
		sum := 0
		for _, srv := range srvs[i:] {
			if srv.Priority == first.Priority {
				sum += int(srv.Weight)
			}
		}
		if sum == 0 {
			continue
		}
		drawn := i
		for lot := rand.IntN(sum) - int(first.Weight); lot >= 0; lot -= int(srvs[drawn].Weight) {
			drawn++
		}
		srvs[i], srvs[drawn] = srvs[drawn], srvs[i]
	}
}

// LookupAddr returns the names of an address, those in Config.Hosts if it has any.
func (c *Client) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "unrecognized address", Name: addr}
	}
	ip = ip.Unmap()
	if names := c.hosts.names(ip); len(names) > 0 {
		return names, nil
	}
	if ip.Zone() != "" { // it has no name in the DNS
		return nil, &net.DNSError{Err: "unrecognized address", Name: addr}
	}
	_, records, err := lookupRecords[*dnsmessage.PTRResource](ctx, c, dnsmessage.TypePTR, reverseName(ip))
	if err != nil {
		return nil, err
	}
	return valid(addr, each(records, func(r *dnsmessage.PTRResource) string { return r.PTR.String() }), isDomain)
}

// lookupRecords finds the records of a name, and the name at the end of its aliases.
func lookupRecords[R dnsmessage.ResourceBody](ctx context.Context, c *Client, typ dnsmessage.Type, name string) (string, []R, error) {
	a, err := c.lookupRecords(ctx, typ, name)
	if err != nil {
		err.Name = name
		return "", nil, err
	}
	return a.name, each(a.records, func(r dnsmessage.ResourceBody) R { return r.(R) }), nil
}

func (c *Client) lookupRecords(ctx context.Context, typ dnsmessage.Type, name string) (answer, *net.DNSError) {
	var a answer
	failed := c.tryNames(name, func(name string) (err *net.DNSError) {
		a, err = c.resolve(ctx, typ, name)
		return err
	})
	return a, failed
}

// each returns what f makes of each element; nil of none.
func each[T, U any](list []T, f func(T) U) []U {
	var all []U
	for _, x := range list {
		all = append(all, f(x))
	}
	return all
}

// valid returns the results whose names are valid, and an error if there are others.
func valid[T any](name string, all []T, ok func(T) bool) ([]T, error) {
	n := len(all)
	all = slices.DeleteFunc(all, func(x T) bool { return !ok(x) })
	if len(all) < n {
		return all, invalid(name)
	}
	return all, nil
}

func invalid(name string) *net.DNSError {
	return &net.DNSError{Err: "DNS response contained records which contain invalid names", Name: name}
}
