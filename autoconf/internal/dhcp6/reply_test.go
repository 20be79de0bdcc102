package dhcp6

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestOptions has options and what they mean. Malformed ones are as if they were absent.
func TestOptions(t *testing.T) {
	const dns, search, ntp, portal = dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionNTPServer, dhcpv6.OptionCaptivePortal
	a := func(all ...string) (b []byte) {
		for _, s := range all {
			b = append(b, netip.MustParseAddr(s).AsSlice()...)
		}
		return b
	}
	servers := func(all ...string) func(*source.Lease) {
		return func(l *source.Lease) {
			for _, s := range all {
				l.DNS = append(l.DNS, source.Server{Addr: netip.MustParseAddr(s)})
			}
		}
	}
	domains := func(all ...string) func(*source.Lease) {
		return func(l *source.Lease) {
			for _, s := range all {
				l.Search = append(l.Search, source.Domain{Name: s})
			}
		}
	}
	var many []byte
	var manyServers []string
	for i := range 40 {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i + 1)})
		many = append(many, addr.AsSlice()...)
		if i < source.MaxItems {
			manyServers = append(manyServers, addr.String())
		}
	}
	times := func(all ...string) func(*source.Lease) {
		return func(l *source.Lease) {
			for _, s := range all {
				l.NTP = append(l.NTP, netip.MustParseAddr(s))
			}
		}
	}
	uri := func(s string) func(*source.Lease) { return func(l *source.Lease) { l.CaptivePortal = s } }
	nothing := func(*source.Lease) {}
	for _, tt := range []struct {
		name string
		code dhcpv6.OptionCode
		data []byte
		want func(*source.Lease)
	}{
		{"DNS", dns, a("2001:db8::1", "fe80::1", "2001:db8::1"), servers("2001:db8::1", "fe80::1")},
		{"DNS that are none", dns, a("::", "::1", "ff02::1", "::ffff:10.0.0.1", "fd00::1"), servers("fd00::1")},
		{"DNS, many", dns, many, servers(manyServers...)},
		{"DNS, short", dns, a("2001:db8::1")[:15], nothing},
		{"DNS, long", dns, append(a("2001:db8::1"), 0), nothing},
		{"DNS, empty", dns, nil, nothing},
		{"search", search, []byte("\x01a\x07example\x00\x01b\x00\x01a\x07example\x00"), domains("a.example", "b")},
		{"search, hostile", search, []byte("\x03a b\x00\x02\x0a;\x00\x00\x01c\x00"), domains("c")},
		{"search, short", search, []byte("\x05a"), nothing},
		{"search, compressed", search, []byte("\x01a\x00\x01b\xc0\x00"), nothing},
		{"search, outside", search, []byte("\xff\xff"), nothing},
		{"search, long", search, slices.Concat(bytes.Repeat([]byte("\x01a"), 126), []byte("\x00\x01b\x00")), domains(strings.Repeat("a.", 125)+"a", "b")},
		{"search, too long", search, bytes.Repeat([]byte("\x01a"), 128), nothing},
		{"search, many", search, bytes.Repeat([]byte("\x01a\x00\x01b\x00"), 60), domains("a", "b")},
		{"NTP", ntp, slices.Concat([]byte{0, 1, 0, 16}, a("2001:db8::1"), []byte{0, 2, 0, 16}, a("ff05::101"), []byte{0, 3, 0, 3}, []byte("\x01a\x00"), []byte{0, 9, 0, 0}), times("2001:db8::1")},
		{"NTP, short", ntp, []byte{0, 1, 0, 15, 1}, nothing},
		{"portal", portal, []byte("https://portal.example/api"), uri("https://portal.example/api")},
		{"no portal", portal, []byte("urn:ietf:params:capport:unrestricted"), nothing},
		{"portal, hostile", portal, []byte("https://a/\x1b[2J"), nothing},
		{"unknown", 9999, []byte("whatever"), nothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, _ := waiting(t, dhcpv6.MessageTypeSolicit)
			p := server1.packet(server1.message(&dhcpv6.Message{TransactionID: c.main.xid, Options: ourID(c)}, dhcpv6.MessageTypeReply, option(tt.code, tt.data...)))
			r, err := c.decode(p)
			if err != nil {
				t.Fatal(err)
			}
			want := source.Lease{Server: server1.addr}
			tt.want(&want)
			if !reflect.DeepEqual(r.options, want) {
				t.Errorf("got  %+v\nwant %+v", r.options, want)
			}
		})
	}
}

