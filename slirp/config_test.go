package slirp

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

func parseText(t testing.TB, vnl string) (*config, error) {
	t.Helper()
	l := testenv.Must(vdeplug.Parse(vnl))(t)
	return parse(l)
}

func TestDefaults(t *testing.T) {
	got := testenv.Must(parseText(t, "slirp://"))(t)
	want := &config{
		v4: true, v6: true,
		host: netip.MustParsePrefix("10.0.2.2/24"), host6: netip.MustParsePrefix("fd00::2/64"),
		dns: netip.MustParseAddr("10.0.2.3"), dns6: netip.MustParseAddr("fd00::3"),
		dhcp: netip.MustParseAddr("10.0.2.15"), hostname: "slirp", mtu: 1500, mru: 1500,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOptions(t *testing.T) {
	got := testenv.Must(parseText(t, "slirp:///v4/host=10.9.0.1%2f16/tcpfwd=8080:10.9.0.15:80,127.0.0.1:1:10.9.1.1:2/unixfwd=6000:%2frun%2fs:1,10.9.0.9:7:x/cmdfwd=10.9.0.5:6001:'socat STDIO UNIX:\"/tmp/X 0\"'/mtu=9000/mru=0"))(t)
	addr := netip.MustParseAddrPort
	if want := []forward{{addr("0.0.0.0:8080"), addr("10.9.0.15:80")}, {addr("127.0.0.1:1"), addr("10.9.1.1:2")}}; !reflect.DeepEqual(got.tcp, want) {
		t.Errorf("got %v, want %v", got.tcp, want)
	}
	if want := []service{
		{at: addr("10.9.2.4:6000"), path: "/run/s:1"},
		{at: addr("10.9.0.9:7"), path: "x"},
		{at: addr("10.9.0.5:6001"), command: []string{"socat", "STDIO", "UNIX:/tmp/X 0"}},
	}; !reflect.DeepEqual(got.services, want) {
		t.Errorf("got %v, want %v", got.services, want)
	}
	if got.mtu != 9000 || got.mru != 1500 || got.v6 {
		t.Errorf("got mtu %d, mru %d, v6 %t", got.mtu, got.mru, got.v6)
	}
	if got.dns.String() != "10.9.2.3" || got.dhcp.String() != "10.9.2.15" {
		t.Errorf("got %s and %s, want 10.9.2.3 and 10.9.2.15", got.dns, got.dhcp)
	}
}

func TestOptionErrors(t *testing.T) {
	for _, tt := range []struct{ vnl, want string }{
		{"slirp://x", `slirp address "x": there is no address`},
		{"slirp:///foo", `slirp option "foo": unknown (have addr, addr6, bootfile, cmdfwd, dhcp, disable_host_loopback, host, host6, hostname, metadata, mru, mtu, restricted, tcpfwd, tftp_path, tftp_server_name, udpfwd, unixfwd, v4, v6, vdnssearch, vdomainname, verbose, vnameserver, vnameserver6)`},
		{"slirp:///host", `slirp option "host": must be an IPv4 address`},
		{"slirp:///v4=1", `slirp option "v4=1": takes no value`},
		{"slirp:///v4/v4", `slirp option "v4": already set by "v4"`},
		{"slirp:///addr=1.2.3.4%2f24/host=1.2.3.4%2f24", `slirp option "host=1.2.3.4/24": already set by "addr=1.2.3.4/24"`},
		{"slirp:///addr=1.2.3.4/24", `slirp option "addr=1.2.3.4": must be an IPv4 address with its network, as 10.0.2.2%2f24 (a slash is written %2f or quoted)`},
		{"slirp:///addr=1.2.3.0%2f24", "must be an IPv4 address"},
		{"slirp:///addr=fd00::2%2f64", "must be an IPv4 address"},
		{"slirp:///addr6=1.2.3.4%2f24", "must be an IPv6 address"},
		{"slirp:///addr6=::ffff:1.2.3.4%2f96", "must be an IPv6 address"},
		{"slirp:///addr=10.0.2.3%2f24", `slirp option "vnameserver=10.0.2.3": must be an address in the network 10.0.2.3/24 other than the host's (vnameserver=ADDRESS sets another)`},
		{"slirp:///addr=10.0.2.1%2f30", `slirp option "vnameserver=10.0.2.3": must be an address in the network 10.0.2.1/30`},
		{"slirp:///dhcp=10.0.3.15", `slirp option "dhcp=10.0.3.15": must be an address in the network 10.0.2.2/24`},
		{"slirp:///dhcp=10.0.2.3", `slirp option "dhcp=10.0.2.3": that is the name server`},
		{"slirp:///vnameserver=x", `slirp option "vnameserver=x": must be an IPv4 address`},
		{"slirp:///vnameserver6=fe80::1%25eth0", "must be an IPv6 address"},
		{"slirp:///mtu=x", `slirp option "mtu=x": must be a number of bytes`},
		{"slirp:///mtu=1000", `slirp option "mtu=1000": must be a number from 1280 to 9216, or 0 for 1500`},
		{"slirp:///v4/mru=100", `slirp option "mru=100": must be a number from 576 to 9216`},
		{"slirp:///mtu=10000", "must be a number from 1280 to 9216"},
		{"slirp:///hostname=", `slirp option "hostname=": must have 1 to 255 bytes`},
		{"slirp:///hostname=" + strings.Repeat("a", 200) + "/vdomainname=" + strings.Repeat("a", 200), "together they do not fit into a DHCP message"},
		{"slirp:///vdnssearch=a..b", `"a..b" is not a domain`},
		{"slirp:///vdnssearch=", "is not a domain"},
		{"slirp:///bootfile=" + strings.Repeat("a", 128), "must have 1 to 127 bytes"},
		{"slirp:///tftp_path=%2fnowhere", `slirp option "tftp_path=/nowhere": stat /nowhere`},
		{"slirp:///tftp_path=%2fetc%2fpasswd", "must be a directory"},
		{"slirp:///tcpfwd=foo", `slirp option "tcpfwd=foo": "foo": must be [HOSTIP:]HOSTPORT:GUESTIP:GUESTPORT`},
		{"slirp:///tcpfwd=80:10.0.2.15", "must be [HOSTIP:]HOSTPORT"},
		{"slirp:///tcpfwd=0:10.0.2.15:80", `"0" is not a port`},
		{"slirp:///tcpfwd=80:10.0.2.15:70000", `"70000" is not a port`},
		{"slirp:///tcpfwd=80:10.0.3.15:80", `"10.0.3.15" is not an IP address of a guest in 10.0.2.0/24 or fd00::/64`},
		{"slirp:///tcpfwd=80:10.0.2.2:80", "is not an IP address of a guest"},
		{"slirp:///v4/tcpfwd=80:[fd00::15]:80", "is not an IP address of a guest in 10.0.2.0/24"},
		{"slirp:///tcpfwd=x:80:10.0.2.15:80", `"x" is not an IP address of the host`},
		{"slirp:///tcpfwd=80:10.0.2.15:80,80:10.0.2.16:80", "this port of the host is forwarded already"},
		{"slirp:///udpfwd=80:10.0.2.15:80,81:10.0.2.15:80", "another port is forwarded to this port of the guest"},
		{"slirp:///tcpfwd=[::1:80:10.0.2.15:80", "must be [HOSTIP:]HOSTPORT"},
		{"slirp:///unixfwd=6000", "must be [IP:]PORT:TARGET"},
		{"slirp:///unixfwd=10.0.2.3:6000:x", "10.0.2.3 is not a free IP address in"},
		{"slirp:///unixfwd=6000:x/cmdfwd=6000:y", "this port is used already (10.0.2.4:6000 -> socket x)"},
		{"slirp:///cmdfwd=6000:'a;b'", "must be one command"},
		{"slirp:///cmdfwd=6000:'a \"b'", "6000:a"},
		{"slirp:///v4{null://}", "it has no inner network"},
		{"slirp:///v4/'", "this quote does not end"},
		{"slirp:///unixfwd=10.0.2:6000:x", `"10.0.2" is not an IP address`},
		{"slirp:///unixfwd=0:x", `"0" is not a port`},
		{"slirp:///vdnssearch=" + strings.Repeat("ab,", 99) + "ab", "the domains do not fit into a DHCP option"},
	} {
		_, err := parseText(t, tt.vnl)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.vnl, err, tt.want)
		}
	}
}

