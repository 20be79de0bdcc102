package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestSort has the examples of RFC 6724, section 10.2, except for rules 3 and 4, and more for
// each rule. Each is "destination source", the best first.
func TestSort(t *testing.T) {
	tests := []struct {
		name   string
		want   []string
		stable bool // sort the list as it is only
	}{
		{name: "RFC: matching scope", want: []string{"2001:db8:1::1 2001:db8:1::2", "198.51.100.121 169.254.13.78"}},
		{name: "RFC: matching scope, IPv4", want: []string{"198.51.100.121 198.51.100.117", "2001:db8:1::1 fe80::1"}},
		{name: "RFC: higher precedence", want: []string{"2001:db8:1::1 2001:db8:1::2", "10.1.2.3 10.1.2.4"}},
		{name: "RFC: smaller scope", want: []string{"fe80::1 fe80::2", "2001:db8:1::1 2001:db8:1::2"}},
		{name: "RFC: longest matching prefix", want: []string{"2001:db8:1::1 2001:db8:1::2", "2001:db8:3ffe::1 2001:db8:3f44::2"}},
		{name: "RFC: matching label", want: []string{"2002:c633:6401::1 2002:c633:6401::2", "2001:db8:1::1 2002:c633:6401::2"}},
		{name: "RFC: higher precedence, native", want: []string{"2001:db8:1::1 2001:db8:1::2", "2002:c633:6401::1 2002:c633:6401::2"}},
		{name: "rule 1", want: []string{"10.0.0.1 10.0.0.2", "2001:db8::1 -", "fd00::1 -"}, stable: true},
		{name: "rule 1, before all others", want: []string{"10.0.0.1 169.254.0.1", "2001:db8::1 -"}},
		{name: "rule 2, before 6", want: []string{"10.0.0.1 10.0.0.2", "2001:db8::1 fe80::1"}},
		{name: "rule 5, before 6", want: []string{"fd00::1 fd00::2", "2001:db8::1 fd00::2"}},
		{name: "rule 6", want: []string{"::1 ::1", "127.0.0.1 127.0.0.1"}},
		{name: "rule 6, IPv4 before unique local", want: []string{"10.0.0.1 10.0.0.2", "fd00::1 fd00::2"}},
		{name: "rule 6, policies", want: []string{"2001:db8::1 2001:db8::2", "10.0.0.1 10.0.0.2", "2002::1 2002::2", "2001::1 2001::2",
			"fd00::1 fd00::2", "fec0::1 fec0::2"}},
		{name: "rule 8", want: []string{"169.254.0.1 169.254.0.2", "10.0.0.1 10.0.0.2"}},
		{name: "rule 8, multicast", want: []string{"ff02::1 fe80::2", "ff0e::1 2001:db8::2", "ff05::1 2001:db8::2"}},
		{name: "rule 9, at most 64 bits", want: []string{"2001:db8::9 2001:db8::1", "2001:db8::2 2001:db8::1"}, stable: true},
		{name: "rule 9, bits", want: []string{"2001:db8:0:4::1 2001:db8:0:5::1", "2001:db8:0:7::1 2001:db8:0:5::1", "2001:db8:0:8::1 2001:db8:0:5::1"}},
		{name: "rule 9, not for IPv4", want: []string{"10.9.0.1 10.1.0.1", "10.1.0.2 10.1.0.1"}, stable: true},
		{name: "rule 10", want: []string{"10.0.0.3 10.0.0.9", "10.0.0.1 10.0.0.9", "10.0.0.2 10.0.0.9"}, stable: true},
		{name: "zones", want: []string{"fe80::1%vde0 fe80::2", "2001:db8::1 2001:db8::2"}},
		{name: "mapped", want: []string{"2001:db8::1 2001:db8::2", "::ffff:10.0.0.1 10.0.0.2"}},
		{name: "one", want: []string{"10.0.0.1 -"}},
		{name: "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want []netip.Addr
			sources := make(map[netip.Addr]netip.Addr)
			for _, pair := range tt.want {
				dst, src, _ := strings.Cut(pair, " ")
				addr := netip.MustParseAddr(dst)
				want = append(want, addr)
				if src != "-" {
					sources[addr] = netip.MustParseAddr(src)
				}
			}
			source := func(dst netip.Addr) (netip.Addr, bool) {
				src, ok := sources[dst]
				return src, ok
			}
			for _, in := range orders(want, tt.stable) {
				got := slices.Clone(in)
				Sort(got, source)
				if !slices.Equal(got, want) {
					t.Errorf("Sort(%v) = %v, want %v", in, got, want)
				}
			}
		})
	}
}

// orders returns the rotations of a list and of its reverse, or the list alone.
func orders(list []netip.Addr, stable bool) [][]netip.Addr {
	all := [][]netip.Addr{list}
	if stable {
		return all
	}
	reversed := slices.Clone(list)
	slices.Reverse(reversed)
	for i := range list {
		all = append(all, slices.Concat(list[i:], list[:i]), slices.Concat(reversed[i:], reversed[:i]))
	}
	return all
}

// TestSortUsesNoUndefinedSource has a source function that returns true without an address.
func TestSortUsesNoUndefinedSource(t *testing.T) {
	got := addrs("2001:db8::1 10.0.0.1")
	Sort(got, func(dst netip.Addr) (netip.Addr, bool) {
		if dst.Is4() {
			return netip.MustParseAddr("10.0.0.2"), true
		}
		return netip.Addr{}, true
	})
	if want := addrs("10.0.0.1 2001:db8::1"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
