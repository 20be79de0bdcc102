package rd

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

func join(lines []string) string { return strings.Join(lines, "\n") }

// TestAdvertisement has all that an advertisement can say.
func TestAdvertisement(t *testing.T) {
	eui64 := source.Config{AddrGen: source.AddrEUI64}
	hash := source.Config{AddrGen: source.AddrHash, Hash: func(base netip.Addr) netip.Addr {
		a := base.As16()
		a[15] = 99
		return netip.AddrFrom16(a)
	}}
	with := func(o *ndp.PrefixInformation, onLink, autonomous bool) *ndp.PrefixInformation {
		o.OnLink, o.AutonomousAddressConfiguration = onLink, autonomous
		return o
	}
	temporary := eui64
	temporary.Temporary = true
	router := "::/0 via fe80::1 +0 for 30m0s"
	onLink := "2001:db8:0:1::/64 on the link for 2h0m0s"
	for _, tt := range []struct {
		name    string
		cfg     source.Config
		options []ndp.Option
		want    []string
	}{
		{"nothing", eui64, nil, []string{router}},
		{"prefix", eui64, []ndp.Option{prefix(net1, time.Hour, 2*time.Hour)}, []string{"2001:db8:0:1:0:ff:fe00:42/64 preferred 1h0m0s valid 2h0m0s", router, onLink}},
		{"without SLAAC", source.Config{Temporary: true}, []ndp.Option{prefix(net1, time.Hour, 2*time.Hour)}, []string{router, onLink}},
		{"by hash", hash, []ndp.Option{prefix(net1, time.Hour, 2*time.Hour)}, []string{"2001:db8:0:1::63/64 preferred 1h0m0s valid 2h0m0s", router, onLink}},
		{"hash without a name", source.Config{AddrGen: source.AddrHash}, []ndp.Option{prefix(net1, time.Hour, 2*time.Hour)}, []string{router, onLink}},
		{"not autonomous", eui64, []ndp.Option{with(prefix(net1, time.Hour, 2*time.Hour), true, false)}, []string{router, onLink}},
		{"not autonomous, by hash", hash, []ndp.Option{with(prefix(net1, time.Hour, 2*time.Hour), true, false)}, []string{"2001:db8:0:1::63/64 preferred 1h0m0s valid 2h0m0s", router, onLink}},
		{"not on the link", eui64, []ndp.Option{with(prefix(net1, time.Hour, 2*time.Hour), false, true)}, []string{"2001:db8:0:1:0:ff:fe00:42/64 preferred 1h0m0s valid 2h0m0s", router}},
		{"neither", eui64, []ndp.Option{with(prefix(net1, time.Hour, 2*time.Hour), false, false)}, []string{router}},
		{"temporary", temporary, []ndp.Option{prefix(net1, time.Hour, 2*time.Hour)}, []string{"2001:db8:0:1:0:ff:fe00:42/64 preferred 1h0m0s valid 2h0m0s temporary", router, onLink}},
		{"for ever", eui64, []ndp.Option{prefix(net1, ndp.Infinity, ndp.Infinity)}, []string{"2001:db8:0:1:0:ff:fe00:42/64 preferred ever valid ever", router, "2001:db8:0:1::/64 on the link for ever"}},
		{"deprecated", eui64, []ndp.Option{prefix(net1, 0, 2*time.Hour)}, []string{"2001:db8:0:1:0:ff:fe00:42/64 preferred 0s valid 2h0m0s", router, onLink}},
		{"preferred for longer than valid", eui64, []ndp.Option{prefix(net1, 3*time.Hour, 2*time.Hour)}, []string{router, onLink}},
		{"not valid", eui64, []ndp.Option{prefix(net1, 0, 0)}, []string{router}},
		{"another length", eui64, []ndp.Option{prefix(netip.MustParsePrefix("2001:db8::/63"), time.Hour, time.Hour)}, []string{router, "2001:db8::/63 on the link for 1h0m0s"}},
		{"prefixes of no network", eui64, []ndp.Option{
			prefix(netip.MustParsePrefix("fe80::/64"), time.Hour, time.Hour), prefix(netip.MustParsePrefix("ff02::/64"), time.Hour, time.Hour),
			prefix(netip.MustParsePrefix("::/0"), time.Hour, time.Hour), prefix(netip.MustParsePrefix("::1/128"), time.Hour, time.Hour),
			raw(3, append([]byte{129, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0}, net1.Addr().AsSlice()...)...),
			raw(3, append([]byte{64, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 10, 0, 0, 1)...), raw(3),
		}, []string{router}},
		{"MTU", eui64, []ndp.Option{ndp.NewMTU(1500), ndp.NewMTU(1279), ndp.NewMTU(1 << 31)}, []string{router, "mtu 1500"}},
		{"DNS", eui64, []ndp.Option{
			&ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{netip.MustParseAddr("2001:db8::53"), router1, netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("::ffff:10.0.0.1")}},
			&ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: []netip.Addr{router2}}, raw(25), raw(25, make([]byte, 14)...),
		}, []string{router, "dns 2001:db8::53 for 1h0m0s", "dns fe80::1 for 1h0m0s", "dns fe80::2 for ever"}},
		{"search", eui64, []ndp.Option{
			&ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: []string{"lab.example", "bücher.example", "example"}},
			raw(31, 0, 0, 0, 0, 0, 9), raw(31, 0, 0, 0, 0, 0, 9, 7, 'a', 'b', 'c', 'd', 'e', 'f', 'g'), raw(31, 0, 0, 0, 0, 0, 9, 1, ' ', 0), raw(31, 0, 0, 0, 0, 0, 9, 3, 'a', '.', 'b', 0),
			raw(31, 0, 0, 0, 0, 0, 9, 0xc0, 6), raw(31, append([]byte{0, 0, 0, 0, 0, 9, 64}, make([]byte, 71)...)...), raw(31, 0, 0, 0, 0, 0, 9, 6, 'a', 'b', 'c', 'd', 'e', 'f', 0),
		}, []string{router, "search lab.example for 1h0m0s", "search xn--bcher-kva.example for 1h0m0s", "search example for 1h0m0s", "search abcdef for 9s"}},
		{"routes", eui64, []ndp.Option{
			raw(24, 60, 0x08, 0, 0, 0, 9, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0x1f), raw(24, 128, 0x18, 0, 0, 0, 9, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
			raw(24, 64, 0x10, 0, 0, 0, 9, 0xfd, 1, 0, 0, 0, 0, 0, 0), raw(24, 65, 0, 0, 0, 0, 9, 0xfd, 2, 0, 0, 0, 0, 0, 0), raw(24, 1, 0, 0, 0, 0, 9), raw(24, 129),
			raw(24, 64, 0, 0, 0, 0, 9, 0xfe, 0x80, 0, 0, 0, 0, 0, 0), raw(24, 8, 0, 0, 0, 0, 9, 0xff, 0, 0, 0, 0, 0, 0, 0),
		}, []string{router, "2001:db8:0:10::/60 via fe80::1 +1 for 9s", "fd00::1/128 via fe80::1 -1 for 9s"}},
		{"a route decides about the default route", eui64, []ndp.Option{raw(24, 0, 0x08, 0, 0, 0, 9)}, []string{"::/0 via fe80::1 +1 for 9s"}},
		{"a route ends the default route", eui64, []ndp.Option{raw(24, 0, 0x08, 0, 0, 0, 0), ndp.NewMTU(1400), prefix(net1, 0, time.Hour)}, []string{
			"2001:db8:0:1:0:ff:fe00:42/64 preferred 0s valid 1h0m0s", "2001:db8:0:1::/64 on the link for 1h0m0s", "mtu 1400",
		}},
		{"portal", eui64, []ndp.Option{raw(37, []byte("https://portal.example/"+strings.Repeat("a", 215))...)}, []string{router, "portal https://portal.example/" + strings.Repeat("a", 215)}},
		{"no portal", eui64, []ndp.Option{&ndp.CaptivePortal{URI: ndp.Unrestricted}}, []string{router}},
		{"unknown and malformed options", eui64, []ndp.Option{raw(1, make([]byte, 14)...), raw(200), raw(38), raw(14), raw(5, make([]byte, 14)...)}, []string{router}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, tt.cfg, func(l *lab) {
				l.solicitation()
				l.advertise(router1, tt.options...)
				l.known(append(tt.want, "by fe80::1")...)
			})
		})
	}
}

