package dns

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
)

// Sort puts destination addresses in the order in which to try them, by the
// rules of RFC 6724, section 6. The function source returns the source address
// that the stack would use for a destination, and false if it has none; it is
// called once for each, and only if there are two or more.
//
// Of the ten rules, three have no input here and hold for no address: whether a
// source is deprecated (rule 3; the kernel takes one only if it has no other),
// a home address (rule 4), or used through a tunnel (rule 7). The longest
// matching prefix (rule 9) counts for IPv6 only: IPv4 addresses are not given
// out by topology, and the rule would undo the order in which a server spreads
// load.
func Sort(dsts []netip.Addr, source func(dst netip.Addr) (netip.Addr, bool)) {
	if len(dsts) < 2 {
		return
	}
	candidates := make([]candidate, len(dsts))
	for i, dst := range dsts {
		src, usable := source(dst)
		candidates[i] = newCandidate(dst, src, usable && src.IsValid())
	}
	slices.SortStableFunc(candidates, compare)
	for i, c := range candidates {
		dsts[i] = c.dst
	}
}

// A candidate is a destination, and what the rules want to know of it.
type candidate struct {
	dst        netip.Addr
	usable     bool // rule 1; nothing else counts if it is not
	sameScope  bool // rule 2: the source has the scope of the destination
	sameLabel  bool // rule 5: and its label
	precedence int  // rule 6
	scope      int  // rule 8
	prefix     int  // rule 9: bits in common with the source, for IPv6
}

func newCandidate(dst, src netip.Addr, usable bool) candidate {
	c := candidate{dst: dst, usable: usable}
	if !usable {
		return c
	}
	dst, src = dst.Unmap(), src.Unmap()
	dstPolicy, srcPolicy := policyOf(dst), policyOf(src)
	c.scope, c.precedence = scope(dst), dstPolicy.precedence
	c.sameScope = c.scope == scope(src)
	c.sameLabel = dstPolicy.label == srcPolicy.label
	if dst.Is6() && src.Is6() {
		c.prefix = commonPrefix(dst, src)
	}
	return c
}

// compare orders two candidates, the better one first. Equal ones stay as they
// are (rule 10).
func compare(a, b candidate) int {
	rules := []int{
		prefer(a.usable, b.usable),
		prefer(a.sameScope, b.sameScope),
		prefer(a.sameLabel, b.sameLabel),
		cmp.Compare(b.precedence, a.precedence),
		cmp.Compare(a.scope, b.scope),
	}
	if a.dst.Unmap().Is6() && b.dst.Unmap().Is6() {
		rules = append(rules, cmp.Compare(b.prefix, a.prefix))
	}
	return cmp.Or(rules...)
}

func prefer(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

type policy struct {
	prefix            netip.Prefix
	precedence, label int
}

// policies is the default table of RFC 6724, section 2.1, the longest prefixes
// first.
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

// Scopes are those of multicast addresses (RFC 4291, section 2.7).
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

// commonPrefix returns how many leading bits two IPv6 addresses share, at most
// the 64 that are not the interface identifier.
func commonPrefix(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	n := 0
	for i := range 8 {
		same := bits.LeadingZeros8(x[i] ^ y[i])
		n += same
		if same < 8 {
			break
		}
	}
	return n
}
