package dhcp6

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
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

// A lab is a source on a link, in a bubble. The test is its network and its client.
type lab struct {
	*testing.T
	link   *sourcetest.Link
	sink   *sourcetest.Sink
	calls  chan source.Call
	start  time.Time
	cancel context.CancelFunc
	done   chan error // gets the error of Run
}

// inLab runs a source, f, and then the end of the source.
func inLab(t *testing.T, cfg source.Config, f func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.run(cfg)
		f(l)
		l.end()
	})
}

func newLab(t *testing.T) *lab {
	return &lab{T: t, link: sourcetest.NewLink(), sink: sourcetest.NewSink(), calls: make(chan source.Call), done: make(chan error, 1)}
}

func (l *lab) run(cfg source.Config) {
	ctx, cancel := context.WithCancel(l.Context())
	l.start, l.cancel = time.Now(), cancel
	cfg.Calls = l.calls
	go func() { l.done <- Run(ctx, cfg, l.link, l.sink) }()
}

func (l *lab) end() {
	l.Helper()
	l.cancel()
	began := time.Now()
	if err := <-l.done; err != nil {
		l.Errorf("Run: %v", err)
	}
	if d := time.Since(began); d > source.ReleaseTime {
		l.Errorf("Run has ended %v after its context", d)
	}
	if open := l.link.Open(); len(open) > 0 {
		l.Errorf("ports are open: %q", open)
	}
}

// message returns the next message, which is of a type.
func (l *lab) message(want dhcpv6.MessageType) *dhcpv6.Message {
	l.Helper()
	var s sourcetest.Sent
	select {
	case s = <-l.link.Sent:
	case <-time.After(1000 * time.Hour):
		l.Fatalf("nothing is sent, want %v", want)
	}
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
		select {
		case s := <-l.link.Sent:
			m, err := dhcpv6.MessageFromBytes(s.Data)
			if err != nil {
				l.Fatal(err)
			}
			if m.MessageType == want {
				return m
			}
		case <-time.After(1000 * time.Hour):
			l.Fatalf("no %v is sent", want)
		}
	}
}

// skip takes messages of a type that are sent until d has passed, and returns how many.
func (l *lab) skip(t dhcpv6.MessageType, d time.Duration) (n int) {
	l.Helper()
	end := time.After(d)
	for {
		select {
		case s := <-l.link.Sent:
			if dhcpv6.MessageType(s.Data[0]) != t {
				l.Fatalf("got %v, want %v", dhcpv6.MessageType(s.Data[0]), t)
			}
			n++
		case <-end:
			return n
		}
	}
}

// quiet checks that nothing is sent or said for a time.
func (l *lab) quiet(d time.Duration) {
	l.Helper()
	select {
	case s := <-l.link.Sent:
		l.Fatalf("%v is sent after %v", dhcpv6.MessageType(s.Data[0]), time.Since(l.start))
	case s := <-l.sink.Said:
		l.Fatalf("the sink is told %+v", s)
	case <-time.After(d):
	}
}

// at checks the time since the start.
func (l *lab) at(want, tolerance time.Duration) {
	l.Helper()
	if got := time.Since(l.start); (got - want).Abs() > tolerance {
		l.Errorf("it is %v after the start, want %v ± %v", got, want, tolerance)
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
	if !l.link.Deliver(ours, s.packet(s.message(to, t, options...))) {
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

// said returns what the sink is told next, besides Store.
func (l *lab) said() any {
	l.Helper()
	for {
		select {
		case said := <-l.sink.Said:
			if _, ok := said.(json.RawMessage); !ok {
				return said
			}
		case <-time.After(1000 * time.Hour):
			l.Fatal("the sink is told nothing")
		}
	}
}

// set checks that the sink is told a lease of addresses, and returns it.
func (l *lab) set(want ...netip.Addr) source.Lease {
	l.Helper()
	said := l.said()
	lease, ok := said.(source.Lease)
	if !ok {
		l.Fatalf("the sink is told %v, want a lease of %v", said, want)
	}
	var got []netip.Addr
	for _, a := range lease.Addrs {
		got = append(got, a.Prefix.Addr())
	}
	if !slices.Equal(got, want) {
		l.Fatalf("got a lease of %v, want %v", got, want)
	}
	return lease
}

// lost checks that the sink is told that there is no lease.
func (l *lab) lost() {
	l.Helper()
	if lease := l.set(); lease.Server.IsValid() {
		l.Fatalf("got a lease of %v, want the zero lease", lease.Server)
	}
}

// failed checks the next error that the sink is told.
func (l *lab) failed(want string) {
	l.Helper()
	if err, ok := l.said().(error); !ok || !strings.Contains(err.Error(), want) {
		l.Fatalf("the sink is told %v, want the error %q", err, want)
	}
}

// stored returns what the sink was told last, which is to be stored.
func (l *lab) stored() json.RawMessage {
	l.Helper()
	b, ok := (<-l.sink.Said).(json.RawMessage)
	if !ok {
		l.Fatal("nothing is stored")
	}
	return b
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
