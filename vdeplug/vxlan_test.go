package vdeplug

import (
	_ "embed"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/vxlan.txt
var vxlanCapture string

func TestVXLANHeader(t *testing.T) {
	own := makeVXVDEHeader(0x123456)
	for i, mask := range [8]byte{0xf7, 0xff, 0xff, 0xff, 0, 0, 0, 0xff} { // bits to be ignored
		for bit := byte(1); bit != 0; bit <<= 1 {
			got := own
			got[i] ^= bit
			want := vxvdeForeign
			if mask&bit != 0 {
				want = vxvdeFrame
			}
			if kind := classifyVXLAN(&own, &got, 100); kind != want {
				t.Errorf("bit %#x of byte %d differs: kind %d, want %d", bit, i, kind, want)
			}
		}
	}
	for n, want := range map[int]vxvdeKind{
		0: vxvdeForeign, 7: vxvdeForeign, 8: vxvdeShort, 8 + 13: vxvdeShort, 8 + 14: vxvdeFrame, 65507: vxvdeFrame,
	} {
		if got := classifyVXLAN(&own, &own, n); got != want {
			t.Errorf("%d bytes: kind %d, want %d", n, got, want)
		}
	}
}

// FuzzVXLANPacket holds the decoder against the rule, said in another way.
func FuzzVXLANPacket(f *testing.F) {
	f.Add(captured(f, vxlanCapture)["arp"])
	f.Add([]byte{8, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 8, 0})
	f.Add([]byte{0xff, 1, 1, 1, 0, 0, 1, 1})
	own := makeVXVDEHeader(1)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var got vxvdeHeader
		copy(got[:], packet)
		kind := classifyVXLAN(&own, &got, len(packet))
		ours := len(packet) >= 8 && packet[0]>>3&1 == 1 && packet[4] == 0 && packet[5] == 0 && packet[6] == 1
		switch {
		case (kind == vxvdeForeign) == ours, kind == vxvdeBye, (kind == vxvdeFrame) != (ours && len(packet) >= 22):
			t.Errorf("% .10x, %d bytes: kind %d", packet, len(packet), kind)
		}
	})
}

func TestParseVXLAN(t *testing.T) {
	plain := vxvdeConfig{
		vxlan: true,
		group: netip.MustParseAddrPort("239.0.0.1:4789"),
		vni:   1, ttl: 1, table: 1024, expire: 128 * time.Second,
	}
	with := func(f func(*vxvdeConfig)) vxvdeConfig {
		cfg := plain
		f(&cfg)
		return cfg
	}
	group := func(s string) func(*vxvdeConfig) {
		return func(c *vxvdeConfig) { c.group = netip.MustParseAddrPort(s) }
	}
	remotes := func(list ...string) func(*vxvdeConfig) {
		return func(c *vxvdeConfig) {
			c.group = netip.AddrPort{}
			for _, s := range list {
				c.remotes = append(c.remotes, netip.MustParseAddrPort(s))
			}
		}
	}
	var many []string
	for i := range maxRemotes + 1 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())
	}
	tests := []struct {
		in   string
		want vxvdeConfig
		err  string
	}{
		{in: "vxlan://", want: plain},
		{in: "vxlan://239.0.0.1/vni=42/if=test0", want: with(func(c *vxvdeConfig) { c.vni, c.ifname = 42, "test0" })},
		{in: "vxlan:///v6", want: with(group("[ff05:56de::1]:4789"))},
		{in: "vxlan:///port=8472/vni=0/ttl=9", want: with(func(c *vxvdeConfig) {
			group("239.0.0.1:8472")(c)
			c.vni, c.ttl = 0, 9
		})},
		{in: "vxlan:///remote=10.0.0.2", want: with(remotes("10.0.0.2:4789"))},
		{in: "vxlan:///remote=10.0.0.2,10.0.0.3/port=8472", want: with(remotes("10.0.0.2:8472", "10.0.0.3:8472"))},
		{in: "vxlan:///remote=fd00::2,fd00::3/bind=fd00::1", want: with(func(c *vxvdeConfig) {
			remotes("[fd00::2]:4789", "[fd00::3]:4789")(c)
			c.bind = netip.MustParseAddr("fd00::1")
		})},
		{in: "vxlan:///remote=localhost/v4", want: with(remotes("127.0.0.1:4789"))},
		{in: "vxlan:///remote=fe80::2%test0", want: with(func(c *vxvdeConfig) {
			remotes("[fe80::2]:4789")(c)
			c.ifname = "test0"
		})},

		{in: "vxlan:///nosuch", err: `vxlan option "nosuch": unknown (have bind, expiretime, hashsize, if, port, rcvbuf, remote, ttl, v4, v6, vni)`},
		{in: "vxlan:///vni=daemon", err: `"vni=daemon": must be a number from 0 to 16777215`},
		{in: "vxlan:///vni=0x10", err: "must be a number"},
		{in: "vxlan:///vni=16777216", err: "must be a number"},
		{in: "vxlan:///vni", err: "must be a number"},
		{in: "vxlan://10.0.0.1", err: `10.0.0.1 is no multicast address`},
		{in: "vxlan://239.0.0.1/remote=10.0.0.2", err: `group "239.0.0.1" and option "remote=10.0.0.2": it is one or the other`},
		{in: "vxlan:///remote", err: "needs a value"},
		{in: "vxlan:///remote=10.0.0.2,", err: `"remote=10.0.0.2,": must be addresses or names, separated by commas`},
		{in: "vxlan:///remote=10.0.0.2,10.0.0.2", err: "10.0.0.2 is there twice"},
		{in: "vxlan:///remote=10.0.0.2,fd00::2", err: "fd00::2 is not of the family of the others, IPv4"},
		{in: "vxlan:///remote=10.0.0.2/v6", err: "10.0.0.2 is not of the family of the others, IPv6"},
		{in: "vxlan:///remote=239.0.0.1", err: "239.0.0.1 is no address of a host"},
		{in: "vxlan:///remote=0.0.0.0", err: "0.0.0.0 is no address of a host"},
		{in: "vxlan:///remote=255.255.255.255", err: "is no address of a host"},
		{in: "vxlan:///remote=fe80::2", err: "say which with if=NAME"},
		{in: "vxlan:///remote=10.0.0.2/bind=fd00::1", err: `option "bind=fd00::1" and the remote 10.0.0.2 are of different families`},
		{in: "vxlan:///remote=" + strings.Join(many, ","), err: "more than 1024 remotes"},
		{in: "vxlan://{vde://}", err: "no inner network"},
	}
	for _, tt := range tests {
		t.Run(tt.in[:min(len(tt.in), 60)], func(t *testing.T) {
			l, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseVXLAN(t.Context(), l)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}
