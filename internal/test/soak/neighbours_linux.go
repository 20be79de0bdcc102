package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// overflows returns how often the machine had no room for a neighbour:
//
//   - The kernel has one table of IPv4 neighbours and one of IPv6 for all network
//     namespaces together. When other programs fill them, no stack can resolve addresses
//     (net.ipv4.neigh.default.gc_thresh3, and the same of ipv6).
//   - Only the machine's own namespace shows that. The parent of this process is in it;
//     otherwise overflows is always 0.
func overflows() (n uint64) {
	for _, table := range []string{"arp_cache", "ndisc_cache"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/stat/%s", os.Getppid(), table))
		if err != nil {
			continue
		}
		// A line of names, and one of hexadecimal numbers for each processor.
		lines := strings.Split(string(text), "\n")
		column := slices.Index(strings.Fields(lines[0]), "table_fulls")
		for _, line := range lines[1:] {
			if f := strings.Fields(line); column >= 0 && column < len(f) {
				v, _ := strconv.ParseUint(f[column], 16, 64)
				n += v
			}
		}
	}
	return n
}