// TestLong has options of 256 bytes and more, which the codec does not know.
func TestLong(t *testing.T) {
	p := packet(t, router1, &ndp.RouterAdvertisement{})
	uri := "https://portal.example/" + strings.Repeat("a", 301)
	p.Data = append(append(append(p.Data, 37, byte((len(uri)+9)/8)), uri...), make([]byte, (8-(len(uri)+2)%8)%8)...)
	a, ok := parse(p)
	if !ok || a.portal != uri {
		t.Errorf("got %+v, %v", a, ok)
	}
}

// TestInvalid has what RFC 4861, section 6.1.2, has hosts ignore.
func TestInvalid(t *testing.T) {
	good := packet(t, router1, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, Options: []ndp.Option{prefix(net1, time.Hour, time.Hour)}})
	if _, ok := parse(good); !ok {
		t.Fatal("a valid one is ignored")
	}
	for _, tt := range []struct {
		name   string
		change func(p *source.Packet)
	}{
		{"hop limit 254", func(p *source.Packet) { p.HopLimit = 254 }},
		{"no hop limit", func(p *source.Packet) { p.HopLimit = 0 }},
		{"a global source", func(p *source.Packet) { p.Peer = netip.AddrPortFrom(eui1, 0) }},
		{"an IPv4 source", func(p *source.Packet) { p.Peer = netip.MustParseAddrPort("169.254.0.1:0") }},
		{"no source", func(p *source.Packet) { p.Peer = netip.AddrPort{} }},
		{"code 1", func(p *source.Packet) { p.Data[1] = 1 }},
		{"another type", func(p *source.Packet) { p.Data[0] = 136 }},
		{"empty", func(p *source.Packet) { p.Data = nil }},
		{"short", func(p *source.Packet) { p.Data = p.Data[:15] }},
		{"an option of length 0", func(p *source.Packet) { p.Data[17] = 0 }},
		{"an option with less than its length", func(p *source.Packet) { p.Data = p.Data[:len(p.Data)-8] }},
		{"half an option", func(p *source.Packet) { p.Data = append(p.Data, 5, 1, 0, 0) }},
		{"a byte", func(p *source.Packet) { p.Data = append(p.Data, 1) }},
	} {
		p := good
		p.Data = bytes.Clone(good.Data)
		tt.change(&p)
		if a, ok := parse(p); ok {
			t.Errorf("%s: got %+v", tt.name, a)
		}
	}
}

