// Package dns implements the stub resolver of a stack. It finds the addresses of names with
// the servers, search list and hosts of its configuration, and never with those of the host:
// it opens no file, and all its packets go through its dial function.
//
// It speaks RFC 1035 with EDNS0 (RFC 6891) over UDP, and TCP (RFC 7766) for larger answers.
// It does not cache: a caching server in the network does that better.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/dns/dnsmessage"
)

// Config configures a Client. The zero Config resolves address literals and localhost only.
type Config struct {
	// Servers are asked in this order; port 0 means 53.
	Servers []netip.AddrPort
	// Search has the domains for names without a trailing dot, as in resolv.conf(5).
	Search []string
	// Ndots is the number of dots with which a name is tried as it is before the search
	// list, not after it; 0 means 1.
	Ndots int
	// Hosts has the addresses of names, as hosts(5). Case and a trailing dot do not
	// matter. Servers are not asked for these names; an empty list hides a name.
	Hosts map[string][]netip.Addr
	// Timeout bounds one try, a query to one server. 0 means 3 seconds: a third try
	// then begins well within the ten seconds that programs often allow for a whole
	// connection, and a server that has to ask others has time for it.
	Timeout time.Duration
	// Attempts is how often each server is tried; 0 means 2. After a failure with EDNS,
	// the next try of the server is without it, and the other way round: some gateways
	// drop queries with EDNS.
	Attempts int
}

// A DialFunc connects to an address literal with port, over "udp" or "tcp", and returns when
// ctx ends. A udp connection receives packets of that address only. Each connection carries
// one query, and its Close must end a waiting Read.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A Client resolves names. It is safe for concurrent use, holds no resources between
// lookups, and leaves no goroutine behind when a lookup returns.
type Client struct {
	servers  []*server
	search   []string // absolute: "example.org.", or "" for the root
	ndots    int
	hosts    hosts
	timeout  time.Duration
	attempts int
	dial     DialFunc
}

// New returns a Client, or an error that names an invalid field of cfg. It keeps nothing of
// cfg.
func New(cfg Config, dial DialFunc) (*Client, error) {
	if dial == nil {
		return nil, errors.New("dns: no dial function")
	}
	c := &Client{
		ndots:    cmp.Or(cfg.Ndots, 1),
		timeout:  cmp.Or(cfg.Timeout, 3*time.Second),
		attempts: cmp.Or(cfg.Attempts, 2),
		dial:     dial,
	}
	for _, s := range cfg.Servers {
		switch a := s.Addr(); {
		case !a.IsValid():
			return nil, errors.New("dns: Servers: a server without an address")
		case a.IsUnspecified(), a.IsMulticast():
			return nil, fmt.Errorf("dns: Servers: %v is not the address of a server", a)
		case strings.ContainsFunc(a.Zone(), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
			return nil, fmt.Errorf("dns: Servers: zone %q is not the name of an interface", a.Zone()) // it goes into resolv.conf
		}
		if s.Port() == 0 {
			s = netip.AddrPortFrom(s.Addr(), 53)
		}
		c.servers = append(c.servers, &server{addr: s.String()})
	}
	for _, domain := range cfg.Search {
		if domain != "." && !isName(domain) {
			return nil, fmt.Errorf("dns: Search: %q is not a domain name", domain)
		}
		c.search = append(c.search, strings.TrimPrefix(absolute(domain), "."))
	}
	var err error
	if c.hosts, err = newHosts(cfg.Hosts); err != nil {
		return nil, err
	}
	switch {
	case c.ndots < 0:
		return nil, fmt.Errorf("dns: Ndots: %d is negative", c.ndots)
	case c.timeout < 0:
		return nil, fmt.Errorf("dns: Timeout: %v is negative", c.timeout)
	case c.attempts < 0:
		return nil, fmt.Errorf("dns: Attempts: %d is negative", c.attempts)
	}
	return c, nil
}

// LookupNetIP returns the addresses of a host: IPv4 before IPv6, otherwise in the order of
// the answers (see Sort). The network is "ip", "ip4" or "ip6". IPv4 addresses are never in
// IPv6-mapped form. The host is
//
//   - an address literal, with or without a zone;
//   - a name in Config.Hosts;
//   - localhost or a name below it (RFC 6761): 127.0.0.1 and ::1;
//   - any other name, for which it asks the servers, except below .onion (RFC 7686).
//
// It asks for A and AAAA records at the same time. After the first answer, it waits for the
// other for Config.Timeout: some servers never answer for AAAA. Others deny the name for one
// of the two types; the addresses of the other type count.
//
// Every error is a [*net.DNSError], except for an unknown network. IsNotFound is true if the
// name has no address of the network, and false if that is unknown. The error wraps the
// error of the dial function or the connection, and ctx.Err() if ctx has ended. If ctx has
// a deadline, the tries share the remaining time.
func (c *Client) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	types, ok := typesOf[network]
	if !ok {
		return nil, net.UnknownNetworkError(network)
	}
	addrs, err := c.lookup(ctx, types, host)
	if err != nil {
		err.Name = host
		return nil, err
	}
	return addrs, nil
}

