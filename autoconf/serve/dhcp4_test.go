package serve

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/dhcp4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// network is what the interface of the server has.
var network = testenv.Prefixes("10.0.0.1/24")

// pool returns pools of one range.
func pool(first, last string) []Range {
	return []Range{{netip.MustParseAddr(first), netip.MustParseAddr(last)}}
}

// A lab is a server on a link, in a bubble. The test is its network.
type lab struct {
	*testing.T
	link *sourcetest.Link
	s    *dhcp4Server
}

func inLab(t *testing.T, c Config, f func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		link := sourcetest.NewLink()
		s, err := newDHCP4(testenv.Must(c.check())(t), link, network)
		testenv.Check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		t.Cleanup(cancel) // after Fatal
		f(&lab{t, link, s})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if open := link.Open(); len(open) > 0 {
			t.Errorf("ports are open: %q", open)
		}
	})
}

func mac(n int) net.HardwareAddr {
	return binary.BigEndian.AppendUint32([]byte{2, 1}, uint32(n))
}

func hostName(s string) dhcpv4.Option { return dhcpv4.OptHostName(s) }
func serverID(a string) dhcpv4.Option {
	return dhcpv4.OptServerIdentifier(netip.MustParseAddr(a).AsSlice())
}
func wants(a string) dhcpv4.Option {
	return dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(a).AsSlice())
}

// message returns a message of a client. ciaddr may be empty.
func message(t dhcpv4.MessageType, n int, ciaddr string, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, TransactionID: dhcpv4.TransactionID{1, 2, 3, byte(n)},
		ClientHWAddr: mac(n), Options: make(dhcpv4.Options),
	}
	if ciaddr != "" {
		m.ClientIPAddr = netip.MustParseAddr(ciaddr).AsSlice()
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
)

// send delivers a message.
func (l *lab) send(t dhcpv4.MessageType, n int, ciaddr string, options ...dhcpv4.Option) {
	l.Helper()
	l.deliver(message(t, n, ciaddr, options...))
}

func (l *lab) deliver(m *dhcpv4.DHCPv4) {
	l.Helper()
	l.link.Deliver(sourcetest.UDP(netip.MustParseAddrPort("0.0.0.0:67")), source.Packet{Data: m.ToBytes(), Peer: netip.MustParseAddrPort("0.0.0.0:68")})
	synctest.Wait()
}

// got returns what the server sends within a second, ARP requests left out, as text: "OFFER
// 10.0.0.2 to 10.0.0.2", and the last message.
func (l *lab) got() (text string, last *dhcpv4.DHCPv4) {
	l.Helper()
	var all []string
	for end := time.After(time.Second); ; {
		select {
		case s := <-l.link.Sent:
			if s.Port == sourcetest.ARP {
				continue
			}
			m, err := dhcp4.Decode(s.Data)
			testenv.Check(l, err)
			if m.ServerIdentifier().String() != "10.0.0.1" || s.Port == sourcetest.Unconfigured && s.Local != network[0].Addr() {
				l.Errorf("server %v, sent from %v", m.ServerIdentifier(), s.Local)
			}
			last = m
			all = append(all, fmt.Sprintf("%v %v to %v", m.MessageType(), m.YourIPAddr, s.Peer.Addr()))
		case <-end:
			return strings.Join(all, ", "), last
		}
	}
}

// want checks what the server sends, and returns the last message.
func (l *lab) want(want string) *dhcpv4.DHCPv4 {
	l.Helper()
	got, m := l.got()
	if got != want {
		l.Fatalf("got %q, want %q", got, want)
	}
	return m
}

// get has a client get a lease of an address.
func (l *lab) get(n int, addr string, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	l.Helper()
	l.send(discover, n, "", options...)
	l.want(fmt.Sprintf("OFFER %s to %[1]s", addr))
	l.send(request, n, "", append(options, serverID("10.0.0.1"), wants(addr))...)
	return l.want(fmt.Sprintf("ACK %s to %[1]s", addr))
}