// FuzzAdvertisement has the source follow advertisements.
func FuzzAdvertisement(f *testing.F) {
	f.Add(packet(f, router1, &ndp.RouterAdvertisement{
		RouterLifetime: time.Hour, RouterSelectionPreference: ndp.High, ManagedConfiguration: true,
		Options: []ndp.Option{
			prefix(net1, time.Hour, 2*time.Hour), ndp.NewMTU(1400), &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{eui2}},
			&ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: []string{"lab.example", "example"}},
		},
	}).Data, packet(f, router1, &ndp.RouterAdvertisement{
		Options: []ndp.Option{
			raw(24, 60, 0x08, 0, 0, 0, 9, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0x1f), raw(37, []byte("https://portal.example/")...), prefix(net1, 0, 0),
		},
	}).Data)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := client{cfg: source.Config{AddrGen: source.AddrEUI64}, link: sourcetest.NewLink(), mac: sourcetest.MAC}
		now := time.Now()
		for _, b := range [][]byte{first, second} {
			a, ok := parse(source.Packet{Data: b, Peer: netip.AddrPortFrom(router1, 0), HopLimit: 255})
			if !ok {
				continue
			}
			c.learn(now, a, c.address)
			now = now.Add(10 * time.Second)
			c.expire(now)
			l := c.lease(true)
			if n := max(len(l.Addrs), len(l.Routes), len(l.DNS), len(l.Search)); n > source.MaxItems {
				t.Fatalf("%d items", n)
			}
			for _, a := range l.Addrs {
				if !isHost(a.Prefix.Addr()) || a.Prefix.Bits() != 64 || !a.Valid.IsZero() && (a.Preferred.IsZero() || a.Preferred.After(a.Valid)) {
					t.Errorf("address %+v", a)
				}
			}
			for _, r := range l.Routes {
				if r.Dst != r.Dst.Masked() || r.Preference < -1 || r.Preference > 1 || r.Dst.Bits() == 0 && !r.Gateway.IsValid() {
					t.Errorf("route %+v", r)
				}
			}
			if slices.ContainsFunc(l.DNS, func(s source.Server) bool { return !isHost(s.Addr) }) ||
				slices.ContainsFunc(l.Search, func(d source.Domain) bool { return !source.IsName(d.Name) }) || l.MTU != 0 && l.MTU < minMTU {
				t.Errorf("got %+v", l)
			}
		}
	})
}
