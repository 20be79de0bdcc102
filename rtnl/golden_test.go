package rtnl

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
)

var (
	zeroPrefix netip.Prefix
	zeroAddr   netip.Addr

	mustAddr   = netip.MustParseAddr
	mustPrefix = netip.MustParsePrefix
)

// TestRequests compares the first request of a connection, header with
// sequence number 1 and port 0 included, with the bytes of C nlinline.
// The numbers are those of a little-endian machine.
func TestRequests(t *testing.T) {
	if nativeBig() {
		t.Skip("the bytes are little-endian")
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	tests := []struct {
		name string
		do   func(c *Conn) error
		size int
		want string
	}{
		{"name lookup", func(c *Conn) error { _, err := c.IfNameToIndex("lo"); return err }, 40,
			"28000000 1200 0500 01000000 00000000 | 00000000 00000000 00000000 00000000 | 0700 0300 6c6f0000"},
		{"up", func(c *Conn) error { return c.LinkSetUp(2) }, 32,
			"20000000 1300 0500 01000000 00000000 | 00000000 02000000 01000000 01000000"},
		{"down", func(c *Conn) error { return c.LinkSetDown(2) }, 32,
			"20000000 1300 0500 01000000 00000000 | 00000000 02000000 00000000 01000000"},
		{"set hardware address", func(c *Conn) error { return c.LinkSetAddr(2, mac) }, 44,
			"2c000000 1000 0500 01000000 00000000 | 00000000 02000000 00000000 00000000 | 0a00 0100 020000000001 0000"},
		{"get hardware address", func(c *Conn) error { _, err := c.LinkAddr(2); return err }, 32,
			"20000000 1200 0100 01000000 00000000 | 00000000 02000000 00000000 00000000"},
		{"set MTU", func(c *Conn) error { return c.LinkSetMTU(2, 1400) }, 40,
			"28000000 1000 0500 01000000 00000000 | 00000000 02000000 00000000 00000000 | 0800 0400 78050000"},
		{"add address", func(c *Conn) error { return c.AddrAdd(2, mustPrefix("10.1.2.3/24")) }, 40,
			"28000000 1400 0506 01000000 00000000 | 02 18 00 00 02000000 | 0800 0200 0a010203 | 0800 0100 0a010203"},
		{"delete address", func(c *Conn) error { return c.AddrDel(2, mustPrefix("10.1.2.3/24")) }, 40,
			"28000000 1500 0500 01000000 00000000 | 02 18 00 00 02000000 | 0800 0200 0a010203 | 0800 0100 0a010203"},
		{"add IPv6 address", func(c *Conn) error { return c.AddrAdd(2, mustPrefix("fc00::1/64")) }, 64,
			"40000000 1400 0506 01000000 00000000 | 0a 40 00 00 02000000 |" +
				"1400 0200 fc000000000000000000000000000001 | 1400 0100 fc000000000000000000000000000001"},
		{"default route", func(c *Conn) error { return c.RouteAdd(netip.Prefix{}, mustAddr("10.1.2.254"), 0) }, 44,
			"2c000000 1800 0506 01000000 00000000 | 02 00 00 00 fe 03 00 01 00000000 | 0800 0000 00000000 | 0800 0500 0a0102fe"},
		{"default route, prefix given", func(c *Conn) error { return c.RouteAdd(mustPrefix("0.0.0.0/0"), mustAddr("10.1.2.254"), 3) }, 44,
			"2c000000 1800 0506 01000000 00000000 | 02 00 00 00 fe 03 00 01 00000000 | 0800 0400 03000000 | 0800 0500 0a0102fe"},
		{"delete default route", func(c *Conn) error { return c.RouteDel(netip.Prefix{}, mustAddr("10.1.2.254"), 0) }, 44,
			"2c000000 1900 0500 01000000 00000000 | 02 00 00 00 fe 03 00 01 00000000 | 0800 0000 00000000 | 0800 0500 0a0102fe"},
		{"IPv6 default route", func(c *Conn) error { return c.RouteAdd(netip.Prefix{}, mustAddr("fc00::fe"), 0) }, 56,
			"38000000 1800 0506 01000000 00000000 | 0a 00 00 00 fe 03 00 01 00000000 | 0800 0000 00000000 |" +
				"1400 0500 fc0000000000000000000000000000fe"},
		{"route", func(c *Conn) error { return c.RouteAdd(mustPrefix("10.9.0.0/16"), mustAddr("10.1.2.254"), 0) }, 52,
			"34000000 1800 0506 01000000 00000000 | 02 10 00 00 fe 03 00 01 00000000 | 0800 0000 00000000 |" +
				"0800 0100 0a090000 | 0800 0500 0a0102fe"},
		{"device route", func(c *Conn) error { return c.RouteAdd(mustPrefix("10.9.0.0/16"), netip.Addr{}, 2) }, 44,
			"2c000000 1800 0506 01000000 00000000 | 02 10 00 00 fe 03 00 01 00000000 | 0800 0400 02000000 | 0800 0100 0a090000"},
		{"blackhole", func(c *Conn) error { return c.RouteAdd(mustPrefix("10.9.9.0/24"), netip.Addr{}, 0, Blackhole) }, 44,
			"2c000000 1800 0506 01000000 00000000 | 02 18 00 00 fe 03 00 06 00000000 | 0800 0000 00000000 | 0800 0100 0a090900"},
		{"address, no duplicate detection", func(c *Conn) error { return c.AddrAdd(2, mustPrefix("fc00::1/64"), NoDAD) }, 64,
			"40000000 1400 0506 01000000 00000000 | 0a 40 02 00 02000000 |" +
				"1400 0200 fc000000000000000000000000000001 | 1400 0100 fc000000000000000000000000000001"},
		{"add link", func(c *Conn) error { _, err := c.LinkAdd(LinkSpec{Name: "d0", Kind: "bridge"}); return err }, 56,
			"38000000 1000 0506 01000000 00000000 | 00000000 00000000 00000000 00000000 | 0700 0300 64300000 |" +
				"1000 1200 | 0b00 0100 62726964676500 00"},
		{"add vde link", func(c *Conn) error {
			_, err := c.LinkAdd(LinkSpec{Name: "v", Kind: "vde", Index: 5, Data: []netlink.Attribute{{Type: 1, Data: []byte("vxvde://\x00")}}})
			return err
		}, 72,
			"48000000 1000 0506 01000000 00000000 | 00000000 05000000 00000000 00000000 | 0600 0300 76000000 |" +
				"2000 1200 | 0800 0100 76646500 | 1400 0200 | 0d00 0100 76787664653a2f2f00 000000"},
		{"delete link", func(c *Conn) error { return c.LinkDel(7) }, 32,
			"20000000 1100 0500 01000000 00000000 | 00000000 07000000 00000000 00000000"},
		{"delete link by name", func(c *Conn) error { return c.LinkDelName("d0") }, 40,
			"28000000 1100 0500 01000000 00000000 | 00000000 00000000 00000000 00000000 | 0700 0300 64300000"},
		{"delete blackhole", func(c *Conn) error { return c.RouteDel(mustPrefix("10.9.9.0/24"), netip.Addr{}, 0, Blackhole) }, 44,
			"2c000000 1900 0500 01000000 00000000 | 02 18 00 00 fe 03 00 06 00000000 | 0800 0000 00000000 | 0800 0100 0a090900"},
		{"delete address with flags and scope", func(c *Conn) error { return c.AddrDel(2, mustPrefix("fc00::1/64"), NoDAD, ScopeLink) }, 64,
			"40000000 1500 0500 01000000 00000000 | 0a 40 02 fd 02000000 |" +
				"1400 0200 fc000000000000000000000000000001 | 1400 0100 fc000000000000000000000000000001"},
		{"list links", func(c *Conn) error { _, err := c.Links(); return err }, 32,
			"20000000 1200 0103 01000000 00000000 | 00000000 00000000 00000000 00000000"},
		// What C nlinline does not have, in the bytes of ip(8).
		{"add vlan", func(c *Conn) error {
			_, err := c.LinkAdd(LinkSpec{Name: "v5", Kind: "vlan", Index: 9, Parent: 2, VLAN: 5})
			return err
		}, 76,
			"4c000000 1000 0506 01000000 00000000 | 00000000 09000000 00000000 00000000 | 0700 0300 76350000 |" +
				"0800 0500 02000000 | 1c00 1200 | 0900 0100 766c616e 00 000000 | 0c00 0200 | 0600 0100 0500 0000"},
		{"wide table", func(c *Conn) error {
			return c.RouteAdd(mustPrefix("10.9.0.0/16"), netip.Addr{}, 2, Table(1000), Metric(7), ScopeLink, ProtocolStatic, Source(mustAddr("10.1.2.3")))
		}, 68,
			"44000000 1800 0506 01000000 00000000 | 02 10 00 00 00 04 fd 01 00000000 | 0800 0400 02000000 | 0800 0100 0a090000 |" +
				"0800 0700 0a010203 | 0800 0600 07000000 | 0800 0f00 e8030000"},
		{"route of every attribute", func(c *Conn) error {
			return c.RouteAdd(mustPrefix("fd01::/64"), mustAddr("fd00::9"), 2, From(mustPrefix("fd02::/64")), PrefHigh,
				Metrics{MTU: 1400, CongCtl: "reno"}, OnLink, Encap{Type: 4, Data: "\x08\x00\x01\x00abcd"})
		}, 148,
			"94000000 1800 0506 01000000 00000000 | 0a 40 40 00 fe 03 00 01 04000000 | 0800 0400 02000000 |" +
				"1400 0100 fd010000000000000000000000000000 | 1400 0500 fd000000000000000000000000000009 |" +
				"1400 0200 fd020000000000000000000000000000 | 0600 1500 0400 0000 | 0c00 1600 0800 0100 61626364 |" +
				"1800 0800 | 0800 0200 78050000 | 0900 1000 72656e6f00 000000 | 0500 1400 01 000000"},
		{"route that expires", func(c *Conn) error {
			return c.RouteAppend(netip.Prefix{}, mustAddr("fe80::9"), 2, Metric(2048), ProtocolRA, PrefLow, Expires(30*time.Minute))
		}, 80,
			"50000000 1800 050c 01000000 00000000 | 0a 00 00 00 fe 09 00 01 00000000 | 0800 0400 02000000 |" +
				"1400 0500 fe800000000000000000000000000009 | 0800 0600 00080000 | 0500 1400 03 000000 | 0800 1700 08070000"},
		{"replace address", func(c *Conn) error {
			return c.AddrReplace(2, mustPrefix("10.1.2.3/24"), Lifetime{Valid: 2 * time.Hour, Preferred: time.Hour})
		}, 60,
			"3c000000 1400 0505 01000000 00000000 | 02 18 00 00 02000000 | 0800 0200 0a010203 | 0800 0100 0a010203 |" +
				"1400 0600 100e0000 201c0000 00000000 00000000"},
		{"route by next hop", func(c *Conn) error {
			return c.RouteAdd(mustPrefix("10.9.0.0/16"), netip.Addr{}, 0, NextHopID(7), TOS(0x10), Realm(5))
		}, 52,
			"34000000 1800 0506 01000000 00000000 | 02 10 00 10 fe 03 00 01 00000000 | 0800 0000 00000000 | 0800 0100 0a090000 |" +
				"0800 1e00 07000000"},
		{"wide flags", func(c *Conn) error {
			return c.AddrAdd(2, mustPrefix("10.1.2.3/24"), NoPrefixRoute, ScopeHost, Label("x:1"))
		}, 56,
			"38000000 1400 0506 01000000 00000000 | 02 18 00 fe 02000000 | 0800 0200 0a010203 | 0800 0100 0a010203 |" +
				"0800 0300 783a3100 | 0800 0800 00020000"},
		{"add rule", func(c *Conn) error {
			return c.RuleAdd(Rule{Src: mustPrefix("10.0.0.0/8"), IPProto: 6, SrcPorts: PortRange{80, 80}, Table: 1000})
		}, 60,
			"3c000000 2000 0506 01000000 00000000 | 02 00 08 00 fc 00 00 01 00000000 | 0800 0200 0a000000 | 0800 0f00 e8030000 |" +
				"0500 1600 06 000000 | 0800 1700 5000 5000"},
		{"add IPv6 rule", func(c *Conn) error {
			return c.RuleAdd(Rule{IPv6: true, Priority: 5, Invert: true, Mark: 7, OIF: "v0", MinPrefixLen: 1, Protocol: ProtocolStatic})
		}, 84,
			"54000000 2000 0506 01000000 00000000 | 0a 00 00 00 fe 00 00 01 02000000 | 0700 1100 763000 00 | 0800 0600 05000000 |" +
				"0800 0a00 07000000 | 0800 1000 ffffffff | 0800 0e00 00000000 | 0800 0f00 fe000000 | 0500 1500 04 000000"},
		{"list rules", func(c *Conn) error { _, err := c.Rules(); return err }, 28,
			"1c000000 2200 0103 01000000 00000000 | 02000000 00000000 00000000"},
		{"add neighbour", func(c *Conn) error {
			return c.NeighborAdd(Neighbor{IfIndex: 2, Addr: mustAddr("10.1.2.9"), HardwareAddr: mac})
		}, 48,
			"30000000 1c00 0506 01000000 00000000 | 02000000 02000000 8000 00 00 | 0800 0100 0a010209 | 0a00 0200 020000000001 0000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.NewReplacer(" ", "", "|", "").Replace(tt.want))
			if err != nil {
				t.Fatal(err)
			}
			c, f := dialFake(t, func(req netlink.Message) []any {
				link := append(ifInfo{index: 2}.encode(), "\x0a\x00\x01\x00\x02\x00\x00\x00\x00\x01\x00\x00"...)
				answer := []any{reply(req, rtmNewLink, 0, link), ack(req, 0, "")}
				switch {
				case req.Header.Type != rtmGetLink:
					return answer[1:]
				case req.Header.Flags&netlink.Dump != 0:
					return []any{done(req)}
				case req.Header.Flags&netlink.Acknowledge == 0:
					return answer[:1]
				}
				return answer
			})
			if err := tt.do(c); err != nil {
				t.Fatal(err)
			}
			if got := f.sent[0]; len(got) != tt.size || string(got) != string(want) {
				t.Errorf("got  %x (%d bytes)\nwant %x (%d bytes)", got, len(got), want, tt.size)
			}
		})
	}
}
