package wireguard

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// Keys of the tests.
const (
	secretText = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=" // wg(8)
	peerText   = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	otherText  = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	pskText    = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
)

func mustKey(text string) Key {
	k, err := ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

func mustPublic(text string) PublicKey {
	k, err := ParsePublicKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

func TestParseConfig(t *testing.T) {
	secret := mustKey(secretText)
	interfaceOnly := func(c Config) Config {
		c.PrivateKey = secret
		return c
	}
	servers := func(list ...string) (all []netip.AddrPort) {
		for _, s := range list {
			all = append(all, netip.AddrPortFrom(netip.MustParseAddr(s), 0))
		}
		return all
	}
	head := "[Interface]\nPrivateKey = " + secretText + "\n"
	tests := []struct {
		name, in string
		want     Config
	}{
		{"small", head, interfaceOnly(Config{})},
		{"client", head + `Address = 10.0.0.2/24, fd00::2
DNS = 10.0.0.1, lab.example, fd00::1
MTU = 1380
ListenPort = 51820

[Peer]
PublicKey = ` + peerText + `
PresharedKey = ` + pskText + `
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example.org:51820
PersistentKeepalive = 25
`, Config{
			PrivateKey: secret, ListenPort: 51820, MTU: 1380,
			Addrs: testenv.Prefixes("10.0.0.2/24", "fd00::2/128"),
			DNS:   vdestack.DNS{Servers: servers("10.0.0.1", "fd00::1"), Search: []string{"lab.example"}},
			Peers: []Peer{{
				PublicKey: mustPublic(peerText), PresharedKey: mustKey(pskText),
				AllowedIPs: testenv.Prefixes("0.0.0.0/0", "::/0"), Endpoint: "vpn.example.org:51820",
				PersistentKeepalive: 25 * time.Second,
			}},
		}},
		{"case, blanks, comments, CRLF, BOM", "\ufeff# a file\r\n \t[ iNTERFACE ] # here\r\n\r\n  pRIVATEkEY=" + secretText + "#none\r\n" +
			"ADDRESS\t=\t10.0.0.2\r\n[peer]\r\npublickey = " + peerText + "\r\n" +
			"allowedips=10.0.0.1/24 ,, 10.9.0.0/16\tfd00::/64\r\nendpoint = [fd09::1]:1\r\n", Config{
			PrivateKey: secret, Addrs: testenv.Prefixes("10.0.0.2/32"),
			Peers: []Peer{{
				PublicKey: mustPublic(peerText), Endpoint: "[fd09::1]:1",
				AllowedIPs: testenv.Prefixes("10.0.0.1/24", "10.9.0.0/16", "fd00::/64"),
			}},
		}},
		{"repeated", "[Interface]\nAddress = 10.0.0.2/24\nAddress = fd00::2/64\nDNS = 10.0.0.1\nDNS = a.example\nMTU = 9000\nMTU =\n" +
			"[Peer]\nPublicKey = " + peerText + "\nAllowedIPs = 10.1.0.0/16\nAllowedIPs = 10.2.0.0/16\nAllowedIPs =\nEndpoint = fd09::1:2\n" +
			"[Peer]\nPublicKey = " + peerText + "\nPublicKey = " + otherText + "\nPersistentKeepalive = OFF\n" +
			"[Interface]\nPrivateKey = " + otherText + "\nPrivateKey = " + secretText, Config{
			PrivateKey: secret, Addrs: testenv.Prefixes("10.0.0.2/24", "fd00::2/64"),
			DNS: vdestack.DNS{Servers: servers("10.0.0.1"), Search: []string{"a.example"}},
			Peers: []Peer{
				{PublicKey: mustPublic(peerText), AllowedIPs: testenv.Prefixes("10.1.0.0/16", "10.2.0.0/16"), Endpoint: "fd09::1:2"},
				{PublicKey: mustPublic(otherText)},
			},
		}},
		{"without effect", head + "Table = auto\nFwMark = off\nFwMark = 0x0\nSaveConfig = true\nSaveConfig = false\nDNS =\nAddress =\n", interfaceOnly(Config{})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if !got.PrivateKey.Equal(secret) {
				t.Error("another private key")
			}
		})
	}
}

// TestParseErrors also checks that a key is in no error, wherever it stands.
func TestParseErrors(t *testing.T) {
	head := "[Interface]\nPrivateKey = " + secretText + "\n"
	peer := head + "[Peer]\nPublicKey = " + peerText + "\n"
	tests := []struct{ in, want string }{
		{"", "the file has no PrivateKey in [Interface]"},
		{"[Interface]\nAddress = 10.0.0.1\n", "the file has no PrivateKey in [Interface]"},
		{"PrivateKey = " + secretText, `line 1: "PrivateKey": it is before the first section: want [Interface] or [Peer]`},
		{"[Interface]\n\nPrivateKey = x", `line 3: "PrivateKey": not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey`},
		{"[Interface]\nPrivateKey = " + secretText[:43], `line 2: "PrivateKey": not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey`},
		{"[Interface]\n" + secretText, `line 2: a text of 43 characters (not shown: it may be a key): there is no such item in this section`},
		{"[Interface]\n" + secretText[:43], `line 2: a text of 43 characters (not shown: it may be a key) has no value: want NAME = VALUE`},
		{"[" + secretText + "]", `line 1: a text of 46 characters (not shown: it may be a key) is no section: want [Interface] or [Peer]`},
		{"[Interfaces]", `line 1: "[interfaces]" is no section: want [Interface] or [Peer]`},
		{"[Interface]\nAdress = 10.0.0.1", `line 2: "Adress": there is no such item in this section`},
		{"[Interface]\nAddress", `line 2: "Address" has no value: want NAME = VALUE`},
		{"[Interface]\nAddress = 10.0.0.300/24", `line 2: "Address": "10.0.0.300/24" is not ADDRESS/LENGTH, such as 10.0.0.2/32 or fd00::2/128`},
		{"[Interface]\nAddress = fe80::1%eth0", `line 2: "Address": "fe80::1%eth0" is not ADDRESS/LENGTH, such as 10.0.0.2/32 or fd00::2/128`},
		{"[Interface]\nAddress = " + secretText, `line 2: "Address": a text of 44 characters (not shown: it may be a key) is not ADDRESS/LENGTH, such as 10.0.0.2/32 or fd00::2/128`},
		{"[Interface]\nDNS = 10.0.0.300", `line 2: "DNS": "10.0.0.300" is neither an address nor a domain`},
		{"[Interface]\nDNS = " + mustKey(secretText).hex(), `line 2: "DNS": a text of 64 characters (not shown: it may be a key) is neither an address nor a domain`},
		{"[Interface]\nDNS = a/b", `line 2: "DNS": "a/b" is neither an address nor a domain`},
		{"[Interface]\nMTU = 99999", `line 2: "MTU": "99999" is not a number from 0 to 65455`},
		{"[Interface]\nListenPort = -1", `line 2: "ListenPort": "-1" is not a number from 0 to 65535`},
		{"[Interface]\nFwMark = 51820", `line 2: "FwMark": it is for routes of the host that keep encrypted packets out of the tunnel; here their socket is in another network: remove the line`},
		{"[Interface]\nTable = off", `line 2: "Table": routes of a tunnel are in the main table of its stack: remove the line`},
		{"[Interface]\nPostUp = iptables -A FORWARD", `line 2: "PostUp": wg-quick runs this as root on the host; a tunnel of this package changes its stack only: remove the line, and let the program do what it is for`},
		{"[Interface]\nSaveConfig = 1", `line 2: "SaveConfig": "1" is neither true nor false`},
		{"[Interface]\nAllowedIPs = 10.0.0.0/8", `line 2: "AllowedIPs": it belongs into a section [Peer]`},
		{head + "[Peer]\nMTU = 1400", `line 4: "MTU": it belongs into the section [Interface]`},
		{head + "[Peer]\nEndpoint = a:1\n\n[Peer]\nPublicKey = " + peerText, `line 6: [Peer] of line 3 has no PublicKey`},
		{head + "[Peer]\n", `[Peer] of line 3 has no PublicKey`},
		{peer + "[Peer]\nPublicKey = " + peerText, `[Peer] of line 5 has the PublicKey of that of line 3: put both into one section`},
		{peer + "PublicKey = x", `line 5: "PublicKey": not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey`},
		{peer + "PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", `line 5: "PublicKey": not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey`},
		{peer + "PresharedKey =", `line 5: "PresharedKey": not a key: it is 32 bytes in base64, 44 characters that end with =, as of wg genkey`},
		{peer + "Endpoint = vpn.example.org", `line 5: "Endpoint": "vpn.example.org" has no port: want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = vpn.example.org:0", `line 5: "Endpoint": the port of "vpn.example.org:0" is none: want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = :1", `line 5: "Endpoint": the host of ":1" is neither an address nor a name: want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = [10.0.0.1]:1", `line 5: "Endpoint": there is no IPv6 address in the brackets of "[10.0.0.1]:1": want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = " + secretText + ":1", `line 5: "Endpoint": the host of a text of 46 characters (not shown: it may be a key) is neither an address nor a name: want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = " + mustKey(secretText).hex() + ":1", `line 5: "Endpoint": the host of a text of 66 characters (not shown: it may be a key) is neither an address nor a name: want HOST:PORT, with an IPv6 address in brackets`},
		{peer + "Endpoint = [fe80::1%" + secretText + "]:1", `line 5: "Endpoint": the zone of a text of 56 characters (not shown: it may be a key) is no interface: its name has 15 characters at most`},
		{peer + "PersistentKeepalive = 65536", `line 5: "PersistentKeepalive": "65536" is not a number from 0 to 65535`},
		{peer + "Jc = 4", `line 5: "Jc": there is no such item in this section`},
	}
	for _, tt := range tests {
		_, err := ParseConfig(tt.in)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q: got %v, want %s", tt.in, err, tt.want)
		}
		if err != nil {
			leaks(t, "the error", err.Error(), mustKey(secretText), mustKey(pskText))
		}
	}
}

// TestConfigComplete has what only a program can do wrong.
func TestConfigComplete(t *testing.T) {
	k, other := mustKey(secretText), mustPublic(peerText)
	peer := func(p Peer) Config { return Config{PrivateKey: k, Peers: []Peer{p}} }
	tests := []struct {
		c    Config
		want string
	}{
		{Config{}, "there is no PrivateKey"},
		{Config{PrivateKey: k, MTU: 575}, "the MTU is 575: want 576 to 65455"},
		{Config{PrivateKey: k, MTU: -1}, "the MTU is -1: want 576 to 65455"},
		{Config{PrivateKey: k, MTU: 1279, Addrs: testenv.Prefixes("10.0.0.2/24"), Peers: []Peer{{PublicKey: mustPublic(peerText), AllowedIPs: testenv.Prefixes("::/0")}}}, "the MTU is 1279: want 1280 to 65455"},
		{Config{PrivateKey: k, MTU: 1279, Addrs: testenv.Prefixes("fd00::1/64")}, "the MTU is 1279: want 1280 to 65455"},
		{Config{PrivateKey: k, Addrs: make([]netip.Prefix, 1)}, "an address in Addrs is not valid"},
		{peer(Peer{}), "peer AAAAAA… (peer 1): there is no PublicKey"},
		{peer(Peer{PublicKey: k.Public()}), "peer " + k.Public().String()[:6] + "… (peer 1): the PublicKey is that of this end's PrivateKey"},
		{peer(Peer{PublicKey: other, Endpoint: "x"}), `peer xTIBA5… (peer 1): the Endpoint: "x" has no port: want HOST:PORT, with an IPv6 address in brackets`},
		{peer(Peer{PublicKey: other, AllowedIPs: make([]netip.Prefix, 1)}), "peer xTIBA5… (peer 1): a network in AllowedIPs is not valid"},
		{peer(Peer{PublicKey: other, PersistentKeepalive: time.Millisecond}), "peer xTIBA5… (peer 1): a PersistentKeepalive of 1ms: want whole seconds, 0 to 65535"},
		{peer(Peer{PublicKey: other, PersistentKeepalive: 65536 * time.Second}), "peer xTIBA5… (peer 1): a PersistentKeepalive of 18h12m16s: want whole seconds, 0 to 65535"},
		{Config{PrivateKey: k, Peers: []Peer{{PublicKey: other}, {PublicKey: other}}}, "peer xTIBA5… (peer 2): an earlier peer has the same PublicKey"},
	}
	for _, tt := range tests {
		if _, err := tt.c.complete(); err == nil || err.Error() != tt.want {
			t.Errorf("%+v: got %v, want %s", tt.c, err, tt.want)
		}
	}
	given := Config{PrivateKey: k, Peers: []Peer{{PublicKey: other, AllowedIPs: testenv.Prefixes("10.0.0.1/8"), Endpoint: "fd09::1:2"}}}
	c, err := given.complete()
	testenv.Check(t, err)
	if p := c.Peers[0]; c.Name != "wg0" || c.MTU != 0 || p.AllowedIPs[0].String() != "10.0.0.0/8" || p.Endpoint != "[fd09::1]:2" {
		t.Errorf("got %+v", c)
	}
	if given.Peers[0].AllowedIPs[0].Addr().String() != "10.0.0.1" || given.Name != "" {
		t.Error("complete changes the caller's configuration")
	}
}

// write returns a configuration as a file, with every item on a line of its own.
func write(c Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nListenPort = %d\nMTU = %d\n", c.PrivateKey.Reveal(), c.ListenPort, c.MTU)
	for _, a := range c.Addrs {
		fmt.Fprintf(&b, "Address = %s\n", a)
	}
	for _, s := range c.DNS.Servers {
		fmt.Fprintf(&b, "DNS = %s\n", s.Addr())
	}
	for _, s := range c.DNS.Search {
		fmt.Fprintf(&b, "DNS = %s\n", s)
	}
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "[Peer]\nPublicKey = %s\nPersistentKeepalive = %d\n", p.PublicKey, p.PersistentKeepalive/time.Second)
		if !p.PresharedKey.IsZero() {
			fmt.Fprintf(&b, "PresharedKey = %s\n", p.PresharedKey.Reveal())
		}
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "AllowedIPs = %s\n", a)
		}
		if p.Endpoint != "" {
			fmt.Fprintf(&b, "Endpoint = %s\n", p.Endpoint)
		}
	}
	return b.String()
}

