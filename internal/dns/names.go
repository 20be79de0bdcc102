package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxName is the length of the longest name (RFC 1035, section 2.3.4), written
// without the trailing dot.
const maxName = 253

// isName reports whether s is the name of a host or a service: labels of ASCII letters,
// digits, hyphens and underscores, with or without a trailing dot. Digits alone are a
// mistyped address.
func isName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > maxName {
		return false
	}
	address := true
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case '0' <= c && c <= '9':
			case c == '-', c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
				address = false
			default:
				return false
			}
		}
	}
	return !address
}

// isDomain reports whether s is the name of a domain: as isName, or the root.
func isDomain(s string) bool { return s == "." || isName(s) }

// absolute returns the name with a trailing dot.
func absolute(name string) string { return strings.TrimSuffix(name, ".") + "." }

// fold returns the name in lower case, for comparison. Only ASCII letters have a case (RFC
// 4343); names from the network may have any bytes.
func fold(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// isBelow reports whether the name is the domain or below it. Case and trailing dots do not
// matter.
func isBelow(name, domain string) bool {
	name, domain = fold(absolute(name)), fold(absolute(domain))
	return domain == "." || name == domain || strings.HasSuffix(name, "."+domain)
}

// candidates returns the absolute names to try for a valid name, in the order of
// resolv.conf(5).
func (c *Client) candidates(name string) []string {
	asIs := absolute(name)
	if name == asIs {
		return []string{asIs}
	}
	var names []string
	for _, domain := range c.search {
		if long := asIs + domain; len(long) <= maxName+1 && long != asIs {
			names = append(names, long)
		}
	}
	if strings.Count(name, ".") >= c.ndots {
		return slices.Insert(names, 0, asIs)
	}
	return append(names, asIs)
}

// reverseName returns the name of the PTR record of an address (RFC 1035, section 3.5, and
// RFC 3596, section 2.5).
func reverseName(addr netip.Addr) string {
	var b []byte
	if addr.Is4() {
		a := addr.As4()
		for _, c := range slices.Backward(a[:]) {
			b = append(strconv.AppendUint(b, uint64(c), 10), '.')
		}
		return string(b) + "in-addr.arpa."
	}
	const hex = "0123456789abcdef"
	a := addr.As16()
	for _, c := range slices.Backward(a[:]) {
		b = append(b, hex[c&0xf], '.', hex[c>>4], '.')
	}
	return string(b) + "ip6.arpa."
}
