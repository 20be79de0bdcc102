// Package dns implements the stub resolver of a stack. It finds the addresses of names with
// the servers, search list and hosts of its configuration, and never with those of the host:
// it opens no file, and all its packets go through its dial function.
//
// It speaks RFC 1035 with EDNS0 (RFC 6891) over UDP, and TCP (RFC 7766) for larger answers.
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
	// Cache is how many answers are kept, each for the time that its server gives; 0
	// keeps none.
	Cache int
	// Source returns the source address with which a destination is reached, or false.
	// If it is set, LookupNetIP orders addresses by it (see Sort).
	Source func(dst netip.Addr) (netip.Addr, bool)
}

// A DialFunc connects to an address literal with port, over "udp" or "tcp", and returns when
// ctx ends. A udp connection receives packets of that address only. Each connection carries
// one query, and its Close must end a waiting Read.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A Client resolves names. It is safe for concurrent use, holds no resources between
// lookups but the cache, and leaves no goroutine behind when a lookup returns.
type Client struct {
	servers  []*server
	search   []string // absolute: "example.org.", or "" for the root
	ndots    int
	hosts    hosts
	timeout  time.Duration
	attempts int
	cache    *cache // nil: none
	source   func(dst netip.Addr) (netip.Addr, bool)
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
		source:   cfg.Source,
		dial:     dial,
	}
	for _, s := range cfg.Servers {
		switch a := s.Addr(); {
		case !a.IsValid():
			return nil, errors.New("dns: Servers: a server without an address")
		case a.Unmap().WithZone("").IsUnspecified(), a.IsMulticast():
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
	case cfg.Cache < 0:
		return nil, fmt.Errorf("dns: Cache: %d is negative", cfg.Cache)
	case cfg.Cache > 0:
		c.cache = newCache(cfg.Cache)
	}
	return c, nil
}

// LookupNetIP returns the addresses of a host: IPv4 before IPv6, otherwise in the order of
// the answers, unless Config.Source gives a better one. The network is "ip", "ip4" or "ip6".
// IPv4 addresses are never in IPv6-mapped form. The host is
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
	a, err := c.lookup(ctx, types, host)
	if err != nil {
		err.Name = host
		return nil, err
	}
	return c.ordered(a.addrs), nil
}

// maxAddrs bounds the addresses of a name in each family. If it has more, any of them will
// do.
const maxAddrs = 128

// ordered returns the addresses in the order in which to try them. It changes the list.
func (c *Client) ordered(addrs []netip.Addr) []netip.Addr {
	left := map[int]int{32: maxAddrs, 128: maxAddrs}
	addrs = slices.DeleteFunc(addrs, func(addr netip.Addr) bool {
		left[addr.BitLen()]--
		return left[addr.BitLen()] < 0
	})
	if c.source != nil {
		Sort(addrs, c.source)
	}
	return addrs
}

// typesOf has the types of the records to ask for. Package net asks for aliases too when it
// looks for a canonical name: an alias may lead to a name that cannot be resolved.
var typesOf = map[string][]dnsmessage.Type{
	"ip":    {dnsmessage.TypeA, dnsmessage.TypeAAAA},
	"ip4":   {dnsmessage.TypeA},
	"ip6":   {dnsmessage.TypeAAAA},
	"CNAME": {dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME},
}

// An answer is what a lookup has found.
type answer struct {
	name    string // the canonical name
	addrs   []netip.Addr
	records []dnsmessage.ResourceBody
	lost    *net.DNSError // why the records of another type are not known, or nil
}

// lookup finds the addresses of a host.
func (c *Client) lookup(ctx context.Context, types []dnsmessage.Type, host string) (answer, *net.DNSError) {
	a := answer{name: hostName(host)}
	addr, err := netip.ParseAddr(host)
	known, ok := []netip.Addr{addr.Unmap()}, err == nil
	if !ok {
		known, ok = c.hosts.addrs(host)
	}
	if ok {
		for _, typ := range types {
			a.addrs = append(a.addrs, ofType(typ, known)...)
		}
		switch {
		case len(a.addrs) > 0:
			return a, nil
		case len(known) > 0:
			return a, dnsError(errNoSuitable, "")
		}
		return a, dnsError(errNoSuchHost, "")
	}
	if host == "." {
		return a, dnsError(errNoSuchHost, "")
	}
	failed := c.tryNames(host, func(name string) (err *net.DNSError) {
		a, err = c.lookupName(ctx, types, name)
		return err
	})
	return a, failed
}

