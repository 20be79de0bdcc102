package serve

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// duid returns a DUID-LL.
func duid(n int) []byte { return append([]byte{0, 3, 0, 1}, mac(n)...) }

// message6 returns a message of a client with an IA that has addresses.
func message6(t dhcpv6.MessageType, n int, toServer bool, addrs []string, options ...dhcpv6.Option) []byte {
	m := &dhcpv6.Message{MessageType: t, TransactionID: dhcpv6.TransactionID{1, 2, byte(n)}}
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: duid(n)})
	if toServer {
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: append([]byte{0, 3, 0, 1}, sourcetest.MAC...)})
	}
	if t != dhcpv6.MessageTypeInformationRequest {
		ia := &dhcpv6.OptIANA{IaId: [4]byte{9}}
		for _, a := range addrs {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice()})
		}
		m.AddOption(ia)
	}
	for _, o := range options {
		m.AddOption(o)
	}
	return m.ToBytes()
}

func fqdn6(flags byte, name string) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN, OptionData: append([]byte{flags}, name...)}
}

// text6 returns an answer: "REPLY fd00::5 1h0m0s, fd00::6 0s, Success".
func text6(t *testing.T, m *dhcpv6.Message) (text string, got *dhcpv6.Message) {
	t.Helper()
	if m == nil {
		return "", nil
	}
	got = testenv.Must(dhcpv6.MessageFromBytes(m.ToBytes()))(t)
	var all []string
	for _, ia := range got.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			all = append(all, fmt.Sprintf("%v %v", a.IPv6Addr, a.ValidLifetime))
		}
		if s := ia.Options.Status(); s != nil {
			all = append(all, s.StatusCode.String())
		}
	}
	if s := got.Options.Status(); s != nil {
		all = append(all, s.StatusCode.String())
	}
	return got.MessageType.String() + " " + strings.Join(all, ", "), got
}

