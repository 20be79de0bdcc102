package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vdestack/vdestack/internal/dns"
)

// DNS says how a stack resolves names. Nothing of the host's configuration is
// used.
type DNS struct {
	// Servers are asked in this order, from within the stack. Port 0 means 53.
	Servers []netip.AddrPort
	// Search are domains that are appended to names with fewer than Ndots dots, as in
	// resolv.conf(5).
	Search []string
	// Ndots is how many dots make a name be tried first as it is. 0 means 1.
	Ndots int
	// Hosts are names that are known without asking, as in hosts(5).
	Hosts map[string][]netip.Addr
	// Cache is how many answers of the servers are kept, each for the time that its
	// server gives, a day at most; what does not exist too, for three hours at most
	// (RFC 2308). Larger ones than 4 KiB are not kept. 0 keeps none. SetDNS begins with
	// an empty cache. Commands have none.
	Cache int
}

// isZero reports whether d is the zero DNS.
func (d *DNS) isZero() bool {
	return len(d.Servers) == 0 && len(d.Search) == 0 && d.Ndots == 0 && len(d.Hosts) == 0 && d.Cache == 0
}

// clone returns a copy that shares nothing with d.
func (d DNS) clone() DNS {
	d.Servers, d.Search, d.Hosts = slices.Clone(d.Servers), slices.Clone(d.Search), maps.Clone(d.Hosts)
	for name, addrs := range d.Hosts {
		d.Hosts[name] = slices.Clone(addrs)
	}
	return d
}

func (d *DNS) check() error {
	if d.isZero() {
		return nil
	}
	_, err := dns.New(dns.Config{Servers: d.Servers, Search: d.Search, Ndots: d.Ndots, Hosts: d.Hosts, Cache: d.Cache},
		func(context.Context, string, string) (net.Conn, error) { return nil, errors.ErrUnsupported })
	return err
}

// resolvConf returns a resolv.conf(5), and the servers that it cannot express: it has
// no ports.
func (d *DNS) resolvConf() (text string, untold []string) {
	var b strings.Builder
	for _, s := range d.Servers {
		if s.Port() != 0 && s.Port() != 53 {
			untold = append(untold, s.String())
			continue
		}
		fmt.Fprintf(&b, "nameserver %s\n", s.Addr().Unmap())
	}
	search := strings.Join(d.Search, " ")
	if search == "" {
		search = "." // the default is the domain of the machine's name
	}
	fmt.Fprintf(&b, "search %s\n", search)
	if d.Ndots > 1 {
		fmt.Fprintf(&b, "options ndots:%d\n", d.Ndots)
	}
	return b.String(), untold
}

// hosts returns a hosts(5), and the hosts that it cannot express: it has no zones, and
// no names without addresses.
func (d *DNS) hosts() (text string, untold []string) {
	var b strings.Builder
	name := func(s string) string { return strings.TrimSuffix(s, ".") }
	if !slices.ContainsFunc(slices.Collect(maps.Keys(d.Hosts)), func(s string) bool { return strings.EqualFold(name(s), "localhost") }) {
		b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	}
	for _, host := range slices.Sorted(maps.Keys(d.Hosts)) {
		for _, a := range d.Hosts[host] {
			if a.Zone() != "" {
				untold = append(untold, fmt.Sprintf("%s %v", host, a))
				continue
			}
			fmt.Fprintf(&b, "%s %s\n", a.Unmap(), name(host))
		}
		if len(d.Hosts[host]) == 0 {
			untold = append(untold, host+" without an address")
		}
	}
	return b.String(), untold
}

// onlyFilesAndDNS replaces the hosts line of an nsswitch.conf(5), so that no service of
// the machine is asked for hosts. Users and groups stay those of the machine.
func onlyFilesAndDNS(conf string) string {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		if key, _, _ := strings.Cut(line, ":"); strings.TrimSpace(key) != "hosts" {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String() + "hosts: files dns\n"
}
