package dns

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// Sort puts destination addresses in the order in which to try them, by the rules of RFC
// 6724, section 6. source returns the stack's source address for a destination, or false;
// it is called once for each, if there are two or more.
//
// Three of the ten rules are left out, as nothing is known about deprecated sources (rule 3;
// the kernel uses one only if it has no other), home addresses (rule 4) and tunnels (rule
// 7). The longest matching prefix (rule 9) counts for IPv6 only: IPv4 addresses do not
// follow the topology, and the rule would undo the order in which a server spreads load.
func Sort(dsts []netip.Addr, source func(dst netip.Addr) (netip.Addr, bool)) {
	if len(dsts) < 2 {
		return
	}
	candidates := make([]candidate, len(dsts))
	for i, dst := range dsts {
		src, usable := source(dst)
		candidates[i] = newCandidate(dst, src, usable && src.IsValid())
	}
	// Equal ones keep their order (rule 10).
	slices.SortStableFunc(candidates, func(a, b candidate) int { return slices.Compare(a.rank[:], b.rank[:]) })
	for i, c := range candidates {
		dsts[i] = c.dst
	}
}

// A candidate is a destination with its rank by rules 1, 2, 5, 6, 8 and 9: a smaller one
// is better.
type candidate struct {
	dst  netip.Addr
	rank [6]int
}

func newCandidate(dst, src netip.Addr, usable bool) candidate {
	c := candidate{dst: dst}
	if !usable {
		c.rank[0] = 1
		return c
	}
	dst, src = dst.Unmap(), src.Unmap()
	dstPolicy, srcPolicy := policyOf(dst), policyOf(src)
	if scope(dst) != scope(src) {
		c.rank[1] = 1
	}
	if dstPolicy.label != srcPolicy.label {
		c.rank[2] = 1
	}
	c.rank[3] = -dstPolicy.precedence
	c.rank[4] = scope(dst)
	if dst.Is6() && src.Is6() { // rule 6 has separated them from IPv4 addresses
		c.rank[5] = -commonPrefix(dst, src)
	}
	return c
}

type policy struct {
	prefix            netip.Prefix
	precedence, label int
}

// policies is the default table of RFC 6724, section 2.1, the longest prefixes first.
var policies = []policy{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.MustParsePrefix("::ffff:0:0/96"), 35, 4}, // IPv4
	{netip.MustParsePrefix("::/96"), 1, 3},
	{netip.MustParsePrefix("2001::/32"), 5, 5},
	{netip.MustParsePrefix("2002::/16"), 30, 2},
	{netip.MustParsePrefix("3ffe::/16"), 1, 12},
	{netip.MustParsePrefix("fec0::/10"), 1, 11},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

func policyOf(addr netip.Addr) policy {
	addr = netip.AddrFrom16(addr.As16()) // without a zone, which no prefix contains
	for _, p := range policies {
		if p.prefix.Contains(addr) {
			return p
		}
	}
	return policy{} // not reached: the last prefix contains all
}

// Scopes, as of multicast addresses (RFC 4291, section 2.7).
const (
	linkLocal = 0x2
	siteLocal = 0x5
	global    = 0xe
)

// scope returns the scope of an address (RFC 6724, sections 3.1 and 3.2).
func scope(addr netip.Addr) int {
	switch {
	case addr.Is6() && addr.IsMulticast():
		return int(addr.As16()[1] & 0xf)
	case addr.IsLoopback(), addr.IsLinkLocalUnicast():
		return linkLocal
	case policyOf(addr).label == 11: // fec0::/10
		return siteLocal
	}
	return global
}

// commonPrefix returns the number of leading bits that two IPv6 addresses share, up to the
// 64 before the interface identifier.
func commonPrefix(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	return bits.LeadingZeros64(binary.BigEndian.Uint64(x[:]) ^ binary.BigEndian.Uint64(y[:]))
}