// TestDHCP6 follows clients, RFC 8415, section 18.3.
func TestDHCP6(t *testing.T) {
	cfg := testenv.Must(Config{DHCP4: DHCP4{Reservations: []Reservation{{MAC: mac(7), Name: "db"}}}}.check())(t)
	_, err := cfg.DHCP4.network(network)
	testenv.Check(t, err)
	v4 := newTable(cfg, network[0], network)
	s, err := newDHCP6(cfg, sourcetest.NewLink(), network6, v4)
	testenv.Check(t, err)
	defer s.close()
	now := time.Now()
	from := netip.MustParseAddrPort("[fe80::9]:546")
	ask := func(b []byte) (string, *dhcpv6.Message) {
		t.Helper()
		return text6(t, s.answer(source.Packet{Data: b, Peer: from}, now))
	}
	want := func(b []byte, want string) *dhcpv6.Message {
		t.Helper()
		got, m := ask(b)
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		return m
	}
	a1, ok := s.addr(duid(1), [4]byte{9})
	if !ok || !netip.MustParsePrefix("fd00::/64").Contains(a1) {
		t.Fatalf("the address is %v", a1)
	}
	one := a1.String()
	host := fqdn6(1, "\x04host\x00")

	m := want(message6(dhcpv6.MessageTypeSolicit, 1, false, nil, host), "ADVERTISE "+one+" 1h0m0s")
	if m.Options.DNS()[0].String() != "fd00::1" || m.Options.DomainSearchList().Labels[0] != "internal" || len(s.leases(now)) > 0 {
		t.Errorf("an ADVERTISE has %v, leases %v", m, s.leases(now))
	}
	want(message6(dhcpv6.MessageTypeSolicit, 2, false, nil, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})[:], "REPLY "+testenv.Must(addr6(s, 2))(t)+" 1h0m0s")
	m = want(message6(dhcpv6.MessageTypeRequest, 1, true, []string{one}, host), "REPLY "+one+" 1h0m0s")
	if f := m.Options.FQDN(); f == nil || f.Flags != 1 || f.DomainName.Labels[0] != "host.internal" {
		t.Errorf("the name is %v", f)
	}
	want(message6(dhcpv6.MessageTypeRenew, 1, true, []string{one, "fd99::1"}, host), "REPLY "+one+" 1h0m0s, fd99::1 0s")
	want(message6(dhcpv6.MessageTypeRebind, 1, false, []string{one}, host), "REPLY "+one+" 1h0m0s")
	want(message6(dhcpv6.MessageTypeConfirm, 1, false, []string{one}), "REPLY Success")
	want(message6(dhcpv6.MessageTypeConfirm, 1, false, []string{one, "fd99::1"}), "REPLY NotOnLink")
	want(message6(dhcpv6.MessageTypeConfirm, 1, false, nil), "")
	m = want(message6(dhcpv6.MessageTypeInformationRequest, 1, false, nil, dhcpv6.OptRequestedOption(dhcpv6.OptionDomainSearchList)), "REPLY ")
	if m.Options.DNS() != nil || m.Options.DomainSearchList() == nil {
		t.Errorf("a client that asks for the search list gets %v", m)
	}

	// Names are one client's, by either protocol, and not reserved.
	c := &client{key: "x", mac: mac(3), name: "host.internal"}
	if l, _ := v4.lease(c, netip.MustParseAddr("10.0.0.3"), false, now); l.Name != "" {
		t.Errorf("another client has the name %s", l.Name)
	}
	c = &client{key: "y", mac: mac(1), name: "host.internal"}
	if l, _ := v4.lease(c, netip.MustParseAddr("10.0.0.4"), false, now); l.Name != "host.internal" {
		t.Errorf("the client has the name %q", l.Name)
	}
	for _, tt := range []struct {
		n    int
		o    dhcpv6.Option
		want string
	}{
		{4, host, ""}, {5, fqdn6(1, "\x02db\x00"), ""}, {7, fqdn6(0, "\x02db\x08internal\x00"), "db.internal"}, {6, fqdn6(4, "\x01n\x00"), ""},
		{8, fqdn6(1, "\xc0\x0c"), ""}, {9, fqdn6(1, "\x01o\x07example\x03org\x00"), ""}, {10, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN}, ""},
	} {
		ask(message6(dhcpv6.MessageTypeRequest, tt.n, true, nil, tt.o))
		a, _ := s.addr(duid(tt.n), [4]byte{9})
		if got := s.nameAt(a, now); got != tt.want || s.byAddr[a] == nil {
			t.Errorf("client %d has the name %q, want %q", tt.n, got, tt.want)
		}
	}

	want(message6(dhcpv6.MessageTypeRelease, 1, true, []string{one}), "REPLY Success")
	if _, ok := s.addrOf("host.internal", now); ok {
		t.Error("the name is there after RELEASE")
	}
	want(message6(dhcpv6.MessageTypeDecline, 1, true, []string{one}), "REPLY Success")
	if got, _ := ask(message6(dhcpv6.MessageTypeSolicit, 1, false, nil)); strings.Contains(got, one) {
		t.Errorf("after DECLINE it gets %s", got)
	}
	for i := range 3000 { // a flood
		a, _ := addr6(s, 1)
		ask(message6(dhcpv6.MessageTypeDecline, 1, true, []string{a}))
		ask(message6(dhcpv6.MessageTypeDecline, 100+i, true, []string{testenv.Must(addr6(s, 100+i))(t)}))
	}
	if len(s.declined) > maxDeclined {
		t.Errorf("%d addresses are declined", len(s.declined))
	}
	now = now.Add(time.Hour)
	ask(message6(dhcpv6.MessageTypeSolicit, 1, false, nil))
	if len(s.byAddr) > 0 || len(s.byName.by) > 0 || s.order.Len() > 0 {
		t.Errorf("after an hour there are %d clients", len(s.byAddr))
	}

	// What is not for this server, or malformed.
	for _, b := range [][]byte{
		nil, message6(dhcpv6.MessageTypeSolicit, 1, true, nil), message6(dhcpv6.MessageTypeRequest, 1, false, nil), message6(dhcpv6.MessageTypeReply, 1, true, nil),
		message6(dhcpv6.MessageTypeRelayForward, 1, false, nil), append(message6(dhcpv6.MessageTypeSolicit, 1, false, nil), 0, 1, 9), make([]byte, 5000),
		{byte(dhcpv6.MessageTypeSolicit), 1, 2, 3}, append([]byte{byte(dhcpv6.MessageTypeSolicit), 1, 2, 3, 0, 1, 0, 200}, make([]byte, 200)...),
	} {
		want(b, "")
	}
	from = netip.MustParseAddrPort("[fd00::9]:546")
	want(message6(dhcpv6.MessageTypeSolicit, 1, false, nil), "")
}

func addr6(s *dhcp6Server, n int) (string, error) {
	a, ok := s.addr(duid(n), [4]byte{9})
	if !ok {
		return "::", nil
	}
	return a.String(), nil
}

// FuzzDHCP6 has a server read packets. It answers with what a client can read.
func FuzzDHCP6(f *testing.F) {
	for _, t := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeInformationRequest} {
		f.Add(message6(t, 1, t == dhcpv6.MessageTypeRequest || t == dhcpv6.MessageTypeDecline, []string{"fd00::5"}, fqdn6(1, "\x01a\x00")))
	}
	cfg := testenv.Must(Config{}.check())(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newDHCP6(cfg, sourcetest.NewLink(), network6, nil)
		testenv.Check(t, err)
		defer s.close()
		if m := s.answer(source.Packet{Data: b, Peer: netip.MustParseAddrPort("[fe80::9]:546")}, time.Now()); m != nil {
			if _, err := dhcpv6.MessageFromBytes(m.ToBytes()); err != nil || len(m.ToBytes()) > 2*maxMessage6 {
				t.Errorf("%d bytes: %v", len(m.ToBytes()), err)
			}
		}
		if len(s.byAddr) > maxIAs || len(s.byName.by) > 1 {
			t.Errorf("%d addresses, %d names", len(s.byAddr), len(s.byName.by))
		}
	})
}