// tryNames tries the absolute names that a name stands for, until one is found.
func (c *Client) tryNames(host string, try func(name string) *net.DNSError) *net.DNSError {
	notFound := dnsError(errNoSuchHost, "")
	if !isDomain(host) || isBelow(host, "localhost") || isBelow(host, "onion") {
		return notFound
	}
	var failed *net.DNSError
	for _, name := range c.candidates(host) {
		switch err := try(name); {
		case err == nil:
			return nil
		case err.IsNotFound:
			notFound = err
		case !isServerError(err):
			// No server has answered, and the next name would take as long.
			return err
		default:
			failed = err
		}
	}
	// A name without an answer may exist.
	if failed != nil {
		return failed
	}
	return notFound
}

// lookupName asks for the records of an absolute name, in parallel.
func (c *Client) lookupName(ctx context.Context, types []dnsmessage.Type, name string) (answer, *net.DNSError) {
	outer := ctx
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	type result struct {
		answer
		err *net.DNSError
	}
	results := make([]result, len(types))
	done := make(chan *result, len(types))
	for i, typ := range types {
		go func() {
			r := &results[i]
			r.answer, r.err = c.resolve(ctx, typ, name)
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
		a   answer
		err *net.DNSError
	)
	for _, r := range results {
		switch {
		case r.err == nil && a.name == "":
			a = r.answer
		case r.err == nil:
			a.addrs = append(a.addrs, r.addrs...)
		case err == nil, weight(r.err) > weight(err):
			err = r.err
		}
	}
	if a.name != "" {
		switch {
		case err == nil || err.IsNotFound:
		case outer.Err() == nil && errors.Is(err, context.Canceled):
			a.lost = dnsError(context.DeadlineExceeded, err.Server)
		default:
			a.lost = err
		}
		return a, nil
	}
	return answer{}, err
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

// resolve follows the aliases from an absolute name to its records of one type.
func (c *Client) resolve(ctx context.Context, typ dnsmessage.Type, name string) (answer, *net.DNSError) {
	chain := []string{name}
	for {
		q, err := dnsmessage.NewName(chain[len(chain)-1])
		if err != nil {
			return answer{}, dnsError(err, "")
		}
		r, failed := c.ask(ctx, dnsmessage.Question{Name: q, Type: typ, Class: dnsmessage.ClassINET})
		if failed != nil {
			return answer{}, failed
		}
		asked := len(chain)
		chain, err = r.follow(chain)
		if err != nil {
			return answer{}, dnsError(err, r.server)
		}
		last := chain[len(chain)-1]
		records := r.recordsOf(last)
		switch {
		case typ == dnsmessage.TypeCNAME && len(chain) > 1:
			return answer{name: last}, nil
		case r.rcode == dnsmessage.RCodeNameError:
			// It is about the last name of the chain, even if the chain leaves the
			// answer (RFC 6604, section 3).
			return answer{}, dnsError(errNoSuchHost, r.server)
		case len(records) > 0:
			return answer{name: last, addrs: addrsOf(records), records: records}, nil
		case len(chain) == asked, r.denies(last):
			return answer{}, dnsError(errNoData, r.server)
		}
	}
}

// addrsOf returns the addresses in records, each once.
func addrsOf(records []dnsmessage.ResourceBody) []netip.Addr {
	var addrs []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, r := range records {
		var a netip.Addr
		switch r := r.(type) {
		case *dnsmessage.AResource:
			a = netip.AddrFrom4(r.A)
		case *dnsmessage.AAAAResource:
			a = netip.AddrFrom16(r.AAAA)
		default:
			continue
		}
		if !seen[a] {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// ofType returns the addresses that records of the type can hold.
func ofType(typ dnsmessage.Type, addrs []netip.Addr) []netip.Addr {
	bits := map[dnsmessage.Type]int{dnsmessage.TypeA: 32, dnsmessage.TypeAAAA: 128}[typ]
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.BitLen() != bits })
}
