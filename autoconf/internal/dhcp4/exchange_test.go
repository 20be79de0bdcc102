package dhcp4

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestExchange checks each message on the way to a lease, and each option of it.
func TestExchange(t *testing.T) {
	const name = "host.example.org"
	inLab(t, source.Config{FQDN: name}, func(l *lab) {
		common := func(m *dhcpv4.DHCPv4, s sourcetest.Sent) {
			t.Helper()
			if s.Port != sourcetest.Unconfigured || s.Peer != netip.MustParseAddrPort("255.255.255.255:67") || s.HW != nil {
				t.Errorf("it is sent by %s to %v, %v", s.Port, s.Peer, s.HW)
			}
			for option, want := range map[uint8]string{
				55: "01790306770f1a333a3b2a72", 57: "04b0", 61: "01020000000042",
				81: "050000" + "04686f7374076578616d706c65036f726700", 12: "",
			} {
				if got := hex.EncodeToString(m.Options[option]); got != want {
					t.Errorf("option %d is %s, want %s", option, got, want)
				}
			}
			if m.Flags != 0 || !m.ClientIPAddr.IsUnspecified() || !bytes.Equal(m.ClientHWAddr, sourcetest.MAC) || m.HWType != 1 || m.OpCode != 1 || len(s.Data) < 300 {
				t.Errorf("got %v", m)
			}
		}
		d, s := l.message(dhcpv4.MessageTypeDiscover)
		l.At(0, 0)
		common(d, s)
		if d.NumSeconds != 0 || d.Options.Has(dhcpv4.OptionRequestedIPAddress) || d.Options.Has(dhcpv4.OptionServerIdentifier) {
			t.Errorf("DISCOVER has %v", d.Summary())
		}
		time.Sleep(time.Second)
		l.offer(d, server1, mine)
		r, s := l.message(dhcpv4.MessageTypeRequest)
		l.At(time.Second+collectTime, 0)
		common(r, s)
		if r.TransactionID != d.TransactionID || r.NumSeconds != d.NumSeconds ||
			!r.RequestedIPAddress().Equal(mine.AsSlice()) || !r.ServerIdentifier().Equal(server1.AsSlice()) {
			t.Errorf("REQUEST has %v", r.Summary())
		}
		l.ack(r, server1, mine, dhcpv4.OptRouter(server2.AsSlice()))
		asked := time.Now()
		got := l.probed(mine)
		if len(got.Routes) != 1 || got.Routes[0].Gateway != server2 || got.Server != server1 {
			t.Errorf("got %+v", got)
		}
		if !got.Expires.Equal(asked.Add(time.Hour)) || !got.Rebind.Equal(asked.Add(52*time.Minute+30*time.Second)) ||
			got.Renew.After(asked.Add(30*time.Minute)) || got.Renew.Before(asked.Add(29*time.Minute)) {
			t.Errorf("T1 is at %v, T2 at %v, the end at %v", got.Renew, got.Rebind, got.Expires)
		}
		l.At(1950*time.Millisecond+announceWait, time.Millisecond)
		if want := `{"hardware_address":"02:00:00:00:00:42","address":"10.0.0.42","expires":"2000-01-01T01:00:01Z"}`; string(l.Stored()) != want {
			t.Error("what is stored is not", want)
		}
		l.Quiet(29 * time.Minute)
		if open := l.Link.Open(); !slices.Equal(open, []string{sourcetest.ARP}) {
			t.Errorf("ports are open: %q", open)
		}
	})
}

