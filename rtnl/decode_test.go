package rtnl

import (
	"bytes"
	"embed"
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/nlsocket"

	"github.com/vdestack/vdestack/internal/testenv"
)

//go:embed testdata/*.hex
var testdata embed.FS

// captured returns the messages of a file in testdata, with their headers.
func captured(t testing.TB, name string) [][]byte {
	t.Helper()
	text, err := testdata.ReadFile("testdata/" + name + ".hex")
	testenv.Check(t, err)
	var all [][]byte
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(line)
		testenv.Check(t, err)
		all = append(all, b)
	}
	return all
}

// kernelOf answers dumps with the captured messages, several to a datagram.
func kernelOf(t testing.TB) func(req netlink.Message) []any {
	files := map[netlink.HeaderType]string{
		rtmGetLink: "links", rtmGetAddr: "addrs", rtmGetRoute: "routes", rtmGetNeigh: "neighbors",
		rtmGetRule: "rules",
	}
	return func(req netlink.Message) []any {
		if req.Header.Type == rtmGetNeigh && req.Data[10] != 0 {
			return []any{done(req)} // no proxies
		}
		var datagrams []any
		i := 0
		for _, b := range captured(t, files[req.Header.Type]) {
			for m, err := range nlsocket.Messages(b) {
				if err != nil {
					return []any{err}
				}
				if req.Header.Type == rtmGetRule && m.Data[0] != req.Data[0] {
					continue
				}
				m.Header.Sequence = req.Header.Sequence
				m.Header.Length = uint32(len(b)+3) &^ 3
				if last := len(datagrams) - 1; i%3 != 0 {
					datagrams[last] = append(datagrams[last].([]netlink.Message), m)
				} else {
					datagrams = append(datagrams, []netlink.Message{m})
				}
				i++
			}
		}
		return append(datagrams, done(req))
	}
}