// typesOf has the types of the records to ask for.
var typesOf = map[string][]dnsmessage.Type{
	"ip":  {dnsmessage.TypeA, dnsmessage.TypeAAAA},
	"ip4": {dnsmessage.TypeA},
	"ip6": {dnsmessage.TypeAAAA},
}

func (c *Client) lookup(ctx context.Context, types []dnsmessage.Type, host string) ([]netip.Addr, *net.DNSError) {
	addr, err := netip.ParseAddr(host)
	known, ok := []netip.Addr{addr.Unmap()}, err == nil
	if !ok {
		known, ok = c.hosts.addrs(host)
	}
	if ok {
		var addrs []netip.Addr
		for _, typ := range types {
			addrs = append(addrs, ofType(typ, known)...)
		}
		switch {
		case len(addrs) > 0:
			return addrs, nil
		case len(known) > 0:
			return nil, dnsError(errNoSuitable, "")
		}
		return nil, dnsError(errNoSuchHost, "")
	}
	if !isName(host) || isBelow(host, "onion") {
		return nil, dnsError(errNoSuchHost, "")
	}
	var failed *net.DNSError
	notFound := dnsError(errNoSuchHost, "")
	for _, name := range c.candidates(host) {
		addrs, err := c.lookupName(ctx, types, name)
		switch {
		case err == nil:
			return addrs, nil
		case err.IsNotFound:
			notFound = err
		case !isServerError(err):
			// No server has answered, and the next name would take as long.
			return nil, err
		default:
			failed = err
		}
	}
	// A name without an answer may exist.
	if failed != nil {
		return nil, failed
	}
	return nil, notFound
}

// lookupName asks for the records of an absolute name, in parallel.
func (c *Client) lookupName(ctx context.Context, types []dnsmessage.Type, name string) ([]netip.Addr, *net.DNSError) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		addrs []netip.Addr
		err   *net.DNSError
	}
	results := make([]result, len(types))
	done := make(chan *result, len(types))
	for i, typ := range types {
		go func() {
			r := &results[i]
			r.addrs, r.err = c.addresses(ctx, typ, name)
			done <- r
		}()
	}
	var grace *time.Timer
	for range types {
		r := <-done
		if grace == nil && (r.err == nil || errors.Is(r.err, errNoSuchHost)) {
			grace = time.AfterFunc(c.timeout, cancel)
			defer grace.Stop()
		}
	}
	var (
		addrs []netip.Addr
		err   *net.DNSError
	)
	for _, r := range results {
		addrs = append(addrs, r.addrs...)
		if r.err != nil && (err == nil || weight(r.err) > weight(err)) {
			err = r.err
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, err
}

// weight orders the errors of the questions about one name. That the name does not exist
// holds for all types; that it has no such record, for one type only.
func weight(err *net.DNSError) int {
	switch {
	case errors.Is(err, errNoSuchHost):
		return 2
	case errors.Is(err, errNoData):
		return 0
	}
	return 1
}

// maxChain bounds the names of a chain of aliases, and with them the questions of a lookup;
// servers have similar bounds.
const maxChain = 12

// addresses follows the aliases from a name to its addresses of one type.
func (c *Client) addresses(ctx context.Context, typ dnsmessage.Type, name string) ([]netip.Addr, *net.DNSError) {
	chain := []string{fold(name)}
	for {
		q, err := dnsmessage.NewName(chain[len(chain)-1])
		if err != nil {
			return nil, dnsError(err, "")
		}
		r, failed := c.ask(ctx, dnsmessage.Question{Name: q, Type: typ, Class: dnsmessage.ClassINET}, c.attempts)
		if failed != nil {
			return nil, failed
		}
		if r.rcode == dnsmessage.RCodeNameError {
			// It is about the last name of the chain, even if the chain leaves the
			// answer (RFC 6604, section 3).
			return nil, dnsError(errNoSuchHost, r.server)
		}
		asked := len(chain)
		chain, err = r.follow(chain)
		if err != nil {
			return nil, dnsError(err, r.server)
		}
		last := chain[len(chain)-1]
		addrs := r.addrsOf(last)
		switch {
		case len(addrs) > 0:
			return addrs, nil
		case len(chain) == asked, r.denies(last):
			return nil, dnsError(errNoData, r.server)
		}
	}
}

// ofType returns the addresses that records of the type can hold.
func ofType(typ dnsmessage.Type, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return a.Is4() != (typ == dnsmessage.TypeA)
	})
}