// TestNames has the names that are told to the server, and those that are not.
func TestNames(t *testing.T) {
	long := strings.Repeat("a23456789.", 25) + "abc"
	for _, tt := range []struct {
		name     string
		hostname string
		fqdn     bool
	}{
		{name: ""}, {"host", "host", false}, {"a.b", "", true}, {long, "", true}, {name: long + "d"},
		{name: "hôte.example.org"}, {name: "a b.c"}, {name: "a..b"}, {name: strings.Repeat("a", 64) + ".b"}, {name: "a.b."},
	} {
		c := client{cfg: source.Config{FQDN: tt.name}, mac: sourcetest.MAC}
		m, err := Decode(c.question(dhcpv4.MessageTypeDiscover).ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		got := m.Options.Get(dhcpv4.OptionFQDN)
		if m.HostName() != tt.hostname || (got != nil) != tt.fqdn || tt.fqdn && len(got) != 3+len(tt.name)+2 {
			t.Errorf("%q is told as host name %q, FQDN %q", tt.name, m.HostName(), got)
		}
	}
}

// TestBackOff has no server: the times of DISCOVER and of reports.
func TestBackOff(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		first, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.At(0, 0)
		last := time.Now()
		for i, wait := range []time.Duration{4, 8, 16, 32, 64, 64, 64} {
			m, _ := l.message(dhcpv4.MessageTypeDiscover)
			if got, want := time.Since(last), wait*time.Second; (got - want).Abs() > time.Second {
				t.Errorf("DISCOVER after %v, want %v", got, want)
			}
			if want := uint16(time.Since(l.Start) / time.Second); m.NumSeconds != want {
				t.Errorf("secs is %d, want %d", m.NumSeconds, want)
			}
			if same := m.TransactionID == first.TransactionID; same != (i == 0) {
				t.Errorf("transaction of DISCOVER %d is that of the first: %v", i+1, same)
			}
			last = time.Now()
		}
		for range 7 {
			l.FailedWith("no server has offered an address")
		}
	})
	inLab(t, source.Config{}, func(l *lab) {
		l.FailedWith("no server")
		l.At(source.FirstAttempt, time.Second)
		if time.Since(l.Start) > source.FirstAttempt {
			t.Error("that is too late")
		}
	})
}

// TestOffers has several servers and the offer that is chosen.
func TestOffers(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.50"), netip.MustParseAddr("10.0.0.60")
	router := dhcpv4.OptRouter(server1.AsSlice())
	for _, tt := range []struct {
		name   string
		stored string // address of a lease that has ended
		offers func(l *lab, d *dhcpv4.DHCPv4)
		server netip.Addr
		addr   netip.Addr
		wait   time.Duration
	}{
		{"first", "", func(l *lab, d *dhcpv4.DHCPv4) { l.offer(d, server1, a); l.offer(d, server2, b) }, server1, a, collectTime},
		{"router", "", func(l *lab, d *dhcpv4.DHCPv4) { l.offer(d, server1, a); l.offer(d, server2, b, router) }, server2, b, collectTime},
		{"known", b.String(), func(l *lab, d *dhcpv4.DHCPv4) { l.offer(d, server1, a, router); l.offer(d, server2, b) }, server2, b, 0},
		{"changed", "", func(l *lab, d *dhcpv4.DHCPv4) { l.offer(d, server1, a); l.offer(d, server2, a); l.offer(d, server1, b) }, server1, b, collectTime},
		{"many", "", func(l *lab, d *dhcpv4.DHCPv4) {
			for i := range 200 {
				l.offer(d, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), a)
				time.Sleep(collectTime / 100)
			}
		}, server1, a, collectTime},
		{"late", "", func(l *lab, d *dhcpv4.DHCPv4) {
			for range 2 {
				l.message(dhcpv4.MessageTypeDiscover)
			}
			l.offer(d, server1, b) // of the first attempt, which has ended
			d, _ = l.message(dhcpv4.MessageTypeDiscover)
			l.Start = time.Now()
			l.offer(d, server1, a)
		}, server1, a, collectTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := source.Config{}
			if tt.stored != "" {
				cfg.Stored = []byte(`{"hardware_address":"02:00:00:00:00:42","address":"` + tt.stored + `","expires":"1999-12-31T00:00:00Z"}`)
			}
			inLab(t, cfg, func(l *lab) {
				d, _ := l.message(dhcpv4.MessageTypeDiscover)
				if got := d.RequestedIPAddress(); (got != nil) != (tt.stored != "") {
					t.Errorf("address %v is asked for", got)
				}
				tt.offers(l, d)
				r, _ := l.message(dhcpv4.MessageTypeRequest)
				if tt.name != "many" {
					l.At(tt.wait, 0)
				}
				if !r.ServerIdentifier().Equal(tt.server.AsSlice()) || !r.RequestedIPAddress().Equal(tt.addr.AsSlice()) {
					t.Errorf("%v of %v is requested, want %v of %v", r.RequestedIPAddress(), r.ServerIdentifier(), tt.addr, tt.server)
				}
			})
		})
	}
}

