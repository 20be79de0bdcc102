package rd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

var (
	router1 = netip.MustParseAddr("fe80::1")
	router2 = netip.MustParseAddr("fe80::2")
	net1    = netip.MustParsePrefix("2001:db8:0:1::/64")
	net2    = netip.MustParsePrefix("2001:db8:0:2::/64")
	// eui1 and eui2 are the addresses of sourcetest.MAC.
	eui1 = netip.MustParseAddr("2001:db8:0:1:0:ff:fe00:42")
	eui2 = netip.MustParseAddr("2001:db8:0:2:0:ff:fe00:42")
)

// A lab is a source on a link, in a bubble. The test is its routers and its client.
type lab struct {
	*testing.T
	link   *sourcetest.Link
	sink   *sourcetest.Sink
	calls  chan source.Call
	start  time.Time
	cancel context.CancelFunc
	done   chan error // gets the error of Run
	stored json.RawMessage
	// refuse returns the error of Set, sendErr is that of Send.
	refuse  atomic.Pointer[func(source.Lease) error]
	sendErr atomic.Pointer[error]
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
	l := &lab{T: t, link: sourcetest.NewLink(), sink: sourcetest.NewSink(), calls: make(chan source.Call), done: make(chan error, 1)}
	l.sink.SetError = func(lease source.Lease) error {
		if f := l.refuse.Load(); f != nil {
			return (*f)(lease)
		}
		return nil
	}
	l.link.SendError = func(sourcetest.Sent) error {
		if err := l.sendErr.Load(); err != nil {
			return *err
		}
		return nil
	}
	return l
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
	if err := <-l.done; err != nil {
		l.Errorf("Run: %v", err)
	}
	if open := l.link.Open(); len(open) > 0 {
		l.Errorf("ports are open: %q", open)
	}
}

// solicitation waits for the next solicitation, and returns its time since the start.
func (l *lab) solicitation() time.Duration {
	l.Helper()
	s := <-l.link.Sent
	if got, want := fmt.Sprintf("%s %x %v", s.Port, s.Data, s.Peer.Addr()), "icmp6 85000000000000000101020000000042 ff02::2"; got != want {
		l.Fatalf("sent %s, want %s", got, want)
	}
	return time.Since(l.start)
}

// advertise gives the source an advertisement of a router, with a lifetime of half an hour.
func (l *lab) advertise(router netip.Addr, options ...ndp.Option) {
	l.Helper()
	l.deliver(router, &ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute, Options: options})
}

func (l *lab) deliver(router netip.Addr, ra *ndp.RouterAdvertisement) {
	l.Helper()
	if !l.link.Deliver(sourcetest.ICMP6, packet(l, router, ra)) {
		l.Fatal("the port is not open")
	}
}

// packet returns the packet of an advertisement.
func packet(t testing.TB, router netip.Addr, ra *ndp.RouterAdvertisement) source.Packet {
	t.Helper()
	b, err := ndp.MarshalMessage(ra)
	if err != nil {
		t.Fatal(err)
	}
	return source.Packet{Data: b, Peer: netip.AddrPortFrom(router, 0), HopLimit: 255}
}

// said returns what the sink is told next, but for what is stored, which it keeps.
func (l *lab) said() any {
	for said := range l.sink.Said {
		data, ok := said.(json.RawMessage)
		if !ok {
			return said
		}
		l.stored = data
	}
	panic("unreachable")
}

// set returns the next lease that the sink is told.
func (l *lab) set() source.Lease {
	l.Helper()
	said := l.said()
	lease, ok := said.(source.Lease)
	if !ok {
		l.Fatalf("the sink is told %v, want a lease", said)
	}
	return lease
}

// known checks the next lease that the sink is told, as text describes it.
func (l *lab) known(want ...string) {
	l.Helper()
	if got := text(l.set()); got != strings.Join(want, "\n") {
		l.Errorf("%v after the start the sink is told\n%s\nwant\n%s", time.Since(l.start), got, strings.Join(want, "\n"))
	}
}

// quiet checks that nothing is sent or said for a time.
func (l *lab) quiet(d time.Duration) {
	l.Helper()
	select {
	case s := <-l.link.Sent:
		l.Fatalf("%s sends %x %v after the start", s.Port, s.Data, time.Since(l.start))
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

// text describes a lease in lines, with times from now on.
func text(l source.Lease) string {
	var lines []string
	add := func(format string, args ...any) {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
	left := func(t time.Time) string {
		if t.IsZero() {
			return "ever"
		}
		return time.Until(t).Round(time.Second).String()
	}
	for _, a := range l.Addrs {
		flags := ""
		if a.Temporary {
			flags = " temporary"
		}
		if !a.NoPrefixRoute {
			flags += " with a prefix route"
		}
		add("%v preferred %s valid %s%s", a.Prefix, left(a.Preferred), left(a.Valid), flags)
	}
	for _, r := range l.Routes {
		by := "on the link"
		if r.Gateway.IsValid() {
			by = fmt.Sprintf("via %v %+d", r.Gateway, r.Preference)
		}
		add("%v %s for %s", r.Dst, by, left(r.Expires))
	}
	for _, s := range l.DNS {
		add("dns %v for %s", s.Addr, left(s.Expires))
	}
	for _, d := range l.Search {
		add("search %s for %s", d.Name, left(d.Expires))
	}
	if l.MTU != 0 {
		add("mtu %d", l.MTU)
	}
	if l.CaptivePortal != "" {
		add("portal %s", l.CaptivePortal)
	}
	if l.DHCP6 {
		add("dhcp6")
	}
	if l.Server.IsValid() {
		add("by %v", l.Server)
	}
	return strings.Join(lines, "\n")
}

// Options of advertisements.

func prefix(p netip.Prefix, preferred, valid time.Duration) *ndp.PrefixInformation {
	return &ndp.PrefixInformation{
		PrefixLength: uint8(p.Bits()), Prefix: p.Addr(), OnLink: true, AutonomousAddressConfiguration: true,
		PreferredLifetime: preferred, ValidLifetime: valid,
	}
}

// raw returns an option with contents, which are filled up with zeros.
func raw(code uint8, contents ...byte) ndp.Option {
	for len(contents)%8 != 6 {
		contents = append(contents, 0)
	}
	return &ndp.RawOption{Type: code, Length: uint8(len(contents)+2) / 8, Value: contents}
}

// failed checks the next error that the sink is told.
func (l *lab) failed(want string) {
	l.Helper()
	said := l.said()
	if err, ok := said.(error); !ok || !strings.Contains(err.Error(), want) {
		l.Fatalf("the sink is told %v, want the error %q", said, want)
	}
}