func ourID(c *client) (o dhcpv6.MessageOptions) {
	o.Add(option(dhcpv6.OptionClientID, c.duid...))
	return o
}

// TestTimes has T1, T2, and preferred and valid lifetimes, in seconds.
func TestTimes(t *testing.T) {
	const never = 0xffffffff
	for _, tt := range []struct{ t1, t2, preferred, valid, want1, want2 uint32 }{
		{1000, 1600, 2000, 3000, 1000, 1600},
		{0, 0, 2000, 3000, 1000, 1600},
		{0, 1200, 2000, 3000, 1000, 1200},
		{0, 900, 2000, 3000, 540, 900},
		{300, 0, 2000, 3000, 300, 1600},
		{1900, 0, 2000, 3000, 1900, 1900},
		{0, 0, 0, 3000, 1500, 2400},
		{0, 0, never, never, never, never},
		{1000, 1600, never, never, 1000, 1600},
		{0, 0, 2000, never, 1000, 1600},
		{never, never, 2000, 3000, 1440, 2400},
		{never, 0, 2000, 3000, 1440, 2400},
		{4000, 5000, 2000, 3000, 1440, 2400},
		{1000, 5000, 2000, 3000, 1000, 2400},
		{1, 2, 2000, 3000, 5, 5},
		{1, 1, 10, 10, 5, 5},
		{0, 0, 10, 10, 5, 8},
		{0, 0, never - 1, never - 1, 2147483647, 3435973835},
	} {
		now := time.Now()
		at := func(s uint32) time.Time { return instant(now, time.Duration(s)*time.Second) }
		l := &lease{addrs: []address{{mine, at(tt.preferred), at(tt.valid)}, {second, time.Time{}, at(tt.valid)}}}
		l.schedule(time.Duration(tt.t1)*time.Second, time.Duration(tt.t2)*time.Second, now)
		seconds := func(at time.Time) uint32 {
			if at.IsZero() {
				return never
			}
			return uint32(at.Sub(now) / time.Second)
		}
		if g1, g2 := seconds(l.renew), seconds(l.rebind); g1 != tt.want1 || g2 != tt.want2 {
			t.Errorf("%+v: T1 %d, T2 %d", tt, g1, g2)
		}
	}
}

// states are the messages that a reply can be for.
var states = []dhcpv6.MessageType{
	dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind,
	dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeInformationRequest, 0,
}

// waiting returns a client that waits for the reply to a message, or has a lease, without
// Run and its timers.
func waiting(t testing.TB, state dhcpv6.MessageType) (*client, *sourcetest.Link, *sourcetest.Sink) {
	link, sink := sourcetest.NewLink(), sourcetest.NewSink()
	c, err := newClient(source.Config{}, link, sink)
	if err != nil {
		t.Fatal(err)
	}
	c.start()
	if state == dhcpv6.MessageTypeSolicit {
		return c, link, sink
	}
	if state == dhcpv6.MessageTypeInformationRequest {
		c.inform()
		return c, link, sink
	}
	r := reply{from: server1.addr, server: server1.duid, ia: &ia{addrs: []lifetimes{{mine, time.Hour, 2 * time.Hour}, {second, time.Hour, 2 * time.Hour}}}}
	if state == dhcpv6.MessageTypeRequest {
		c.adverts = append(c.adverts, r)
		c.request()
		return c, link, sink
	}
	c.bind(r, true)
	switch state {
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		c.beginExchange(&c.main, state, c.held.rebind)
	case dhcpv6.MessageTypeConfirm:
		c.confirm(c.held, confirmTime)
	case dhcpv6.MessageTypeDecline:
		c.decline(&source.ConflictError{Addrs: []netip.Addr{second}})
	}
	return c, link, sink
}