// TestCaptured decodes what a kernel sent.
func TestCaptured(t *testing.T) {
	if nativeBig() {
		t.Skip("the bytes are little-endian")
	}
	c, _ := dialFake(t, kernelOf(t))
	for _, tt := range []struct {
		name string
		list func() (string, error)
		want string
	}{
		{"links", lines(c.Links, func(l Link) string {
			return fmt.Sprintf("%d %s kind=%s mtu=%d master=%d parent=%d [%v] %v %v\n",
				l.Index, l.Name, l.Kind, l.MTU, l.Master, l.Parent, l.HardwareAddr, l.Flags, l.OperState)
		}), `
1 lo kind= mtu=65536 master=0 parent=0 [00:00:00:00:00:00] up|loopback|running unknown
2 v1 kind=veth mtu=1500 master=4 parent=3 [02:00:00:00:00:02] up|broadcast|multicast|running up
3 v0 kind=veth mtu=1500 master=0 parent=2 [02:00:00:00:00:01] up|broadcast|multicast|running up
4 br kind=bridge mtu=1500 master=0 parent=0 [02:00:00:00:00:03] up|broadcast|multicast down
5 mv kind=macvlan mtu=1500 master=0 parent=3 [02:00:00:00:00:04] broadcast|multicast down
6 vx kind=vxlan mtu=1450 master=0 parent=0 [02:00:00:00:00:05] broadcast|multicast down
7 tun0 kind=tun mtu=1500 master=0 parent=0 [] up|pointtopoint|multicast down
`},
		{"addresses", lines(c.Addrs, func(a Addr) string {
			return fmt.Sprintf("%v %s label=%s brd=%v %v %#x %v\n", a, a.Name, a.Label, a.Broadcast, a.Scope, a.Flags, a.Lifetime)
		}), `
127.0.0.1/8 on interface 1 lo label=lo brd=invalid IP host 0x80 {0s 0s}
10.3.0.1/24 on interface 3 v0 label=v0:x brd=invalid IP link 0x0 {1h0m0s 30m0s}
10.0.0.1/24 on interface 3 v0 label=v0 brd=10.0.0.255 universe 0x80 {0s 0s}
10.1.0.1/32 peer 10.2.0.1 on interface 7 tun0 label=tun0 brd=invalid IP universe 0x80 {0s 0s}
::1/128 on interface 1 lo label= brd=invalid IP host 0x80 {0s 0s}
fe80::ff:fe00:2/64 on interface 2 v1 label= brd=invalid IP link 0xc0 {0s 0s}
fd01::1/128 peer fd02::1 on interface 3 v0 label= brd=invalid IP universe 0x82 {0s 0s}
fd00::1/64 on interface 3 v0 label= brd=invalid IP universe 0x82 {0s 0s}
fe80::ff:fe00:1/64 on interface 3 v0 label= brd=invalid IP link 0xc0 {0s 0s}
`},
		{"routes", lines(c.Routes, func(r Route) string {
			if r.Table == TableLocal {
				return ""
			}
			return fmt.Sprintf("%v protocol=%d %v metric=%d src=%v %v\n", r, r.Protocol, r.Scope, r.Metric, r.Src, r.MultiPath)
		}), `
blackhole 10.8.0.0/16 in table 1000 protocol=3 universe metric=0 src=invalid IP []
default via 10.0.0.254 on interface 3 protocol=3 universe metric=0 src=invalid IP []
10.0.0.0/24 on interface 3 protocol=2 link metric=0 src=10.0.0.1 []
10.2.0.1/32 on interface 7 protocol=2 link metric=0 src=10.1.0.1 []
10.3.0.0/24 on interface 3 protocol=2 link metric=0 src=10.3.0.1 []
10.5.0.0/16 protocol=3 universe metric=0 src=invalid IP [{10.0.0.8 3 1 0 0 {0 }} {10.3.0.9 3 3 0 0 {0 }}]
10.6.0.0/16 via fe80::1 on interface 3 protocol=3 universe metric=0 src=invalid IP []
fd00::/64 on interface 3 protocol=2 universe metric=256 src=invalid IP []
fd01::1/128 on interface 3 protocol=2 universe metric=256 src=invalid IP []
fd02::1/128 on interface 3 protocol=2 universe metric=256 src=invalid IP []
fd77::/64 via fe80::1 on interface 3 protocol=4 universe metric=1024 src=invalid IP []
fe80::/64 on interface 2 protocol=2 universe metric=256 src=invalid IP []
fe80::/64 on interface 3 protocol=2 universe metric=256 src=invalid IP []
default via fd00::fe on interface 3 protocol=3 universe metric=7 src=invalid IP []
`},
		{"neighbours", lines(c.Neighbors, func(n Neighbor) string {
			return fmt.Sprintf("%v %v %v %#x\n", n, n.HardwareAddr, n.State, n.Flags)
		}), `
10.0.0.2 on interface 3 02:00:00:00:00:09 permanent 0x0
fd00::2 on interface 3 02:00:00:00:00:09 permanent 0x80
`},
		{"rules", lines(c.Rules, func(r Rule) string {
			return fmt.Sprintf("%v protocol=%d realm=%#x shortest=%d %x\n", r, r.Protocol, r.Realm, r.MinPrefixLen, r.Attrs)
		}), `
0 lookup 255 protocol=2 realm=0x0 shortest=0 
100 from 10.0.0.0/8 to 10.9.0.0/16 TOS 0x10 iif v0 lookup 1000 protocol=0 realm=0x0 shortest=0 
100 from 10.0.0.0/8 lookup 1000 protocol=0 realm=0x0 shortest=0 
101 not mark 0x7/0xf protocol 6 source port 80 port 1000-2000 lookup 254 protocol=0 realm=0x0 shortest=1 
102 oif v1 goto 200 protocol=4 realm=0x0 shortest=0 
200 from 10.1.0.0/16 lookup 7 protocol=0 realm=0x30004 shortest=0 
201 to 10.9.9.9/32 prohibit protocol=0 realm=0x0 shortest=0 
202 lookup 5 protocol=0 realm=0x0 shortest=0 0c00140000000000e8030000
32766 lookup 254 protocol=2 realm=0x0 shortest=0 
32767 lookup 253 protocol=2 realm=0x0 shortest=0 
0 of IPv6 lookup 255 protocol=2 realm=0x0 shortest=0 
300 from fd00::/64 protocol 17 source port 53 lookup 70000 protocol=0 realm=0x0 shortest=0 
301 to fd01::/16 blackhole protocol=0 realm=0x0 shortest=0 
32766 of IPv6 lookup 254 protocol=2 realm=0x0 shortest=0 
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.list()
			testenv.Check(t, err)
			if want := strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// lines lists entries as text.
func lines[T any](list func() ([]T, error), line func(T) string) func() (string, error) {
	return func() (string, error) {
		all, err := list()
		var text strings.Builder
		for _, v := range all {
			text.WriteString(line(v))
		}
		return text.String(), err
	}
}

// seeds gives f the bodies of the captured messages as seeds.
func seeds(f *testing.F, name string) {
	for _, b := range captured(f, name) {
		f.Add(b[sizeofNlMsghdr:])
	}
}

// roundTrip decodes b and wants the same from its encoding.
func roundTrip[T any](t *testing.T, b []byte, decode func([]byte) (T, bool, error), encode func(*T) ([]byte, error)) {
	t.Helper()
	v, ok, err := decode(b)
	if !ok || err != nil {
		return
	}
	b, err = encode(&v)
	if err != nil {
		return // listed, but not to be added: a label on IPv6, say
	}
	again, ok, err := decode(b)
	if !ok || err != nil || !reflect.DeepEqual(again, v) {
		t.Errorf("got  %+v, %v, %v\nfrom %+v", again, ok, err, v)
	}
}

func FuzzAddr(f *testing.F) {
	seeds(f, "addrs")
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, b, decodeAddr, (*Addr).encode) })
}

func FuzzRoute(f *testing.F) {
	seeds(f, "routes")
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip(t, b, func(b []byte) (Route, bool, error) {
			r, ok, err := decodeRoute(b)
			r.Expires = 0 // it is encoded in another attribute, and only whole seconds
			switch {      // the rest is not encoded
			case r.NextHopID != 0:
				r.Gateway, r.OutIface, r.MultiPath, r.Realm, r.Encap = netip.Addr{}, 0, nil, 0, Encap{}
			case len(r.MultiPath) > 0:
				r.Gateway = netip.Addr{}
			}
			return r, ok, err
		}, (*Route).encode)
	})
}

func FuzzRule(f *testing.F) {
	seeds(f, "rules")
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, b, decodeRule, (*Rule).encode) })
}

func FuzzNeighbor(f *testing.F) {
	seeds(f, "neighbors")
	f.Fuzz(func(t *testing.T, b []byte) { roundTrip(t, b, decodeNeighbor, (*Neighbor).encode) })
}

func FuzzLink(f *testing.F) {
	seeds(f, "links")
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok, err := decodeLink(b)
		if ok == (err != nil) && len(b) >= sizeofIfInfo && b[0] == afUnspec {
			t.Errorf("%+v, %v, %v", l, ok, err)
		}
	})
}

// FuzzDatagram splits a datagram and wants the parts to be those of the whole.
func FuzzDatagram(f *testing.F) {
	for _, name := range []string{"links", "addrs", "routes", "neighbors", "rules"} {
		f.Add(bytes.Join(captured(f, name), nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rest := b
		for m, err := range nlsocket.Messages(b) {
			if err != nil {
				return
			}
			n := sizeofNlMsghdr + len(m.Data)
			if n > len(rest) || !bytes.Equal(rest[sizeofNlMsghdr:n], m.Data) || int(m.Header.Length) != n {
				t.Fatalf("message %+v of %x", m, rest)
			}
			rest = rest[min((n+3)&^3, len(rest)):]
			decodeEvent(m)
		}
		if len(rest) > 0 {
			t.Errorf("%x is left without an error", rest)
		}
	})
}

// FuzzRefusal reads the end of an answer.
func FuzzRefusal(f *testing.F) {
	req := netlink.Message{Header: netlink.Header{Length: 24, Type: rtmNewLink}, Data: make([]byte, 8)}
	f.Add(false, uint16(netlink.AcknowledgeTLVs), ack(req, 16, "words").Data)
	f.Add(false, uint16(netlink.AcknowledgeTLVs|netlink.Capped), ack(req, 0, "words").Data)
	f.Add(true, uint16(netlink.Multi), make([]byte, 4))
	f.Fuzz(func(t *testing.T, done bool, flags uint16, b []byte) {
		m := netlink.Message{Header: netlink.Header{Type: netlink.Error, Flags: netlink.HeaderFlags(flags)}, Data: b}
		if done {
			m.Header.Type = netlink.Done
		}
		refusal(m)
	})
}