// TestRedact has a password among the options.
func TestRedact(t *testing.T) {
	got, want := vdeplug.Redact("slirp:///restricted/cmdfwd=7:sh -c x\\{SECRET/mtu=1400"), "slirp:///restricted/cmdfwd=…"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVerbose(t *testing.T) {
	cfg := testenv.Must(parseText(t, "slirp:///tcpfwd=8080:10.0.2.15:80/unixfwd=6000:x/cmdfwd=6001:y"))(t)
	var b strings.Builder
	cfg.print(&b)
	for _, want := range []string{
		"ipv4-network  10.0.2.0/24\n", "ipv6-host     fd00::2\n", "dhcp-start    10.0.2.15\n", "MTU           1500\n",
		"tcpfwd        0.0.0.0:8080 -> guest 10.0.2.15:80\n",
		"service       10.0.2.4:6000 -> socket x\n", "service       10.0.2.4:6001 -> command [\"y\"]\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", b.String(), want)
		}
	}
}

func TestNameservers(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", []string{"127.0.0.1:53"}},
		{"# nothing\nsearch x\n nameserver\nnameserver name\n", []string{"127.0.0.1:53"}},
		{"nameserver 192.0.2.1\n  nameserver\tfd09::1 # x\nnameserver fe80::1%eth0\nnameserver ::ffff:192.0.2.2", []string{"192.0.2.1:53", "[fd09::1]:53", "[fe80::1%eth0]:53", "192.0.2.2:53"}},
	} {
		var got []string
		for _, a := range parseNameservers(tt.text) {
			got = append(got, a.String())
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/tcpfwd=8080:10.0.2.15:80")
	f.Add("/v6/unixfwd=[fd00::5]:1:x/cmdfwd=5:'a b'")
	f.Add("/addr=10.9.0.1%2f24/vdnssearch=a.b,c/mtu=1400")
	f.Fuzz(func(t *testing.T, body string) {
		l, err := vdeplug.Parse("slirp://" + body)
		if err != nil || strings.Contains(body, "tftp_path") {
			return // the file system would decide
		}
		cfg, err := parse(l)
		if err != nil {
			return
		}
		for _, f := range append(cfg.tcp, cfg.udp...) {
			if cfg.own(f.guest.Addr()) || !cfg.network(f.guest.Addr()).Contains(f.guest.Addr()) {
				t.Errorf("%s is forwarded to %s", f.host, f.guest)
			}
		}
		var ls leases
		ls.init(cfg)
		if n := len(ls.reply(make([]byte, dhcpHeaderLen), dhcpAck, cfg.dhcp)); n != dhcpReplyLen {
			t.Errorf("an answer of DHCP has %d bytes", n)
		}
	})
}