// TestIgnored has packets that are malformed or not for the source, at each state.
func TestIgnored(t *testing.T) {
	type change func(p *source.Packet, m *dhcpv6.Message)
	drop := func(code dhcpv6.OptionCode) change {
		return func(_ *source.Packet, m *dhcpv6.Message) { m.Options.Del(code) }
	}
	add := func(code dhcpv6.OptionCode, b ...byte) change {
		return func(_ *source.Packet, m *dhcpv6.Message) { m.Options.Add(option(code, b...)) }
	}
	replace := func(code dhcpv6.OptionCode, b ...byte) change {
		return func(_ *source.Packet, m *dhcpv6.Message) { m.UpdateOption(option(code, b...)) }
	}
	typ := func(t dhcpv6.MessageType) change {
		return func(_ *source.Packet, m *dhcpv6.Message) { m.MessageType = t }
	}
	for name, change := range map[string]change{
		"transaction":  func(_ *source.Packet, m *dhcpv6.Message) { m.TransactionID[2]++ },
		"its own type": typ(dhcpv6.MessageTypeSolicit),
		"reconfigure":  typ(dhcpv6.MessageTypeReconfigure),
		"to a group":   func(p *source.Packet, _ *dhcpv6.Message) { p.Local = servers.Addr() },
		"from a group": func(p *source.Packet, _ *dhcpv6.Message) { p.Peer = servers },
		"from off the link": func(p *source.Packet, _ *dhcpv6.Message) {
			p.Peer = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), serverPort)
		},
		"from nobody":       func(p *source.Packet, _ *dhcpv6.Message) { p.Peer = netip.AddrPort{} },
		"no client":         drop(dhcpv6.OptionClientID),
		"another client":    replace(dhcpv6.OptionClientID, 0, 3, 0, 1, 2, 0, 0, 0, 0, 0x43),
		"no server":         drop(dhcpv6.OptionServerID),
		"a short server":    replace(dhcpv6.OptionServerID, 0, 1),
		"a long server":     replace(dhcpv6.OptionServerID, make([]byte, 131)...),
		"a short IA":        add(dhcpv6.OptionIANA, 0, 0, 0, 0x42, 0, 0, 0, 0, 0, 0, 0),
		"a short address":   add(dhcpv6.OptionIANA, 0, 0, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4),
		"a short status":    add(dhcpv6.OptionStatusCode, 0),
		"a long preference": add(dhcpv6.OptionPreference, 1, 2),
		"long":              add(9999, make([]byte, maxReply)...),
	} {
		for _, state := range states {
			synctest.Test(t, func(t *testing.T) {
				c, link, sink := waiting(t, state)
				sent, said := len(link.Sent), len(sink.Said)
				xid := c.main.xid
				if state == dhcpv6.MessageTypeInformationRequest {
					xid = c.info.xid
				}
				m := server1.message(&dhcpv6.Message{TransactionID: xid, Options: ourID(c)}, dhcpv6.MessageTypeReply, addrs(mine), rapid)
				p := server1.packet(m)
				change(&p, m)
				p.Data = m.ToBytes()
				c.received(p)
				c.received(source.Packet{Data: p.Data[:3], Peer: p.Peer, Local: p.Local})
				if len(link.Sent) != sent || len(sink.Said) != said {
					t.Errorf("%s is taken for an answer to %v", name, state)
				}
				if state == 0 || name != "transaction" {
					return
				}
				// And the right one is taken.
				m.TransactionID[2]--
				c.received(server1.packet(m))
				if state != dhcpv6.MessageTypeInformationRequest && c.main.typ == state {
					t.Errorf("the answer to %v is not taken", state)
				}
			})
		}
	}
}

