package rd

import (
	"fmt"
	"net/netip"
	"strings"
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

// A lab has routers for a source.
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

// solicitation waits for the next solicitation, and returns its time since the start.
func (l *lab) solicitation() time.Duration {
	l.Helper()
	s := l.Sent()
	if got, want := fmt.Sprintf("%s %x %v", s.Port, s.Data, s.Peer.Addr()), "icmp6 85000000000000000101020000000042 ff02::2"; got != want {
		l.Fatalf("sent %s, want %s", got, want)
	}
	return time.Since(l.Start)
}

// advertise gives the source an advertisement of a router, with a lifetime of half an hour.
func (l *lab) advertise(router netip.Addr, options ...ndp.Option) {
	l.Helper()
	l.deliver(router, &ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute, Options: options})
}

func (l *lab) deliver(router netip.Addr, ra *ndp.RouterAdvertisement) {
	l.Helper()
	if !l.Link.Deliver(sourcetest.ICMP6, packet(l, router, ra)) {
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

// last returns the last of the leases that the sink was told.
func (l *lab) last() (last source.Lease) {
	for len(l.Sink.Said) > 0 {
		if lease, ok := (<-l.Sink.Said).(source.Lease); ok {
			last = lease
		}
	}
	return last
}

// known checks the next lease that the sink is told, as text describes it.
func (l *lab) known(want ...string) {
	l.Helper()
	if got := text(l.Set()); got != strings.Join(want, "\n") {
		l.Errorf("%v after the start the sink is told\n%s\nwant\n%s", time.Since(l.Start), got, strings.Join(want, "\n"))
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
