package dhcp4

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// generic returns an option of bytes.
func generic(code uint8, b ...byte) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), b)
}

// repeat returns n addresses 10.0.1.0, 10.0.1.1, ….
func repeat(n int) (b []byte) {
	for i := range n {
		b = append(b, 10, 0, 1, byte(i))
	}
	return b
}

// TestOptions has options and the lease that they make.
func TestOptions(t *testing.T) {
	route := func(dst, gw string) source.Route {
		a, _ := netip.ParseAddr(gw)
		return source.Route{Dst: netip.MustParsePrefix(dst), Gateway: a}
	}
	routes := func(all ...source.Route) func(l *source.Lease) { return func(l *source.Lease) { l.Routes = all } }
	search := func(all ...string) func(l *source.Lease) {
		return func(l *source.Lease) {
			for _, name := range all {
				l.Search = append(l.Search, source.Domain{Name: name})
			}
		}
	}
	dns := func(all ...string) func(l *source.Lease) {
		return func(l *source.Lease) {
			for _, a := range all {
				l.DNS = append(l.DNS, source.Server{Addr: netip.MustParseAddr(a)})
			}
		}
	}
	prefix := func(p string) func(l *source.Lease) {
		return func(l *source.Lease) { l.Addrs[0].Prefix = netip.MustParsePrefix(p) }
	}
	portal := func(uri string) func(l *source.Lease) { return func(l *source.Lease) { l.CaptivePortal = uri } }
	nothing := func(*source.Lease) {}
	viaRouter := []byte{32, 10, 99, 0, 1, 0, 0, 0, 0} // 10.99.0.1 on the link
	defaultRoute := []byte{0, 10, 0, 0, 1}
	names := []byte("\x03abc\x07example\x03org\x00\x01x\xc0\x04\x00\x03a b\x00\x03abc\xc0\x04")
	for _, tt := range []struct {
		name    string
		options []dhcpv4.Option
		want    func(l *source.Lease)
	}{
		{"none", nil, nothing},
		{"mask", []dhcpv4.Option{generic(1, 255, 255, 240, 0)}, prefix("10.0.0.42/20")},
		{"mask of a host", []dhcpv4.Option{generic(1, 255, 255, 255, 255)}, prefix("10.0.0.42/32")},
		{"mask of two", []dhcpv4.Option{generic(1, 255, 255, 255, 254)}, prefix("10.0.0.42/31")},
		{"mask with a hole", []dhcpv4.Option{generic(1, 255, 0, 255, 0)}, prefix("10.0.0.42/8")},
		{"mask of all", []dhcpv4.Option{generic(1, 0, 0, 0, 0)}, prefix("10.0.0.42/8")},
		{"mask, short", []dhcpv4.Option{generic(1, 255, 255)}, prefix("10.0.0.42/8")},

		{"router", []dhcpv4.Option{generic(3, 10, 0, 0, 1)}, routes(route("0.0.0.0/0", "10.0.0.1"))},
		{"routers", []dhcpv4.Option{generic(3, 10, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 1)}, routes(route("0.0.0.0/0", "10.0.0.1"), route("0.0.0.0/0", "10.0.0.2"))},
		{"router outside", []dhcpv4.Option{generic(3, 10, 9, 0, 1)}, routes(route("10.9.0.1/32", ""), route("0.0.0.0/0", "10.9.0.1"))},
		{"routers that are none", []dhcpv4.Option{generic(3, 0, 0, 0, 0, 127, 0, 0, 1, 224, 0, 0, 1, 255, 255, 255, 255, 10, 0, 0, 42)}, nothing},
		{"router, short", []dhcpv4.Option{generic(3, 10, 0, 0)}, nothing},
		{"too many routers", []dhcpv4.Option{generic(3, repeat(40)...), generic(1, 255, 0, 0, 0)}, func(l *source.Lease) {
			prefix("10.0.0.42/8")(l)
			for i := range source.MaxItems {
				l.Routes = append(l.Routes, route("0.0.0.0/0", fmt.Sprintf("10.0.1.%d", i)))
			}
		}},
		{"classless", []dhcpv4.Option{generic(3, 10, 0, 0, 9), generic(121, append(defaultRoute, 22, 10, 8, 7, 10, 0, 0, 2)...)},
			routes(route("0.0.0.0/0", "10.0.0.1"), route("10.8.4.0/22", "10.0.0.2"))},
		{"classless, of a cloud", []dhcpv4.Option{generic(1, 255, 255, 255, 255), generic(121, append([]byte{0, 10, 99, 0, 1}, viaRouter...)...)},
			func(l *source.Lease) {
				prefix("10.0.0.42/32")(l)
				l.Routes = []source.Route{route("10.99.0.1/32", ""), route("0.0.0.0/0", "10.99.0.1")}
			}},
		{"classless, malformed", []dhcpv4.Option{generic(3, 10, 0, 0, 9), generic(121, 33, 1, 2, 3, 4, 5, 10, 0, 0, 1)}, routes(route("0.0.0.0/0", "10.0.0.9"))},
		{"classless, short", []dhcpv4.Option{generic(121, append(defaultRoute, 24, 10, 1)...)}, nothing},
		{"classless to nowhere", []dhcpv4.Option{generic(121, 8, 127, 10, 0, 0, 1, 4, 224, 10, 0, 0, 1, 0, 127, 0, 0, 1, 0, 10, 0, 0, 42)}, nothing},

		{"DNS", []dhcpv4.Option{generic(6, 10, 0, 0, 1, 0, 0, 0, 0, 255, 255, 255, 255, 10, 0, 0, 1, 8, 8, 8, 8)}, dns("10.0.0.1", "8.8.8.8")},
		{"DNS, long", []dhcpv4.Option{generic(6, repeat(100)...)}, func(l *source.Lease) {
			for i := range source.MaxItems {
				dns(fmt.Sprintf("10.0.1.%d", i))(l)
			}
		}},
		{"domain", []dhcpv4.Option{generic(15, []byte("example.org.\x00\x00")...)}, search("example.org")},
		{"domains", []dhcpv4.Option{generic(15, []byte("a.example b.example")...)}, search("a.example", "b.example")},
		{"domain that is none", []dhcpv4.Option{generic(15, []byte("a\nnameserver")...)}, search("a", "nameserver")}, // as two names
		{"domain, hostile", []dhcpv4.Option{generic(15, []byte("$(a);b")...)}, nothing},
		{"search", []dhcpv4.Option{generic(119, names...), generic(15, []byte("not.this")...)}, search("abc.example.org", "x.example.org")},
		{"search, looping", []dhcpv4.Option{generic(119, 1, 'a', 0xc0, 2), generic(15, 'b')}, search("b")},
		{"search, outside", []dhcpv4.Option{generic(119, 0xff, 0xff)}, nothing},
		{"search, short", []dhcpv4.Option{generic(119, 0xc0)}, nothing},
		{"search, too long", []dhcpv4.Option{generic(119, bytes.Repeat([]byte("\x01a\x00"), 200)...)}, nothing},
		{"search, many", []dhcpv4.Option{generic(119, bytes.Repeat([]byte("\x01a\x00\x01b\x00"), 60)...)}, search("a", "b")},

		{"MTU", []dhcpv4.Option{generic(26, 5, 120)}, func(l *source.Lease) { l.MTU = 1400 }},
		{"MTU, small", []dhcpv4.Option{generic(26, 0, 68)}, nothing},
		{"MTU, long", []dhcpv4.Option{generic(26, 5, 120, 0)}, nothing},
		{"NTP", []dhcpv4.Option{generic(42, 10, 0, 0, 1, 10, 0, 0, 1)}, func(l *source.Lease) { l.NTP = []netip.Addr{server1} }},
		{"portal", []dhcpv4.Option{generic(114, []byte("https://portal.example/api?"+strings.Repeat("a", 300))...)}, portal("https://portal.example/api?" + strings.Repeat("a", 300))},
		{"no portal", []dhcpv4.Option{generic(114, []byte("urn:ietf:params:capport:unrestricted")...)}, nothing},
		{"portal, hostile", []dhcpv4.Option{generic(114, []byte("https://a/\x1b[2J")...)}, nothing},
		{"portal, a file", []dhcpv4.Option{generic(114, []byte("file:///etc/passwd")...)}, nothing},
		{"portal, a script", []dhcpv4.Option{generic(114, []byte("javascript:alert(1)")...)}, nothing},
		{"portal, relative", []dhcpv4.Option{generic(114, []byte("a/b")...)}, nothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := reply(&dhcpv4.DHCPv4{}, dhcpv4.MessageTypeAck, server1, mine, tt.options...)
			b := m.ToBytes()
			if m, _ = Decode(b); m == nil {
				t.Fatal("the message is not decoded")
			}
			l, err := parseLease(m, server1)
			if err != nil {
				t.Fatal(err)
			}
			want := source.Lease{Server: server1, Addrs: []source.Addr{{Prefix: netip.MustParsePrefix("10.0.0.42/24")}}}
			tt.want(&want)
			if got := l.source(); !reflect.DeepEqual(got, want) && fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestTimes has T1, T2 and times of leases, in seconds.
func TestTimes(t *testing.T) {
	const never = 0xffffffff
	type s = []uint32 // T1, T2 and the time that the server says; 1 is said to be absent
	const absent = 1
	for _, tt := range []struct{ said, want s }{
		{s{absent, absent, 3600}, s{1800, 3150, 3600}},
		{s{absent, absent, absent}, s{1800, 3150, 3600}},
		{s{600, 1200, 3600}, s{600, 1200, 3600}},
		{s{1200, 600, 3600}, s{342, 600, 3600}},
		{s{1200, absent, 3600}, s{1200, 3150, 3600}},
		{s{absent, 1000, 3600}, s{571, 1000, 3600}},
		{s{0, 0, 3600}, s{1800, 3150, 3600}},
		{s{never, never, 3600}, s{1800, 3150, 3600}},
		{s{3600, 3600, 3600}, s{1800, 3150, 3600}},
		{s{2, 3, 3600}, s{1800, 3150, 3600}},
		{s{2, 11, 3600}, s{6, 11, 3600}},
		{s{absent, absent, 10}, s{5, 8, 10}},
		{s{absent, absent, never - 1}, s{2147483647, 3758096382, never - 1}},
		{s{600, 1200, never}, s{0, 0, 0}},
		{s{600, 1200, 0}, nil},
		{s{absent, absent, 9}, nil},
	} {
		m := reply(&dhcpv4.DHCPv4{}, dhcpv4.MessageTypeAck, server1, mine)
		m.DeleteOption(dhcpv4.OptionIPAddressLeaseTime)
		for i, code := range []uint8{58, 59, 51} {
			if v := tt.said[i]; v != absent {
				m.UpdateOption(generic(code, byte(v>>24), byte(v>>16), byte(v>>8), byte(v)))
			}
		}
		l, err := parseLease(m, server1)
		var got s
		if err == nil {
			got = s{uint32(l.t1 / time.Second), uint32(l.t2 / time.Second), uint32(l.time / time.Second)}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v is taken for %v, %v, want %v", tt.said, got, err, tt.want)
		}
		now := time.Now()
		l.start(now)
		if err == nil && l.time > 0 && (!now.Before(l.renew) || !l.renew.Before(l.rebind) || !l.rebind.Before(l.expires)) {
			t.Errorf("%v: T1 is at %v, T2 at %v, the end at %v", tt.said, l.renew, l.rebind, l.expires)
		}
	}
}

// TestAddresses has addresses that cannot be a host's, and masks.
func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		addr, mask string
		ok         bool
	}{
		{"10.0.0.42", "255.255.255.0", true}, {"10.0.0.0", "255.255.255.254", true}, {"10.0.0.255", "255.255.0.0", true},
		{"10.0.0.0", "255.255.255.0", false}, {"10.0.0.255", "255.255.255.0", false}, {"0.0.0.0", "255.0.0.0", false},
		{"0.1.2.3", "255.0.0.0", false}, {"127.0.0.1", "255.0.0.0", false}, {"224.0.0.1", "255.0.0.0", false},
		{"240.0.0.1", "255.0.0.0", false}, {"255.255.255.255", "255.255.255.255", false}, {"169.254.1.1", "255.255.0.0", true},
	} {
		mask := netip.MustParseAddr(tt.mask).AsSlice()
		m := reply(&dhcpv4.DHCPv4{}, dhcpv4.MessageTypeAck, server1, netip.MustParseAddr(tt.addr), generic(1, mask...))
		if _, err := parseLease(m, server1); (err == nil) != tt.ok {
			t.Errorf("%s with mask %s: %v", tt.addr, tt.mask, err)
		}
	}
}

// TestOverload has options in the fields for the server's name and the file.
func TestOverload(t *testing.T) {
	for _, tt := range []struct {
		overload byte
		sname    string
		file     string
		routers  int
		fails    bool
	}{
		{1, "\x03\x04\x0a\x00\x00\x01\xff", "\x03\x04\x0a\x00\x00\x02\xff", 1, false},
		{2, "\x03\x04\x0a\x00\x00\x01\xff", "\x03\x04\x0a\x00\x00\x02\xff", 1, false},
		{3, "\x03\x04\x0a\x00\x00\x01\xff", "\x03\x04\x0a\x00\x00\x02", 2, false},
		{7, "\x03\x04\x0a\x00\x00\x01\xff", "\x03\x04\x0a\x00\x00\x02", 2, false},
		{0, "\x03\x04\x0a\x00\x00\x01\xff", "\x03\x04\x0a\x00\x00\x02", 0, false},
		{3, strings.Repeat("\x03", 64), "\x03\xfe", 0, true},
	} {
		b := reply(&dhcpv4.DHCPv4{}, dhcpv4.MessageTypeAck, server1, mine, generic(52, tt.overload)).ToBytes()
		copy(b[offsetServerName:], tt.sname)
		copy(b[offsetFile:], tt.file)
		m, err := Decode(b)
		switch {
		case (err != nil) != tt.fails:
			t.Errorf("overload %d: %v", tt.overload, err)
		case err == nil && len(m.Router()) != tt.routers:
			t.Errorf("overload %d: routers %v, want %d", tt.overload, m.Router(), tt.routers)
		}
	}
}

// TestReplies has messages that are not for the source, at each state that waits for one,
// and then the right one.
func TestReplies(t *testing.T) {
	type change func(p *source.Packet, m *dhcpv4.DHCPv4)
	wrong := map[string]change{
		"port":           func(p *source.Packet, m *dhcpv4.DHCPv4) { p.Peer = netip.AddrPortFrom(p.Peer.Addr(), 1067) },
		"source":         func(p *source.Packet, m *dhcpv4.DHCPv4) { p.Peer = netip.AddrPortFrom(netip.IPv4Unspecified(), 67) },
		"transaction":    func(p *source.Packet, m *dhcpv4.DHCPv4) { m.TransactionID[0]++ },
		"operation":      func(p *source.Packet, m *dhcpv4.DHCPv4) { m.OpCode = 1 },
		"hardware":       func(p *source.Packet, m *dhcpv4.DHCPv4) { m.HWType = 6 },
		"another client": func(p *source.Packet, m *dhcpv4.DHCPv4) { m.ClientHWAddr = []byte{2, 0, 0, 0, 0, 0x43} },
		"long client":    func(p *source.Packet, m *dhcpv4.DHCPv4) { m.ClientHWAddr = append(slices.Clone(m.ClientHWAddr), 0) },
		"identifier":     func(p *source.Packet, m *dhcpv4.DHCPv4) { m.UpdateOption(generic(61, 1, 2, 0, 0, 0, 0, 0x43)) },
		"no server":      func(p *source.Packet, m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionServerIdentifier) },
		"server 0":       func(p *source.Packet, m *dhcpv4.DHCPv4) { m.UpdateOption(generic(54, 0, 0, 0, 0)) },
		"no type":        func(p *source.Packet, m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionDHCPMessageType) },
		"its own type": func(p *source.Packet, m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
		},
		"no address": func(p *source.Packet, m *dhcpv4.DHCPv4) { m.YourIPAddr = nil },
		"no time":    func(p *source.Packet, m *dhcpv4.DHCPv4) { m.UpdateOption(generic(51, 0, 0, 0, 0)) },
		"long":       func(p *source.Packet, m *dhcpv4.DHCPv4) { m.UpdateOption(generic(200, make([]byte, maxReply)...)) },
	}
	bytesOf := map[string]func(b []byte) []byte{
		"empty":        func(b []byte) []byte { return nil },
		"short":        func(b []byte) []byte { return b[:200] },
		"cookie":       func(b []byte) []byte { b[offsetCookie] ^= 1; return b },
		"no end":       func(b []byte) []byte { return bytes.TrimRight(b, "\x00\xff") },
		"cut":          func(b []byte) []byte { return b[:offsetCookie+6] },
		"only options": func(b []byte) []byte { return b[offsetCookie:] },
	}
	inLab(t, source.Config{}, func(l *lab) {
		send := func(m *dhcpv4.DHCPv4) {
			b := m.ToBytes()
			peer := netip.AddrPortFrom(server1, serverPort)
			for _, f := range wrong {
				bad, err := dhcpv4.FromBytes(b)
				if err != nil {
					t.Fatal(err)
				}
				p := source.Packet{Peer: peer}
				f(&p, bad)
				p.Data = bad.ToBytes()
				l.Link.Deliver(sourcetest.Unconfigured, p)
				time.Sleep(time.Millisecond)
			}
			for _, f := range bytesOf {
				l.Link.Deliver(sourcetest.Unconfigured, source.Packet{Data: f(bytes.Clone(b)), Peer: peer})
			}
			l.Quiet(100 * time.Millisecond)
			l.deliver(m)
		}
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		for _, unasked := range []dhcpv4.MessageType{dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak} {
			l.deliver(reply(d, unasked, server1, mine))
		}
		send(reply(d, dhcpv4.MessageTypeOffer, server1, mine))
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server2, mine)
		l.nak(r, server2)
		send(reply(r, dhcpv4.MessageTypeAck, server1, mine))
		l.probed(mine)
		l.Stored()
		send(reply(l.asksToRenew(server1), dhcpv4.MessageTypeAck, server1, mine))
		l.Set()
	})
}