// names returns the leases as "10.0.0.2 name".
func (l *lab) names() string {
	var all []string
	for _, b := range l.s.table.leases(time.Now()) {
		all = append(all, strings.TrimSuffix(b.Addr.String()+" "+b.Name, " "))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// TestDHCP4Options gives a client all that there is.
func TestDHCP4Options(t *testing.T) {
	cfg := Config{
		Domain: "Lab.Example", Search: []string{"lab.example", "example"}, Nameservers: testenv.Addrs("10.0.0.3", "fd00::3"), MTU: 1400,
		DHCP4: DHCP4{
			Routers: testenv.Addrs("10.0.0.9"), NTP: testenv.Addrs("10.0.0.4"), LeaseTime: 2 * time.Hour,
			Routes: []Route{{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.0.0.8")}},
		},
	}
	inLab(t, cfg, func(l *lab) {
		m := l.get(1, "10.0.0.2", hostName("Host"))
		for _, tt := range []struct{ got, want any }{
			{m.SubnetMask(), "ffffff00"}, {m.Router(), "[10.0.0.9]"}, {m.DNS(), "[10.0.0.3]"}, {m.DomainName(), "lab.example"},
			{m.DomainSearch().Labels, "[lab.example example]"}, {m.NTPServers(), "[10.0.0.4]"}, {m.HostName(), "host"},
			{m.IPAddressLeaseTime(0), "2h0m0s"}, {m.IPAddressRenewalTime(0), "1h0m0s"}, {m.IPAddressRebindingTime(0), "1h45m0s"},
			{m.Options.Get(dhcpv4.OptionInterfaceMTU), "[5 120]"},
			{m.ClasslessStaticRoute(), "[route to 10.1.0.0/16 via 10.0.0.8 route to 0.0.0.0/0 via 10.0.0.9]"},
		} {
			if got := fmt.Sprint(tt.got); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		}
		if got := l.names(); got != "10.0.0.2 host.lab.example" {
			t.Errorf("leases: %s", got)
		}
		// Only what is asked for.
		m = l.get(2, "10.0.0.5", dhcpv4.OptGeneric(dhcpv4.OptionParameterRequestList, []byte{dhcpv4.OptionRouter.Code()}))
		if m.DNS() != nil || m.SubnetMask() != nil || m.Router() == nil {
			t.Errorf("a client that asks for routers gets %v", m.Options)
		}
		// Without an address.
		l.send(dhcpv4.MessageTypeInform, 3, "10.0.0.77")
		m = l.want("ACK 0.0.0.0 to 10.0.0.77")
		if m.DNS() == nil || m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
			t.Errorf("INFORM gets %v", m.Options)
		}
		l.send(dhcpv4.MessageTypeInform, 3, "192.0.2.1")
		l.want("")
	})
}

// TestDHCP4Size keeps messages as small as a client wants them.
func TestDHCP4Size(t *testing.T) {
	var cfg Config
	for i := range 20 {
		cfg.Search = append(cfg.Search, fmt.Sprintf("a-long-label-%d.another-long-label.example", i))
	}
	inLab(t, cfg, func(l *lab) {
		if m := l.get(1, "10.0.0.2"); len(m.ToBytes()) > 548 || m.DomainSearch() != nil || m.Router() == nil {
			t.Errorf("got %d bytes, %v", len(m.ToBytes()), m.Options)
		}
		if m := l.get(2, "10.0.0.3", dhcpv4.OptMaxMessageSize(1500)); len(m.DomainSearch().Labels) != 20 {
			t.Errorf("got %v", m.Options)
		}
		l.get(3, "10.0.0.4", dhcpv4.OptGeneric(dhcpv4.OptionMaximumDHCPMessageSize, []byte{1}))
	})
}

// TestDHCP4Life follows a client, RFC 2131, section 4.3.2.
func TestDHCP4Life(t *testing.T) {
	inLab(t, Config{DHCP4: DHCP4{Pools: pool("10.0.0.50", "10.0.0.60")}}, func(l *lab) {
		l.get(1, "10.0.0.50")
		l.send(discover, 1, "") // it has lost it: at once, for it was not given to another
		l.want("OFFER 10.0.0.50 to 10.0.0.50")
		l.send(request, 1, "", wants("10.0.0.50")) // INIT-REBOOT
		l.want("ACK 10.0.0.50 to 10.0.0.50")
		l.send(request, 1, "10.0.0.50") // RENEWING
		l.want("ACK 10.0.0.50 to 10.0.0.50")
		l.send(request, 1, "", wants("10.0.0.51")) // not its address
		l.want("NAK 0.0.0.0 to 255.255.255.255")
		l.send(request, 1, "", wants("192.168.0.1")) // it was on another network
		l.want("NAK 0.0.0.0 to 255.255.255.255")
		l.send(request, 2, "", wants("10.0.0.50")) // another's
		l.want("NAK 0.0.0.0 to 255.255.255.255")
		l.send(request, 2, "", wants("10.0.0.99")) // perhaps of another server
		l.want("")
		l.send(request, 2, "", wants("10.0.0.55")) // of an earlier life of this server
		l.want("ACK 10.0.0.55 to 10.0.0.55")
		l.send(request, 2, "", serverID("10.0.0.9"), wants("10.0.0.56")) // of another server
		l.want("")
		m := message(discover, 3, "", wants("10.0.0.60"))
		m.SetBroadcast()
		l.deliver(m)
		l.want("OFFER 10.0.0.60 to 255.255.255.255")
		l.send(request, 3, "", serverID("10.0.0.9"), wants("10.0.0.7")) // it has chosen another server
		l.get(4, "10.0.0.60", wants("10.0.0.60"))

		l.send(dhcpv4.MessageTypeRelease, 2, "10.0.0.50", serverID("10.0.0.1")) // not its own
		l.send(dhcpv4.MessageTypeRelease, 1, "10.0.0.50", serverID("10.0.0.1"))
		if got := l.names(); got != "10.0.0.55, 10.0.0.60" {
			t.Errorf("leases: %s", got)
		}
		l.get(1, "10.0.0.50") // again
		time.Sleep(time.Hour)
		if got := l.names(); got != "" {
			t.Errorf("leases after an hour: %s", got)
		}
		l.get(5, "10.0.0.51") // one that nobody had is better
	})
}

// TestDHCP4Probe does not offer what another host has.
func TestDHCP4Probe(t *testing.T) {
	inLab(t, Config{DHCP4: DHCP4{Pools: pool("10.0.0.50", "10.0.0.52")}}, func(l *lab) {
		for _, host := range []string{"10.0.0.50", "10.0.0.51"} {
			l.send(discover, 1, "")
			for range 2 { // it asks again
				l.send(discover, 1, "")
			}
			l.link.Deliver(sourcetest.ARP, source.Packet{Data: dhcp4.AppendARP(nil, mac(99), netip.MustParseAddr(host), network[0].Addr())})
			synctest.Wait()
			if host == "10.0.0.50" {
				time.Sleep(time.Millisecond)
				l.link.Deliver(sourcetest.ARP, source.Packet{Data: dhcp4.AppendARP(nil, mac(1), netip.MustParseAddr("10.0.0.51"), network[0].Addr())}) // its own
				l.want("OFFER 10.0.0.51 to 10.0.0.51")
				l.send(dhcpv4.MessageTypeDecline, 1, "", serverID("10.0.0.1"), wants("10.0.0.51"))
				continue
			}
			l.want("OFFER 10.0.0.52 to 10.0.0.52")
		}
		l.get(1, "10.0.0.52")
		// What was declined long ago is tried again before nothing is offered.
		l.get(2, "10.0.0.50")
		l.get(3, "10.0.0.51")
		l.send(discover, 4, "")
		l.want("")
	})
}

// TestDHCP4Crowd has invented clients, who do not keep others from an address.
func TestDHCP4Crowd(t *testing.T) {
	inLab(t, Config{DHCP4: DHCP4{Pools: pool("10.0.0.50", "10.0.0.59"), Reservations: []Reservation{{MAC: mac(1000), Addr: netip.MustParseAddr("10.0.0.59")}}}}, func(l *lab) {
		for i := range 100 {
			l.send(discover, 100+i, "")
		}
		l.got()
		l.get(1, "10.0.0.51") // the oldest: 100 are 11 times nine and one
		for i := range 1000 {
			l.send(discover, 2000+i, "")
			l.send(dhcpv4.MessageTypeDecline, 2000+i, "", serverID("10.0.0.1"), wants(fmt.Sprintf("10.0.0.%d", 50+i%9)))
		}
		l.got()
		l.get(2, "10.0.0.50")
		l.get(1000, "10.0.0.59")
		if n := len(l.s.table.byAddr); n != 10 || len(l.s.table.byKey) > 10 || len(l.s.probes) > 0 {
			t.Errorf("%d bindings, %d clients, %d probes", n, len(l.s.table.byKey), len(l.s.probes))
		}
	})
}

// TestDHCP4Displaced has a client get what it was offered, although it was offered to others since.
func TestDHCP4Displaced(t *testing.T) {
	inLab(t, Config{DHCP4: DHCP4{Pools: pool("10.0.0.50", "10.0.0.50")}}, func(l *lab) {
		l.send(discover, 1, "")
		l.want("OFFER 10.0.0.50 to 10.0.0.50")
		l.send(discover, 2, "")
		l.want("OFFER 10.0.0.50 to 10.0.0.50")
		l.send(request, 1, "", serverID("10.0.0.1"), wants("10.0.0.50"))
		l.want("ACK 10.0.0.50 to 10.0.0.50")
		l.send(request, 2, "", serverID("10.0.0.1"), wants("10.0.0.50"))
		l.want("NAK 0.0.0.0 to 255.255.255.255")
	})
}

// TestDHCP4Names has clients say who they are.
func TestDHCP4Names(t *testing.T) {
	fqdn := func(flags byte, name string) dhcpv4.Option {
		return dhcpv4.OptGeneric(dhcpv4.OptionFQDN, append([]byte{flags, 0, 0}, name...))
	}
	cfg := Config{
		Hosts: map[string][]netip.Addr{"www": testenv.Addrs("10.0.0.3"), "mail.example": testenv.Addrs("192.0.2.1")},
		DHCP4: DHCP4{Reservations: []Reservation{
			{MAC: mac(50), Name: "db", Addr: netip.MustParseAddr("10.0.0.200")},
			{ClientID: []byte("\x00fifty-one"), Addr: netip.MustParseAddr("10.0.0.201")},
			{Name: "printer", Addr: netip.MustParseAddr("10.0.0.202")},
			{MAC: mac(53), Name: "only-a-name"},
		}},
	}
	inLab(t, cfg, func(l *lab) {
		for i, tt := range []struct {
			name string
			o    dhcpv4.Option
			want string // its name
			fqdn string // the option that it gets
		}{
			{"host name", hostName("Host"), "host.internal", ""},
			{"another's", hostName("host"), "", ""},
			{"another's in full", fqdn(1, "host.internal"), "", "\x0a\xff\xff"},
			{"ASCII", fqdn(1, "b.internal."), "b.internal", "\x01\xff\xffb.internal"},
			{"wire", fqdn(5, "\x01c\x08internal\x00"), "c.internal", "\x05\xff\xff\x01c\x08internal\x00"},
			{"wire without a domain", fqdn(5, "\x01d"), "d.internal", "\x05\xff\xff\x01d\x08internal\x00"},
			{"it wants to make the record", fqdn(4, "\x01e\x00"), "e.internal", "\x07\xff\xff\x01e\x08internal\x00"},
			{"it wants no records", fqdn(12, "\x01f\x00"), "", "\x0c\xff\xff"},
			{"of another domain", fqdn(1, "www.example.org"), "", "\x0a\xff\xff"},
			{"the domain", fqdn(1, "internal"), "internal.internal", "\x01\xff\xffinternal.internal"},
			{"of Hosts", hostName("www"), "", ""},
			{"of a reservation", hostName("db"), "", ""},
			{"a proxy's", hostName("wpad"), "", ""},
			{"a mail server's", hostName("AutoDiscover"), "", ""},
			{"too long", hostName(strings.Repeat("a", 64)), "", ""},
			{"much too long", hostName(strings.Repeat("a.", 126) + "a"), "", ""},
			{"much too deep", hostName("a.b.c.d.e.f.g.h.i"), "", ""},
			{"no name", hostName("a b\n"), "", ""},
			{"empty", hostName(""), "", ""},
			{"with an end", hostName("g\x00"), "g.internal", ""},
			{"pointer", fqdn(5, "\xc0\x0c"), "", "\x0e\xff\xff"},
			{"dots in a label", fqdn(5, "\x03a.b\x00"), "", "\x0e\xff\xff"},
			{"too short", dhcpv4.OptGeneric(dhcpv4.OptionFQDN, []byte{1, 0}), "", ""},
		} {
			l.send(discover, i, "", tt.o)
			_, offer := l.got()
			a := addrOf(offer.YourIPAddr).String()
			l.send(request, i, "", tt.o, serverID("10.0.0.1"), wants(a))
			_, ack := l.got()
			leases := l.s.table.leases(time.Now())
			at := slices.IndexFunc(leases, func(l Lease) bool { return l.Addr.String() == a })
			if at < 0 || leases[at].Name != tt.want || string(ack.Options.Get(dhcpv4.OptionFQDN)) != tt.fqdn {
				t.Errorf("%s: got %v, FQDN %q", tt.name, leases, ack.Options.Get(dhcpv4.OptionFQDN))
			}
		}
		id := dhcpv4.OptClientIdentifier([]byte("\x00fifty-one"))
		l.get(50, "10.0.0.200", hostName("other"))
		if m := l.get(51, "10.0.0.201", id); string(m.Options.Get(dhcpv4.OptionClientIdentifier)) != "\x00fifty-one" {
			t.Error("the identifier does not come back")
		}
		l.get(52, "10.0.0.202", hostName("printer"))
		l.get(53, "10.0.0.26")
		for _, want := range []string{"10.0.0.200 db.internal", "10.0.0.202 printer.internal", "10.0.0.26 only-a-name.internal"} {
			if !strings.Contains(l.names(), want) {
				t.Errorf("leases: %s, want %s", l.names(), want)
			}
		}
		l.send(request, 54, "", wants("10.0.0.200")) // a reserved address
		l.want("NAK 0.0.0.0 to 255.255.255.255")
		// A name is free when its lease has ended.
		l.send(dhcpv4.MessageTypeRelease, 0, "10.0.0.2")
		l.send(request, 1, "10.0.0.4", hostName("host"))
		l.want("ACK 10.0.0.4 to 10.0.0.4")
		if !strings.Contains(l.names(), "10.0.0.4 host.internal") {
			t.Errorf("leases: %s", l.names())
		}
	})
}

// TestDHCP4Ignored gets no answer for what is not for this server.
func TestDHCP4Ignored(t *testing.T) {
	inLab(t, Config{}, func(l *lab) {
		for _, change := range []func(m *dhcpv4.DHCPv4){
			func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply },
			func(m *dhcpv4.DHCPv4) { m.HWType = 7 },
			func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = broadcastMAC },
			func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make(net.HardwareAddr, 6) },
			func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make(net.HardwareAddr, 16) },
			func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = net.IPv4(10, 0, 0, 9) },
			func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer)) },
			func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest)) },
			func(m *dhcpv4.DHCPv4) { m.Options = dhcpv4.Options{} },
			func(m *dhcpv4.DHCPv4) { // which would be kept
				m.UpdateOption(dhcpv4.OptClientIdentifier(make([]byte, maxClientID+1)))
			},
			func(m *dhcpv4.DHCPv4) {
				m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(224), make([]byte, maxMessage)))
			},
			func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionServerIdentifier, []byte{1})) },
		} {
			m := message(discover, 1, "")
			change(m)
			l.deliver(m)
			l.want("")
		}
		l.get(1, "10.0.0.2")
	})
}

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// TestConfig names what cannot be.
func TestConfig(t *testing.T) {
	res := func(r ...Reservation) Config { return Config{DHCP4: DHCP4{Reservations: r}} }
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Domain: "a..b"}, `Domain: "a..b"`},
		{Config{Search: []string{"-"}}, `Search: "-"`},
		{Config{MTU: 10}, "MTU: 10"},
		{Config{Nameservers: testenv.Addrs("127.0.0.1")}, "Nameservers: 127.0.0.1"},
		{Config{Hosts: map[string][]netip.Addr{"a b": nil}}, `Hosts: "a b"`},
		{Config{Hosts: map[string][]netip.Addr{"a": nil, "a.internal": nil, "A": {{}}}}, "Hosts: "},
		{Config{DNS: DNS{Upstream: []netip.AddrPort{{}}}}, "DNS.Upstream: invalid"},
		{Config{DHCP6: DHCP6{LeaseTime: time.Second}}, "DHCP6.LeaseTime 1s"},
		{Config{RA: RA{Interval: time.Second}}, "RA.Interval 1s"},
		{Config{RA: RA{Lifetime: 3 * time.Hour}}, "RA.Lifetime 3h"},
		{Config{RA: RA{Prefixes: []Prefix{{}}}}, "RA.Prefixes: invalid"},
		{Config{RA: RA{Prefixes: []Prefix{{Prefix: netip.MustParsePrefix("fe80::/64")}}}}, "RA.Prefixes: fe80::/64"},
		{Config{RA: RA{Prefixes: []Prefix{{Prefix: netip.MustParsePrefix("fd00::/64"), Preferred: 2, Valid: 1}}}}, "RA.Prefixes: fd00::/64 is preferred"},
		{Config{RA: RA{Prefixes: slices.Repeat([]Prefix{{Prefix: netip.MustParsePrefix("fd00::/64")}}, 40)}}, "too many prefixes"},
		{Config{Search: slices.Repeat([]string{"lab.example"}, 100)}, "search list of 1300 bytes"},
		{Config{DHCP4: DHCP4{LeaseTime: time.Second}}, "LeaseTime 1s"},
		{Config{DHCP4: DHCP4{Routers: testenv.Addrs("::1")}}, "DHCP4.Routers: ::1"},
		{Config{DHCP4: DHCP4{NTP: testenv.Addrs("255.255.255.255")}}, "DHCP4.NTP: 255.255.255.255"},
		{Config{DHCP4: DHCP4{Routes: []Route{{}}}}, "DHCP4.Routes: invalid"},
		{Config{DHCP4: DHCP4{Pools: []Range{{}}}}, "DHCP4.Pools: invalid"},
		{Config{DHCP4: DHCP4{Pools: pool("10.0.0.5", "10.0.0.4")}}, "DHCP4.Pools: 10.0.0.5 to 10.0.0.4"},
		{Config{DHCP4: DHCP4{Pools: pool("10.0.0.5", "10.0.1.4")}}, "DHCP4.Pools: 10.0.0.5 to 10.0.1.4"},
		{Config{DHCP4: DHCP4{Pools: pool("192.0.2.1", "192.0.2.2")}}, "DHCP4.Pools: 192.0.2.1 is in no network"},
		{res(Reservation{}), "for nobody"},
		{res(Reservation{MAC: broadcastMAC}), "ff:ff:ff:ff:ff:ff"},
		{res(Reservation{Name: "a.example"}), `"a.example" is not a name below internal`},
		{res(Reservation{Name: "a"}, Reservation{MAC: mac(1), Name: "A"}), "in two of them"},
		{res(Reservation{MAC: mac(1)}, Reservation{MAC: mac(1)}), "in two of them"},
		{res(Reservation{Name: "a", Addr: network[0].Addr()}), "10.0.0.1 is not for a client"},
		{res(Reservation{Name: "a", Addr: netip.MustParseAddr("10.0.0.255")}), "10.0.0.255 is not for a client"},
	} {
		s, err := tt.cfg.check()
		if err == nil {
			_, err = newDHCP4(s, sourcetest.NewLink(), network)
		}
		if err == nil {
			_, err = newRA(s, sourcetest.NewLink(), network6)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.cfg, err, tt.want)
		}
	}
	s := testenv.Must(Config{}.check())(t)
	if _, err := newDHCP4(s, sourcetest.NewLink(), testenv.Prefixes("fd00::1/64", "10.0.0.1/31")); err == nil || !strings.Contains(err.Error(), "no IPv4 network") {
		t.Errorf("an interface without a network: %v", err)
	}
}

