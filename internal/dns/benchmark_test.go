package dns

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func BenchmarkPack(b *testing.B) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("both.example."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pack(0x1234, q, true); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParse reads answers of dnsmasq.
func BenchmarkParse(b *testing.B) {
	msgs := captured(b)
	for _, name := range []string{"a", "cname", "nxdomain"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parseOwn(msgs[name]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSort(b *testing.B) {
	source := netip.MustParseAddr("10.0.0.1")
	list := []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.7")}
	buf := make([]netip.Addr, len(list))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, list)
		Sort(buf, func(dst netip.Addr) (netip.Addr, bool) { return source, dst.Is4() })
	}
	if slices.Equal(buf, list) {
		b.Error("nothing was sorted")
	}
}
