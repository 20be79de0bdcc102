package serve

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
	"github.com/vdestack/vdestack/internal/testenv"
)

var network6 = testenv.Prefixes("10.0.0.1/24", "fd00::1/64", "fd00::2/64", "fd01::1/48")

// inRA runs an advertiser in a bubble.
func inRA(t *testing.T, c Config, f func(link *sourcetest.Link, a *advertiser)) {
	synctest.Test(t, func(t *testing.T) {
		link := sourcetest.NewLink()
		a, err := newRA(testenv.Must(c.check())(t), link, network6)
		testenv.Check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.run(ctx) }()
		t.Cleanup(cancel)
		f(link, a)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// TestAdvertisement has an advertisement say what the Config does.
func TestAdvertisement(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct {
		cfg  Config
		want *ndp.RouterAdvertisement
	}{
		{Config{}, &ndp.RouterAdvertisement{
			RouterLifetime: 1800 * time.Second, ManagedConfiguration: true,
			Options: []ndp.Option{
				&ndp.PrefixInformation{PrefixLength: 64, Prefix: netip.MustParseAddr("fd00::"), OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: 30 * day, PreferredLifetime: 7 * day},
				&ndp.RecursiveDNSServer{Lifetime: 1800 * time.Second, Servers: testenv.Addrs("fd00::1")},
				&ndp.DNSSearchList{Lifetime: 1800 * time.Second, DomainNames: []string{"internal"}},
			},
		}},
		{Config{
			MTU: 1400, Search: []string{"a.example", "b.example"}, Nameservers: testenv.Addrs("10.0.0.3", "fd00::3", "fd00::4"),
			RA: RA{Managed: true, Other: true, Lifetime: -1, Interval: 100 * time.Second, Prefixes: []Prefix{{Prefix: netip.MustParsePrefix("fd02::9/56"), NotOnLink: true, NotAutonomous: true, Valid: day}}},
		}, &ndp.RouterAdvertisement{
			ManagedConfiguration: true, OtherConfiguration: true,
			Options: []ndp.Option{
				ndp.NewMTU(1400),
				&ndp.PrefixInformation{PrefixLength: 56, Prefix: netip.MustParseAddr("fd02::"), ValidLifetime: day, PreferredLifetime: day},
				&ndp.RecursiveDNSServer{Lifetime: 300 * time.Second, Servers: testenv.Addrs("fd00::3", "fd00::4")},
				&ndp.DNSSearchList{Lifetime: 300 * time.Second, DomainNames: []string{"a.example", "b.example"}},
			},
		}},
		{Config{MTU: 576, Search: []string{}, DNS: DNS{Off: true}, DHCP6: DHCP6{Off: true}, RA: RA{Prefixes: []Prefix{}}}, &ndp.RouterAdvertisement{RouterLifetime: 1800 * time.Second}},
	} {
		inRA(t, tt.cfg, func(link *sourcetest.Link, _ *advertiser) {
			tt.want.CurrentHopLimit = 64
			tt.want.Options = slices.Insert(tt.want.Options, 0, ndp.Option(&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: sourcetest.MAC}))
			if got, want := (<-link.Sent).Data, testenv.Must(ndp.MarshalMessage(tt.want))(t); !bytes.Equal(got, want) {
				t.Errorf("%+v: got\n%x, want\n%x", tt.cfg, got, want)
			}
		})
	}
}

// TestRATimes follows an advertiser for a day, with and without hosts that ask, and has it end.
func TestRATimes(t *testing.T) {
	inRA(t, Config{}, func(link *sourcetest.Link, a *advertiser) {
		solicit := func(from string, hops int, b ...byte) {
			link.Deliver(sourcetest.ICMP6, source.Packet{Data: append([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0}, b...), Peer: netip.AddrPortFrom(netip.MustParseAddr(from), 0), HopLimit: hops})
			synctest.Wait()
		}
		// gaps returns the times between the next advertisements to all.
		gaps := func(n int) (all []time.Duration) {
			for range n {
				before := time.Now()
				if s := <-link.Sent; s.Peer.Addr() != allNodes {
					t.Fatalf("sent to %v", s.Peer)
				}
				all = append(all, time.Since(before))
			}
			return all
		}
		first := gaps(4)
		if first[0] != 0 || slices.Max(first) > initialInterval {
			t.Errorf("the first advertisements are at %v", first)
		}
		day := gaps(150)
		if slices.Min(day) < 200*time.Second || slices.Max(day) > 600*time.Second || slices.Max(day)-slices.Min(day) < 100*time.Second {
			t.Errorf("the times between advertisements are %v", day)
		}
		time.Sleep(minDelay)
		for range 1000 {
			solicit("fe80::9", 255)
		}
		before := time.Now()
		if s := <-link.Sent; s.Peer.Addr() != netip.MustParseAddr("fe80::9") || time.Since(before) > maxAnswerDelay {
			t.Errorf("the answer is to %v, after %v", s.Peer, time.Since(before))
		}
		solicit("::", 255)
		if got := gaps(1)[0]; got > maxAnswerDelay {
			t.Errorf("the answer to all comes after %v", got)
		}
		for i := range 1000 {
			solicit(netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)}).String(), 255)
		}
		before = time.Now()
		for range maxAnswers {
			<-link.Sent
		}
		if d := time.Since(before); d > maxAnswerDelay {
			t.Errorf("the answers take %v", d)
		}
		if got := gaps(1)[0]; got < minDelay-maxAnswerDelay || got > minDelay {
			t.Errorf("the next answer to all comes after %v", got)
		}
		// What is malformed, or not of the link.
		solicit("fe80::9", 254)
		solicit("fd00::9", 255)
		solicit("::", 255, 1, 1, 2, 0, 0, 0, 0, 9)
		solicit("fe80::9", 255, 1, 0, 2, 0, 0, 0, 0, 9)
		if got := gaps(1)[0]; got < 190*time.Second {
			t.Errorf("malformed solicitations are answered, after %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		link := sourcetest.NewLink()
		a, err := newRA(testenv.Must(Config{}.check())(t), link, network6)
		testenv.Check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		testenv.Check(t, a.run(ctx))
		var last []byte
		for len(link.Sent) > 0 {
			last = (<-link.Sent).Data
		}
		if ra := testenv.Must(ndp.ParseMessage(last))(t).(*ndp.RouterAdvertisement); ra.RouterLifetime != 0 || len(ra.Options) == 0 {
			t.Errorf("at the end it says %+v", ra)
		}
	})
}

// FuzzRA has an advertiser read solicitations, which make it send little.
func FuzzRA(f *testing.F) {
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9}, []byte(netip.MustParseAddr("fe80::9").AsSlice()))
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16))
	f.Fuzz(func(t *testing.T, b, from []byte) {
		link := sourcetest.NewLink()
		a, err := newRA(testenv.Must(Config{}.check())(t), link, network6)
		testenv.Check(t, err)
		defer a.close()
		peer, _ := netip.AddrFromSlice(from)
		now := time.Now()
		a.due(now)
		for range 3 {
			a.solicited(source.Packet{Data: b, Peer: netip.AddrPortFrom(peer, 0), HopLimit: 255}, now)
			now = now.Add(time.Second)
			a.due(now)
		}
		if n := len(link.Sent); n > 4 {
			t.Errorf("%d advertisements", n)
		}
	})
}