// FuzzDHCP4 has a server read packets. It answers, if it does, with what a client can read, and
// no more of a client's memory is kept than there are addresses.
func FuzzDHCP4(f *testing.F) {
	for _, t := range []dhcpv4.MessageType{discover, request, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform} {
		f.Add(message(t, 1, "10.0.0.2", hostName("a"), wants("10.0.0.2"), serverID("10.0.0.1")).ToBytes())
		f.Add(message(t, 1, "", dhcpv4.OptGeneric(dhcpv4.OptionFQDN, []byte("\x05\x00\x00\x01a\x00"))).ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		link := sourcetest.NewLink()
		s, err := newDHCP4(testenv.Must(Config{DHCP4: DHCP4{Pools: pool("10.0.0.2", "10.0.0.3")}}.check())(t), link, network)
		testenv.Check(t, err)
		defer s.close()
		for range 3 {
			s.received(source.Packet{Data: slices.Clone(b)})
			s.receivedARP(source.Packet{Data: slices.Clone(b)})
			s.probed(time.Now().Add(time.Minute))
		}
		for len(link.Sent) > 0 {
			if p := <-link.Sent; p.Port != sourcetest.ARP {
				if m, err := dhcp4.Decode(p.Data); err != nil || len(p.Data) > maxReply || m.OpCode != dhcpv4.OpcodeBootReply {
					t.Errorf("sent %x: %v", p.Data, err)
				}
			}
		}
		if n := len(s.table.byAddr); n > 2 || len(s.table.byKey) > n || len(s.table.byName.by) > n {
			t.Errorf("%d addresses, %d clients, %d names", n, len(s.table.byKey), len(s.table.byName.by))
		}
	})
}
