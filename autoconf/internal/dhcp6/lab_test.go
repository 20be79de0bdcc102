package dhcp6

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

var (
	mine   = netip.MustParseAddr("2001:db8::42")
	second = netip.MustParseAddr("2001:db8::43")
	ours   = sourcetest.UDP(netip.MustParseAddrPort("[::]:546"))
	ourIA  = [4]byte(sourcetest.MAC[2:])
)

// A server is one that messages come from.
type server struct {
	duid []byte
	addr netip.Addr
}

var (
	server1 = server{[]byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}, netip.MustParseAddr("fe80::1")}
	server2 = server{[]byte{0, 9, 2, 2}, netip.MustParseAddr("fe80::2")}
)

// A lab has servers of DHCPv6 for a source.
type lab struct{ *sourcetest.Lab }

// inLab runs a source, f, and then the end of the source.
func inLab(t *testing.T, cfg source.Config, f func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.Begin(cfg)
		f(l)
		l.End()
	})
}

func newLab(t *testing.T) *lab { return &lab{sourcetest.NewLab(t, Run)} }

// message returns the next message, which is of a type.
func (l *lab) message(want dhcpv6.MessageType) *dhcpv6.Message {
	l.Helper()
	s := l.Sent()
	m, err := dhcpv6.MessageFromBytes(s.Data)
	if err != nil {
		l.Fatal(err)
	}
	if m.MessageType != want || s.Peer != servers || s.Port != ours {
		l.Fatalf("got %v to %v by %s, want %v", m.MessageType, s.Peer, s.Port, want)
	}
	return m
}

// next returns the next message of a type, and skips others.
func (l *lab) next(want dhcpv6.MessageType) *dhcpv6.Message {
	l.Helper()
	for {
		m, err := dhcpv6.MessageFromBytes(l.Sent().Data)
		if err != nil {
			l.Fatal(err)
		}
		if m.MessageType == want {
			return m
		}
	}
}

// skip takes messages of a type that are sent until d has passed, and returns how many.
func (l *lab) skip(t dhcpv6.MessageType, d time.Duration) (n int) {
	l.Helper()
	end := time.After(d)
	for {
		select {
		case s := <-l.Link.Sent:
			if dhcpv6.MessageType(s.Data[0]) != t {
				l.Fatalf("got %v, want %v", dhcpv6.MessageType(s.Data[0]), t)
			}
			n++
		case <-end:
			return n
		}
	}
}

func option(code dhcpv6.OptionCode, b ...byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: b}
}

var rapid = option(dhcpv6.OptionRapidCommit)

// addrs returns an IA_NA with T1 1000 s, T2 1600 s, and addresses for 2000 s and 3000 s.
func addrs(all ...netip.Addr) *dhcpv6.OptIANA {
	ia := &dhcpv6.OptIANA{IaId: ourIA, T1: 1000 * time.Second, T2: 1600 * time.Second}
	for _, a := range all {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: 2000 * time.Second, ValidLifetime: 3000 * time.Second})
	}
	return ia
}

func statusOf(code iana.StatusCode) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: "so \x1b it is"}
}

// refusal returns an IA_NA with a status.
func refusal(code iana.StatusCode) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: ourIA}
	ia.Options.Add(statusOf(code))
	return ia
}

// message returns a message of the server to a message of the source.
func (s server) message(to *dhcpv6.Message, t dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: t, TransactionID: to.TransactionID}
	m.AddOption(to.GetOneOption(dhcpv6.OptionClientID))
	m.AddOption(option(dhcpv6.OptionServerID, s.duid...))
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

func (s server) packet(m *dhcpv6.Message) source.Packet {
	return source.Packet{Data: m.ToBytes(), Peer: netip.AddrPortFrom(s.addr, serverPort), Local: netip.MustParseAddr("fe80::42")}
}

func (l *lab) answer(s server, to *dhcpv6.Message, t dhcpv6.MessageType, options ...dhcpv6.Option) {
	l.Helper()
	if !l.Link.Deliver(ours, s.packet(s.message(to, t, options...))) {
		l.Fatal("the port is not open")
	}
}

func (l *lab) advertise(s server, to *dhcpv6.Message, options ...dhcpv6.Option) {
	l.Helper()
	l.answer(s, to, dhcpv6.MessageTypeAdvertise, options...)
}

func (l *lab) reply(s server, to *dhcpv6.Message, options ...dhcpv6.Option) {
	l.Helper()
	l.answer(s, to, dhcpv6.MessageTypeReply, options...)
}

// set checks that the sink is told a lease of addresses, and returns it.
func (l *lab) set(want ...netip.Addr) source.Lease {
	l.Helper()
	lease := l.Set()
	var got []netip.Addr
	for _, a := range lease.Addrs {
		got = append(got, a.Prefix.Addr())
	}
	if !slices.Equal(got, want) {
		l.Fatalf("got a lease of %v, want %v", got, want)
	}
	return lease
}

// get has the source get a lease from server1, by rapid commit, and returns when it was set.
func (l *lab) get(ia dhcpv6.Option, options ...dhcpv6.Option) source.Lease {
	l.Helper()
	l.reply(server1, l.message(dhcpv6.MessageTypeSolicit), append(options, rapid, ia)...)
	var want []netip.Addr
	for _, a := range ia.(*dhcpv6.OptIANA).Options.Addresses() {
		addr, _ := netip.AddrFromSlice(a.IPv6Addr)
		want = append(want, addr)
	}
	return l.set(want...)
}

// asked returns the addresses of a message.
func asked(m *dhcpv6.Message) (all []netip.Addr) {
	for _, a := range m.Options.OneIANA().Options.Addresses() {
		addr, _ := netip.AddrFromSlice(a.IPv6Addr)
		all = append(all, addr)
	}
	return all
}