// FuzzParseConfig checks that what is parsed can be written and parsed again, and that no error
// has a key of the file.
func FuzzParseConfig(f *testing.F) {
	f.Add("[Interface]\nPrivateKey = " + secretText + "\nAddress = 10.0.0.2/24, fd00::2\nDNS = 10.0.0.1, lab.example\nMTU = 1380\nListenPort = 1\n" +
		"[Peer]\nPublicKey = " + peerText + "\nPresharedKey = " + pskText + "\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = vpn.example.org:51820\nPersistentKeepalive = 25\n")
	f.Add("[Interface]\nPrivateKey " + secretText + "\r\n#\n[Peer]\nEndpoint = [fe80::1%eth0]:2\nFwMark=0x1\nPostUp=x")
	f.Add("[Interface]\nAddress = " + secretText)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig(text)
		if err != nil {
			for _, secret := range []string{secretText, pskText} {
				if strings.Contains(err.Error(), secret[:22]) {
					t.Errorf("the error shows a key: %v", err)
				}
			}
			return
		}
		again, err := ParseConfig(write(c))
		if err != nil {
			t.Fatalf("%v: %s", err, write(c))
		}
		if !reflect.DeepEqual(again, c) {
			t.Errorf("got %+v, want %+v", again, c)
		}
		c, err = c.complete()
		if err != nil {
			return // such as an MTU that is too small
		}
		if _, err := c.complete(); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
}