// FuzzReply checks what options are taken for, wherever they are in a message.
func FuzzReply(f *testing.F) {
	all := make(dhcpv4.Options)
	for _, o := range []dhcpv4.Option{
		generic(3, repeat(3)...), generic(6, repeat(9)...), generic(15, 'a'), generic(26, 5, 0), generic(42, repeat(2)...),
		generic(114, []byte("https://a")...), generic(121, 0, 10, 0, 0, 1, 24, 10, 9, 9, 0, 0, 0, 0), generic(119, 1, 'a', 0, 1, 'b', 0xc0, 0),
		generic(51, 0, 0, 4, 0), generic(58, 0, 0, 1, 0), generic(59, 0, 0, 2, 0), generic(1, 255, 255, 255, 0),
	} {
		all.Update(o)
	}
	header := reply(&dhcpv4.DHCPv4{HWType: 1, ClientHWAddr: sourcetest.MAC}, dhcpv4.MessageTypeAck, server1, mine).ToBytes()[:offsetCookie+4]
	f.Add(append(all.ToBytes(), 255), []byte{})
	f.Add([]byte{52, 1, 3, 255}, append(make([]byte, 64), all.ToBytes()...))
	f.Fuzz(func(t *testing.T, options, fields []byte) {
		b := append(bytes.Clone(header), options...)
		copy(b[offsetServerName:offsetCookie], fields)
		c := client{mac: sourcetest.MAC}
		m := c.reply(source.Packet{Data: b, Peer: netip.AddrPortFrom(server1, serverPort)})
		if m == nil {
			return
		}
		l, err := parseLease(m, server1)
		if err != nil {
			return
		}
		now := time.Now()
		l.start(now)
		s := l.source()
		a := s.Addrs[0].Prefix
		if !isHost(a.Addr()) || a.Bits() < 1 {
			t.Errorf("address %v", a)
		}
		if l.time != 0 && (s.Renew.Before(now.Add(minRenew/2)) || !s.Renew.Before(s.Rebind) || !s.Rebind.Before(s.Expires)) {
			t.Errorf("T1 is at %v, T2 at %v, the end at %v", s.Renew, s.Rebind, s.Expires)
		}
		for _, n := range []int{len(s.Routes), len(s.DNS), len(s.Search), len(s.NTP)} {
			if n > source.MaxItems {
				t.Errorf("a list of %d", n)
			}
		}
		for i, r := range s.Routes {
			near := func(d source.Route) bool { return !d.Gateway.IsValid() && d.Dst.Contains(r.Gateway) }
			if r.Dst != r.Dst.Masked() || r.Gateway.IsValid() && !a.Contains(r.Gateway) && !slices.ContainsFunc(s.Routes[:i], near) {
				t.Errorf("route %+v among %+v", r, s.Routes)
			}
		}
		for _, d := range s.Search {
			if !source.IsName(d.Name) {
				t.Errorf("domain %q", d.Name)
			}
		}
		if addr, valid := loadStored(l.stored(sourcetest.MAC, time.Hour), sourcetest.MAC); addr != a.Addr() || !valid {
			t.Errorf("%v is stored as %v, valid: %v", a, addr, valid)
		}
	})
}

// FuzzOthers checks that an ARP packet and stored data do no harm.
func FuzzOthers(f *testing.F) {
	f.Add(AppendARP(nil, sourcetest.MAC, mine, mine))
	f.Add([]byte((&lease{addr: netip.PrefixFrom(mine, 24)}).stored(sourcetest.MAC, time.Hour)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if Conflicts(b, sourcetest.MAC, mine) && !bytes.Contains(b, mine.AsSlice()) {
			t.Errorf("%x is a conflict", b)
		}
		if addr, valid := loadStored(json.RawMessage(b), sourcetest.MAC); valid && !isHost(addr) {
			t.Errorf("%q is the address %v", b, addr)
		}
	})
}
