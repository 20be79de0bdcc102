package autoconf

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

func TestParse(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	auto := Config{Eth: true, DHCP4: true, DHCP6: true, RD: true}
	removeAuto := Config{Remove: Remove{Eth: true, DHCP4: true, DHCP6: true, RD: true}}
	tests := []struct {
		text string
		want Config
	}{
		{"", Config{}},
		{" ,;\t\n", Config{}},
		{"eth,ip=10.0.0.1/24,gw=10.0.0.254", Config{Eth: true, Addrs: []netip.Prefix{prefix("10.0.0.1/24")}, Gateways: []netip.Addr{addr("10.0.0.254")}}},
		{"auto,fqdn=host.example.org", Config{Eth: true, DHCP4: true, DHCP6: true, RD: true, FQDN: "host.example.org"}},
		{"auto6,slaac", Config{Eth: true, DHCP6: true, RD: true, SLAAC: SLAACDefault}},
		{"iface=eth1,-dhcp", Config{Iface: "eth1", Remove: Remove{DHCP4: true}}},
		{"stack=vdestack,vnl=vxvde://234.0.0.1,eth,dhcp", Config{VNL: "vxvde://234.0.0.1", Eth: true, DHCP4: true}},
		{`vnl="cmd://ssh host vde_plug"`, Config{VNL: "cmd://ssh host vde_plug"}},
		{`vnl='cmd://a "b" # c'`, Config{VNL: `cmd://a "b" # c`}},
		{`vnl=cmd://a\ b\,c=d\\e`, Config{VNL: `cmd://a b,c=d\e`}},
		{`vnl='a\'"'b"`, Config{VNL: `a\'b`}},
		{"dhcp;;rd\n eth # and not dhcp6\nslaac", Config{DHCP4: true, RD: true, Eth: true, SLAAC: SLAACDefault}},
		{"fqdn=a.example#comment", Config{FQDN: "a.example"}},
		{"fqdn=a.example.", Config{FQDN: "a.example"}},
		{"auto", auto},
		{"eth,dhcp4,dhcpv6,rd6", auto},
		{"auto4", Config{Eth: true, DHCP4: true}},
		{"autov4", Config{Eth: true, DHCP4: true}},
		{"autov6", Config{Eth: true, DHCP6: true, RD: true}},
		{"dhcpv4", Config{DHCP4: true}},
		{"-auto", removeAuto},
		{"-all", removeAuto},
		{"-eth,-dhcp4,-dhcpv6,-rd6", removeAuto},
		{"-auto4", Config{Remove: Remove{Eth: true, DHCP4: true}}},
		{"-autov4,-dhcpv4", Config{Remove: Remove{Eth: true, DHCP4: true}}},
		{"-auto6", Config{Remove: Remove{Eth: true, DHCP6: true, RD: true}}},
		{"-autov6", Config{Remove: Remove{Eth: true, DHCP6: true, RD: true}}},
		{"-static", Config{Remove: Remove{Static: true}}},
		{"iface=a,iface=b", Config{Iface: "b"}},
		{"iface=a,ifindex=1048576", Config{Index: 1048576}},
		{"mac=02:00:00:00:00:01", Config{MAC: mac}},
		{"macaddr=02-00-00-00-00-01", Config{MAC: mac}},
		{"ip=10.0.0.1,ip=fc00::1,ip=fc00::2/48,ip='10.8.0.1/32'", Config{Addrs: []netip.Prefix{
			prefix("10.0.0.1/24"), prefix("fc00::1/64"), prefix("fc00::2/48"), prefix("10.8.0.1/32"),
		}}},
		{"dns=10.0.0.3,dns=fc00::3,domain=example.org,domain=b.example.", Config{
			DNS: []netip.Addr{addr("10.0.0.3"), addr("fc00::3")}, Domains: []string{"example.org", "b.example"},
		}},
		{"-ip=10.0.0.1,-gw=fe80::1,-dns=10.0.0.3,-domain=a.example", Config{Remove: Remove{
			Addrs: []netip.Prefix{prefix("10.0.0.1/24")}, Gateways: []netip.Addr{addr("fe80::1")},
			DNS: []netip.Addr{addr("10.0.0.3")}, Domains: []string{"a.example"},
		}}},
		{"rd,slaac=stable,temporary,release,debug,thread", Config{RD: true, SLAAC: SLAACStable, Temporary: true, Release: true, Debug: true}},
		{"slaac=default", Config{SLAAC: SLAACDefault}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.text)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q:\ngot  %+v, %v\nwant %+v", tt.text, got, err, tt.want)
			continue
		}
		if again, err := Parse(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q is written as %q, which is %+v, %v", tt.text, got, again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"ETH", `item "ETH": items are lower case: write "eth"`},
		{"eth,dhcp5", `item "dhcp5": there is no item "dhcp5"`},
		{"=x", `item "=x": there is no item ""`},
		{"dhcp=1", `item "dhcp=1": dhcp has no argument`},
		{"dns", `item "dns": it needs an argument: write dns=ARGUMENT, the address of a server`},
		{"-dns=", `item "-dns=": it needs an argument`},
		{"slaac=", `item "slaac=": it needs an argument`},
		{"slaac=x", `item "slaac=x": "x" is not a way to make addresses: want default, hash, eui64 or stable`},
		{"ip=notanip", `item "ip=notanip": "notanip" is not an address: want an address such as 10.0.0.1/24`},
		{"ip=10.0.0.1/0", `the length "0" is not within 1 and 32`},
		{"ip=fc00::1/129", `the length "129" is not within 1 and 128`},
		{"ip=10.0.0.1/", `the length "" is not within`},
		{"ip=0.0.0.0", "not the address of a single host"},
		{"gw=224.0.0.1", "not the address of a single host"},
		{"gw=fe80::1%vde0", "has a zone"},
		{"dns=::ffff:10.0.0.1", "write 10.0.0.1"},
		{"mac=01:00:00:00:00:00", `item "mac=01:00:00:00:00:00": "01:00:00:00:00:00" is not the address of an interface`},
		{"mac=1", "not the address of an interface"},
		{"mac=02:00:00:00:00:00:00:01", "not the address of an interface"},
		{"ifindex=0", `"0" is not a number from 1 on`},
		{"iface=a/b", "no interface can have this name"},
		{"iface=0123456789abcdef", "no interface can have this name"},
		{"fqdn=a..b", "its parts have 1 to 63 bytes"},
		{"fqdn='a b'", "is not a name"},
		{"domain=.", "is not a name"},
		{"stack=picox", `there is no stack "picox" here: want vdestack`},
		{"vnl='mem://x", `the quote "'mem://x" does not end`},
		{`vnl=x\`, "there is nothing after the backslash"},
		{"fqdn=a\x00b", "NUL"},
		{"x" + strings.Repeat("y", 200), "…"},
	}
	for _, tt := range tests {
		c, err := Parse(tt.text)
		if err == nil || !strings.HasPrefix(err.Error(), "autoconf: item ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %+v, error %v, want %s", tt.text, c, err, tt.want)
		} else if len(err.Error()) > 400 {
			t.Errorf("%q: the error has %d bytes", tt.text, len(err.Error()))
		}
	}
}

// FuzzParse checks that what Parse takes is written so that it is read as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"auto,fqdn=host.example.org", "stack=vdestack,vnl='cmd://ssh host',eth", `vnl="a'b\"c",ip=fc00::1`, "-ip=10.0.0.1;-static # x\nslaac=hash",
		`vnl=\'\"\\\#\,`, "mac=02-00-00-00-00-01 release temporary debug dns=fe80::1 domain=a.b gw=::1 ifindex=3",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(c.String())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%q is %+v, which is written as %q, which is %+v, %v", s, c, c, again, err)
		}
	})
}
