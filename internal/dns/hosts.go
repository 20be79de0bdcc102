package dns

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// hosts has the names that are known without a server.
type hosts struct {
	byName map[string][]netip.Addr // by folded absolute name
	byAddr map[string][]string     // names as they were given, by name of the PTR record
}

var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// noHosts are the hosts of clients without Config.Hosts, which share the maps.
var noHosts = sync.OnceValues(func() (hosts, error) { return makeHosts(nil) })

func newHosts(table map[string][]netip.Addr) (hosts, error) {
	if len(table) == 0 {
		return noHosts()
	}
	return makeHosts(table)
}

func makeHosts(table map[string][]netip.Addr) (hosts, error) {
	h := hosts{byName: map[string][]netip.Addr{"localhost.": loopback}, byAddr: make(map[string][]string)}
	given := make(map[string]string)
	for name, addrs := range table {
		if !isName(name) {
			return h, fmt.Errorf("dns: Hosts: %q is not a host name", name)
		}
		key := fold(absolute(name))
		if other, ok := given[key]; ok {
			return h, fmt.Errorf("dns: Hosts: %q and %q are the same name", min(name, other), max(name, other))
		}
		given[key] = name
		addrs = slices.Clone(addrs)
		for i, a := range addrs {
			if !a.IsValid() {
				return h, fmt.Errorf("dns: Hosts: %q: an address is the zero value", name)
			}
			addrs[i] = a.Unmap()
		}
		h.byName[key] = addrs
	}
	for _, key := range slices.Sorted(maps.Keys(h.byName)) {
		for _, a := range h.byName[key] {
			ptr := reverseName(a)
			h.byAddr[ptr] = append(h.byAddr[ptr], cmp.Or(given[key], "localhost"))
		}
	}
	return h, nil
}

// addrs returns the addresses of a name, and whether no server must be asked for it.
func (h *hosts) addrs(name string) ([]netip.Addr, bool) {
	name = fold(absolute(name))
	if addrs, ok := h.byName[name]; ok {
		return addrs, true
	}
	return loopback, isBelow(name, "localhost") && isName(name)
}

// names returns the names of an address, as in a list of hosts: those with a dot are
// absolute. An address with a zone is not the one without.
func (h *hosts) names(addr netip.Addr) []string {
	var names []string
	for _, name := range h.byAddr[reverseName(addr)] {
		if slices.Contains(h.byName[fold(absolute(name))], addr) {
			names = append(names, hostName(name))
		}
	}
	return names
}

// hostName returns a name as package net writes one of a list of hosts.
func hostName(name string) string {
	if name = strings.TrimSuffix(name, "."); strings.Contains(name, ".") {
		return name + "."
	}
	return name
}
