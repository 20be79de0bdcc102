package vdeplug

import (
	_ "embed"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/vxlan"
)

func TestParseVXLAN(t *testing.T) {
	plain := vxlan.Config{
		VXLAN: true,
		Group: netip.MustParseAddrPort("239.0.0.1:4789"),
		VNI:   1, TTL: 1, Stations: 1024, Expire: 128 * time.Second,
	}
	group := func(s string) func(*vxlan.Config) {
		return func(c *vxlan.Config) { c.Group = netip.MustParseAddrPort(s) }
	}
	remotes := func(list ...string) func(*vxlan.Config) {
		return func(c *vxlan.Config) {
			c.Group = netip.AddrPort{}
			for _, s := range list {
				c.Remotes = append(c.Remotes, netip.MustParseAddrPort(s))
			}
			any := netip.IPv4Unspecified()
			if c.Remotes[0].Addr().Is6() {
				any = netip.IPv6Unspecified()
			}
			c.Listen = netip.AddrPortFrom(any, c.Remotes[0].Port())
		}
	}
	var many []string
	for i := range maxRemotes + 1 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())
	}
	parse := func(l Locator) (cfg vxlan.Config, err error) {
		o, err := parseVXLAN(t.Context(), l)
		if err != nil {
			return cfg, err
		}
		if o.source != nil {
			err = o.begin(nil)
		}
		return o.Config, err
	}
	testParses(t, flat(parse), plain, []parseTest[vxlan.Config]{
		{in: "vxlan://"},
		{in: "vxlan://239.0.0.1/vni=42/if=test0", set: func(c *vxlan.Config) { c.VNI, c.Interface = 42, "test0" }},
		{in: "vxlan:///v6", set: group("[ff05:56de::1]:4789")},
		{in: "vxlan:///port=8472/vni=0/ttl=9", set: func(c *vxlan.Config) {
			group("239.0.0.1:8472")(c)
			c.VNI, c.TTL = 0, 9
		}},
		{in: "vxlan:///remote=10.0.0.2", set: remotes("10.0.0.2:4789")},
		{in: "vxlan:///remote=10.0.0.2,10.0.0.3/port=8472", set: remotes("10.0.0.2:8472", "10.0.0.3:8472")},
		{in: "vxlan:///remote=fd00::2,fd00::3/bind=fd00::1", set: func(c *vxlan.Config) {
			remotes("[fd00::2]:4789", "[fd00::3]:4789")(c)
			c.Bind = netip.MustParseAddr("fd00::1")
		}},
		{in: "vxlan:///remote=localhost/v4", set: remotes("127.0.0.1:4789")},
		{in: "vxlan:///remote=fe80::2%test0", set: func(c *vxlan.Config) {
			remotes("[fe80::2]:4789")(c)
			c.Interface = "test0"
		}},

		{in: "vxlan:///remotes='file:/run/hosts'/vni=7", set: func(c *vxlan.Config) {
			c.Group, c.Listen, c.VNI = netip.AddrPort{}, netip.MustParseAddrPort("0.0.0.0:4789"), 7
			c.Changing, c.Remotes = true, []netip.AddrPort{}
		}},

		{in: "vxlan:///nosuch", err: `vxlan option "nosuch": unknown (have bind, expiretime, hashsize, if, port, rcvbuf, remote, remotes, ttl, v4, v6, vni)`},
		{in: "vxlan:///vni=daemon", err: `"vni=daemon": must be a number from 0 to 16777215`},
		{in: "vxlan:///vni=0x10", err: "must be a number"},
		{in: "vxlan:///vni=16777216", err: "must be a number"},
		{in: "vxlan:///vni", err: "must be a number"},
		{in: "vxlan://10.0.0.1", err: `10.0.0.1 is no multicast address`},
		{in: "vxlan://239.0.0.1/remote=10.0.0.2", err: `group "239.0.0.1" and option "remote=10.0.0.2": it is one or the other`},
		{in: "vxlan:///remote", err: "needs a value"},
		{in: "vxlan:///remotes", err: `option "remotes": must be file:PATH`},
		{in: "vxlan:///remotes=file:/run/hosts", err: `"remotes=file:": must be file:PATH, in quotes if the path has a "/", as remotes='file:/run/hosts'`},
		{in: "vxlan:///remotes=nosuch:x", err: `no source "nosuch" is registered`},
		{in: "vxlan:///remotes=file:x/remote=10.0.0.1", err: `options "remote=10.0.0.1" and "remotes=file:x": it is one or the other`},
		{in: "vxlan://239.0.0.1/remotes=file:x", err: `group "239.0.0.1" and option "remotes=file:x": it is one or the other`},
		{in: "vxlan:///remote=10.0.0.2,", err: `"remote=10.0.0.2,": must be addresses or names, separated by commas`},
		{in: "vxlan:///remote=10.0.0.2,10.0.0.2", err: "10.0.0.2 is there twice"},
		{in: "vxlan:///remote=10.0.0.2,fd00::2", err: "fd00::2 is not of the family of the others, IPv4"},
		{in: "vxlan:///remote=10.0.0.2/v6", err: "10.0.0.2 is not of the family of the others, IPv6"},
		{in: "vxlan:///remote=239.0.0.1", err: "239.0.0.1 is no address of a host"},
		{in: "vxlan:///remote=0.0.0.0", err: "0.0.0.0 is no address of a host"},
		{in: "vxlan:///remote=::%lo/if=lo", err: "is no address of a host"},
		{in: "vxlan:///remote=10.0.0.2/bind=::%lo", err: "must be an IP address of this host"},
		{in: "vxlan:///remote=10.0.0.2/bind=::ffff:0.0.0.0", err: "must be an IP address of this host"},
		{in: "vxlan:///remote=255.255.255.255", err: "is no address of a host"},
		{in: "vxlan:///remote=fe80::2", err: "say which with if=NAME"},
		{in: "vxlan:///remote=10.0.0.2/bind=fd00::1", err: `option "bind=fd00::1" and the remote 10.0.0.2 are of different families`},
		{in: "vxlan:///remote=" + strings.Join(many, ","), err: "more than 1024 remotes"},
		{in: "vxlan://{vde://}", err: "no inner network"},
	})
}