// TestBrokenOffers has a server that does not keep its offers: the other one is chosen next.
func TestBrokenOffers(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.50"), netip.MustParseAddr("10.0.0.60")
	both := func(l *lab) (r *dhcpv4.DHCPv4) {
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.offer(d, server1, a)
		l.offer(d, server2, b)
		r, _ = l.message(dhcpv4.MessageTypeRequest)
		return r
	}
	inLab(t, source.Config{}, func(l *lab) { // it is silent
		r := both(l)
		for range requestTries - 1 {
			again, _ := l.message(dhcpv4.MessageTypeRequest)
			if again.TransactionID != r.TransactionID || again.NumSeconds != r.NumSeconds {
				t.Errorf("REQUEST again: %v, first %v", again, r)
			}
		}
		r = both(l)
		l.FailedWith("10.0.0.1 has offered 10.0.0.50, but does not answer")
		l.ack(r, server2, b)
		l.probed(b)
	})
	inLab(t, source.Config{}, func(l *lab) { // it refuses
		l.nak(both(l), server1)
		r := both(l)
		l.At(2*collectTime+discoverWait, time.Second)
		l.ack(r, server2, b)
		l.probed(b)
	})
	inLab(t, source.Config{}, func(l *lab) { // it refuses, and does not say who it is
		m := reply(both(l), dhcpv4.MessageTypeNak, server1, netip.Addr{})
		m.Options.Del(dhcpv4.OptionServerIdentifier)
		l.deliverFrom(server2, m) // was not asked
		l.deliverFrom(server1, m)
		r := both(l)
		l.At(2*collectTime+discoverWait, time.Second)
		l.ack(r, server2, b)
		l.probed(b)
	})
	inLab(t, source.Config{}, func(l *lab) { // it is alone, and refuses for ever
		for range 5 {
			d, _ := l.message(dhcpv4.MessageTypeDiscover)
			l.offer(d, server1, a)
			r, _ := l.message(dhcpv4.MessageTypeRequest)
			l.nak(r, server1)
		}
		if time.Since(l.Start) < 50*time.Second {
			t.Errorf("five attempts within %v", time.Since(l.Start))
		}
		l.FailedWith("server 10.0.0.1 refuses 10.0.0.50: go away")
	})
	inLab(t, source.Config{}, func(l *lab) { // it gives another address
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.offer(d, server1, a)
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server1, b)
		l.probed(b)
	})
	inLab(t, source.Config{}, func(l *lab) { // messages are lost, repeated and late
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		again, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.offer(again, server1, a)
		l.offer(d, server1, a)
		l.message(dhcpv4.MessageTypeRequest)
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.offer(d, server2, b)
		l.ack(r, server1, a)
		l.ack(r, server1, a)
		l.nak(r, server1)
		l.probed(a)
	})
}

// TestReboot begins with what was stored.
func TestReboot(t *testing.T) {
	const stored = `{"hardware_address":"02:00:00:00:00:42","address":"10.0.0.42","expires":"2000-01-02T00:00:00Z"}`
	cfg := source.Config{Stored: []byte(stored)}
	inLab(t, cfg, func(l *lab) {
		l.ack(l.reboots(), server2, mine)
		if got := l.probed(mine); got.Server != server2 {
			t.Errorf("got %+v", got)
		}
	})
	inLab(t, cfg, func(l *lab) { // the server has lost it
		l.nak(l.reboots(), server1)
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.At(0, 0)
		if d.Options.Has(dhcpv4.OptionRequestedIPAddress) {
			t.Error("DISCOVER asks for the address that was refused")
		}
		l.answer(d)
	})
	inLab(t, cfg, func(l *lab) { // the server is silent, and slow
		l.reboots()
		l.reboots()
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.At(2*rebootWait, time.Second)
		if !d.RequestedIPAddress().Equal(mine.AsSlice()) {
			t.Error("DISCOVER does not ask for the address")
		}
		time.Sleep(3 * time.Second) // it looks for the address
		l.answer(d)
		l.At(source.FirstAttempt, 3*time.Second)
	})
	for name, b := range map[string]string{
		"none": "", "null": "null", "array": "[]", "malformed": "{", "another card": strings.Replace(stored, "42", "43", 1),
		"IPv6": strings.Replace(stored, "10.0.0.42", "::1", 1), "all": strings.Replace(stored, "10.0.0.42", "255.255.255.255", 1),
		"no address": `{"hardware_address":"02:00:00:00:00:42"}`, "nested": strings.Repeat("[", 20000),
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, source.Config{Stored: []byte(b)}, func(l *lab) {
				if d, _ := l.message(dhcpv4.MessageTypeDiscover); d.Options.Has(dhcpv4.OptionRequestedIPAddress) {
					t.Errorf("address %v is asked for", d.RequestedIPAddress())
				}
			})
		})
	}
}