// FuzzReply gives packets to a client in each state. The identifiers are put into a packet,
// so that it passes the first checks.
func FuzzReply(f *testing.F) {
	to := &dhcpv6.Message{}
	to.AddOption(option(dhcpv6.OptionClientID, 0, 3, 0, 1, 2, 0, 0, 0, 0, 0x42))
	for state := range states {
		for _, m := range []*dhcpv6.Message{
			server1.message(to, dhcpv6.MessageTypeReply, rapid, addrs(mine, second), dhcpv6.OptDNS([]byte(mine.AsSlice())), dhcpv6.OptInformationRefreshTime(time.Hour)),
			server1.message(to, dhcpv6.MessageTypeReply, statusOf(4), option(dhcpv6.OptionDomainSearchList, []byte("\x01b\x07example\x00\xc0\x00")...)),
			server1.message(to, dhcpv6.MessageTypeReply, refusal(3)),
			server1.message(to, dhcpv6.MessageTypeAdvertise, option(dhcpv6.OptionPreference, 255), addrs(mine), option(dhcpv6.OptionNTPServer, 0, 1, 0, 1, 1)),
			server1.message(to, dhcpv6.MessageTypeReply, lifetimesOf(addrs(mine), 0, 0, 0), option(dhcpv6.OptionIANA, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 200}, 8)...)),
		} {
			f.Add(byte(state), m.ToBytes())
		}
	}
	f.Fuzz(func(t *testing.T, state byte, b []byte) {
		c, link, sink := waiting(t, states[int(state)%len(states)])
		for len(link.Sent)+len(sink.Said) > 0 {
			select {
			case <-link.Sent:
			case <-sink.Said:
			}
		}
		if len(b) >= 4 {
			xid := c.main.xid
			if c.info.running() {
				xid = c.info.xid
			}
			copy(b[1:], xid[:])
		}
		for range 2 {
			c.received(source.Packet{Data: b, Peer: netip.AddrPortFrom(server1.addr, serverPort)})
		}
		if n := len(link.Sent); n > 3 {
			t.Errorf("a packet makes %d", n)
		}
		for len(sink.Said) > 0 {
			switch said := (<-sink.Said).(type) {
			case source.Lease:
				checkLease(t, said)
				if soon := time.Now().Add(minRenew - time.Second); len(said.Addrs) > 0 && !said.Renew.IsZero() &&
					(said.Renew.Before(soon) || !said.Rebind.IsZero() && said.Rebind.Before(said.Renew)) {
					t.Errorf("T1 is at %v, T2 at %v", said.Renew, said.Rebind)
				}
			case json.RawMessage:
				duid, iaid, l := loadStored(said, sourcetest.MAC)
				if !bytes.Equal(duid, c.duid) || iaid != c.iaid || (l == nil) != (c.held == nil) {
					t.Errorf("%s is stored", said)
				}
			case error:
				if s := said.Error(); len(s) > 1000 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
					t.Errorf("the error is %q", s)
				}
			}
		}
		if c.solMaxRT < minMaxRT || c.infMaxRT < minMaxRT || c.solMaxRT > maxMaxRT || c.infMaxRT > maxMaxRT {
			t.Errorf("the longest waits are %v and %v", c.solMaxRT, c.infMaxRT)
		}
		if at := c.soonest(); c.held != nil && time.Until(at) > 2*time.Hour && !at.IsZero() && c.main.running() {
			t.Errorf("the next step is at %v", at)
		}
	})
}

// checkLease checks what the sink is told.
func checkLease(t *testing.T, l source.Lease) {
	t.Helper()
	now := time.Now()
	if max(len(l.Addrs), len(l.DNS), len(l.Search), len(l.NTP)) > source.MaxItems {
		t.Errorf("too much: %+v", l)
	}
	for _, a := range l.Addrs {
		if addr := a.Prefix.Addr(); a.Prefix.Bits() != 128 || !isHost(addr) || addr.IsLinkLocalUnicast() || source.Due(a.Valid, now) ||
			!a.Valid.IsZero() && (a.Preferred.IsZero() || a.Preferred.After(a.Valid)) {
			t.Errorf("the address %+v", a)
		}
	}
	for _, d := range l.DNS {
		if !isHost(d.Addr) {
			t.Errorf("the DNS server %v", d)
		}
	}
	for _, d := range l.Search {
		if !source.IsName(d.Name) {
			t.Errorf("the domain %q", d.Name)
		}
	}
}

// FuzzStored has data that was stored, perhaps by somebody else.
func FuzzStored(f *testing.F) {
	l := newLease(reply{from: server1.addr, server: server1.duid, ia: &ia{addrs: []lifetimes{{mine, time.Hour, infinite}}}}, time.Now())
	l.options = source.Lease{DNS: []source.Server{{Addr: mine}}, Search: []source.Domain{{Name: "a.b"}}, NTP: []netip.Addr{second}, CaptivePortal: "https://a/b"}
	f.Add([]byte(encode([]byte{0, 3, 1}, ourIA, l)))
	f.Add([]byte(`{"duid":"000301","iaid":"00000042","server":"000301","addresses":[{"address":"2001:db8::1","valid":"9999-12-31T00:00:00Z"}]}`))
	for _, times := range []string{`"valid":"2999-12-31T00:00:00Z"`, `"preferred":"2099-12-31T00:00:00Z","valid":"2098-12-31T00:00:00Z"`, `"preferred":"2099-12-31T00:00:00Z"`} {
		f.Add([]byte(`{"duid":"000301","iaid":"00000042","server":"000301","addresses":[{"address":"2001:db8::1",` + times + `}]}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		duid, iaid, l := loadStored(b, sourcetest.MAC)
		if l != nil {
			l.expire(time.Now())
			l.schedule(0, 0, time.Now())
			checkLease(t, l.source())
		}
		again := encode(duid, iaid, l)
		if d, i, _ := loadStored(again, nil); !bytes.Equal(d, duid) || i != iaid {
			t.Errorf("%s becomes %s", b, again)
		}
	})
}
