package rd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// TestTwoHours has the table of RFC 4862, section 5.5.3 (e).
func TestTwoHours(t *testing.T) {
	const ever = ndp.Infinity
	for _, tt := range []struct{ left, preferred, valid, want time.Duration }{
		{time.Hour, time.Minute, 2 * time.Hour, 2 * time.Hour},
		{time.Hour, time.Minute, 30 * time.Minute, time.Hour},
		{time.Hour, 0, 0, time.Hour},
		{5 * time.Hour, time.Minute, 3 * time.Hour, 3 * time.Hour},
		{5 * time.Hour, time.Minute, 2 * time.Hour, 2 * time.Hour},
		{5 * time.Hour, 0, time.Second, 2 * time.Hour},
		{5 * time.Hour, 0, 0, 2 * time.Hour},
		{ever, 0, 0, 2 * time.Hour},
		{ever, time.Minute, 3 * time.Hour, 3 * time.Hour},
		{ever, ever, ever, ever},
		{time.Hour, ever, ever, ever},
		{time.Hour, 2 * time.Hour, time.Hour - time.Second, -1}, // ignored, for it makes no sense
	} {
		t.Run(fmt.Sprint(tt.left, tt.valid), func(t *testing.T) {
			var k known
			generate := func(prefixOption) (address, bool) { return address{}, true }
			now := time.Now()
			first := prefixOption{prefix: net1, preferred: tt.left, valid: tt.left}
			second := prefixOption{prefix: net1, preferred: tt.preferred, valid: tt.valid}
			k.learnAddr(now, first, generate)
			k.learnAddr(now, second, generate)
			preferred, end := after(now, tt.preferred), after(now, tt.want)
			if tt.want < 0 {
				preferred, end = after(now, tt.left), after(now, tt.left)
			}
			if got := k.addrs[0]; !got.end.Equal(end) || !got.soft.Equal(preferred) {
				t.Errorf("preferred until %v, valid until %v; want %v, %v", got.soft, got.end, preferred, end)
			}
		})
	}
}

// TestLifetimes has everything end, one after the other, and be taken back.
func TestLifetimes(t *testing.T) {
	dns := func(lifetime time.Duration) ndp.Option {
		return &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: []netip.Addr{eui2}}
	}
	search := func(lifetime time.Duration) ndp.Option {
		return &ndp.DNSSearchList{Lifetime: lifetime, DomainNames: []string{"lab.example"}}
	}
	more := func(lifetime byte) ndp.Option {
		return raw(24, 64, 0, 0, 0, 0, lifetime, 0xfd, 0, 0, 0, 0, 0, 0, 0)
	}
	portal := raw(37, []byte("https://portal.example/")...)
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.solicitation()
		l.deliver(router1, &ndp.RouterAdvertisement{RouterLifetime: 10 * time.Second, Options: []ndp.Option{
			prefix(net1, 20*time.Second, 60*time.Second), dns(30 * time.Second), search(40 * time.Second), more(50), ndp.NewMTU(1400), portal,
		}})
		addr, router := "2001:db8:0:1:0:ff:fe00:42/64 preferred %v valid %v", "::/0 via fe80::1 +0 for %v"
		link, route := "2001:db8:0:1::/64 on the link for %v", "fd00::/64 via fe80::1 +0 for %v"
		lines := []string{addr, router, route, link, "dns 2001:db8:0:2:0:ff:fe00:42 for %v", "search lab.example for %v", "mtu 1400", "portal https://portal.example/", "by fe80::1"}
		at := func(s int, all ...int) {
			t.Helper()
			var want []string
			for _, i := range all {
				left := func(end int) time.Duration { return time.Duration(end-s) * time.Second }
				switch line := lines[i]; i {
				case 0:
					want = append(want, fmt.Sprintf(line, left(20), left(60)))
				case 1, 2, 3, 4, 5:
					want = append(want, fmt.Sprintf(line, left([]int{10, 50, 60, 30, 40}[i-1])))
				default:
					want = append(want, line)
				}
			}
			l.known(want...)
			l.At(time.Duration(s)*time.Second, 0)
		}
		at(0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
		at(10, 0, 2, 3, 4, 5, 6, 7, 8)
		at(30, 0, 2, 3, 5, 6, 7, 8)
		at(40, 0, 2, 3, 6, 7, 8)
		at(50, 0, 3, 6, 7, 8)
		at(60)

		l.deliver(router1, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, Options: []ndp.Option{
			prefix(net1, time.Hour, time.Hour), dns(time.Hour), search(time.Hour), more(200), ndp.NewMTU(1400), portal,
		}})
		l.Set()
		l.deliver(router1, &ndp.RouterAdvertisement{Options: []ndp.Option{prefix(net1, 0, 0), dns(0), search(0), more(0), ndp.NewMTU(1400)}})
		l.known("2001:db8:0:1:0:ff:fe00:42/64 preferred -1s valid 59m58s")
	})
}

// TestSeveral has two routers with two prefixes each, and then one that goes away.
func TestSeveral(t *testing.T) {
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.solicitation()
		l.deliver(router1, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, RouterSelectionPreference: ndp.Low, Options: []ndp.Option{prefix(net1, time.Hour, time.Hour), ndp.NewMTU(1400)}})
		l.deliver(router2, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, RouterSelectionPreference: ndp.High, Options: []ndp.Option{
			prefix(net1, 2*time.Hour, 2*time.Hour), prefix(net2, time.Hour, time.Hour), ndp.NewMTU(1300), &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{router2}},
		}})
		time.Sleep(2 * time.Second)
		const rest = "::/0 via fe80::1 -1 for 59m58s\n2001:db8:0:1::/64 on the link for 1h59m58s\n"
		if got, want := text(l.last()), "2001:db8:0:1:0:ff:fe00:42/64 preferred 1h59m58s valid 1h59m58s\n2001:db8:0:2:0:ff:fe00:42/64 preferred 59m58s valid 59m58s\n"+rest+
			"::/0 via fe80::2 +1 for 59m58s\n2001:db8:0:2::/64 on the link for 59m58s\ndns fe80::2 for 59m58s\nmtu 1300\nby fe80::2"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		l.deliver(router2, &ndp.RouterAdvertisement{})
		l.known("2001:db8:0:1:0:ff:fe00:42/64 preferred 1h59m58s valid 1h59m58s", "2001:db8:0:2:0:ff:fe00:42/64 preferred 59m58s valid 59m58s",
			"::/0 via fe80::1 -1 for 59m58s", "2001:db8:0:1::/64 on the link for 1h59m58s", "2001:db8:0:2::/64 on the link for 59m58s",
			"dns fe80::2 for 59m58s", "mtu 1400", "by fe80::1")
	})
}

// TestDHCP6 has routers ask for DHCPv6, and no longer.
func TestDHCP6(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.solicitation()
		for _, tt := range []struct {
			router         netip.Addr
			managed, other bool
			want           bool
		}{
			{router1, false, false, false}, {router1, true, false, true}, {router2, false, true, true},
			{router1, false, false, true}, {router2, false, false, false},
		} {
			l.deliver(tt.router, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, ManagedConfiguration: tt.managed, OtherConfiguration: tt.other})
			if got := l.Set(); got.DHCP6 != tt.want {
				t.Errorf("after %+v: got %v", tt, got.DHCP6)
			}
		}
	})
}

// TestFlood has a router at first, and then very many with everything.
func TestFlood(t *testing.T) {
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.solicitation()
		l.advertise(router1, prefix(net1, time.Hour, time.Hour))
		l.Set()
		for i := range 100 {
			var options []ndp.Option
			for j := range 30 {
				a := netip.AddrFrom16([16]byte{0xfd, 0, byte(i), byte(i >> 8), 0, byte(j)})
				options = append(options, prefix(netip.PrefixFrom(a, 64), time.Hour, time.Hour), &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{a}},
					&ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: []string{fmt.Sprintf("%d.%d.example", i, j)}}, raw(24, 64, 0, 0, 0, 0, 200, 0xfd, 1, byte(i), byte(i>>8), 0, byte(j), 0, 0))
			}
			l.advertise(netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i), 14: byte(i >> 8), 13: 1}), options...)
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		n := len(l.Sink.Said)
		last := l.last()
		if n > 4 || len(last.Addrs) != source.MaxItems || len(last.Routes) != source.MaxItems || len(last.DNS) != source.MaxItems || len(last.Search) != source.MaxItems {
			t.Errorf("told %d times, at last %d addresses, %d routes, %d servers, %d domains", n, len(last.Addrs), len(last.Routes), len(last.DNS), len(last.Search))
		}
		if last.Addrs[0].Prefix.Addr() != eui1 || last.Routes[0].Gateway != router1 {
			t.Errorf("what was first is not there: %v, %v", last.Addrs[0], last.Routes[0])
		}
		time.Sleep(59 * time.Minute)
		l.advertise(router1, prefix(net1, time.Hour, time.Hour)) // it has room again after theirs
		time.Sleep(time.Hour - time.Minute)
		if last = l.last(); len(last.Addrs) != 1 || last.Addrs[0].Prefix.Addr() != eui1 {
			t.Errorf("after the flood: %+v", last)
		}
	})
}

// TestFull has somebody fill all tables for ever, and go: the router has room an hour later.
func TestFull(t *testing.T) {
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		l.solicitation()
		for i := range source.MaxItems {
			a := netip.AddrFrom16([16]byte{0xfd, 0, byte(i)})
			l.deliver(netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i), 13: 1}), &ndp.RouterAdvertisement{RouterLifetime: 9000 * time.Second, Options: []ndp.Option{
				prefix(netip.PrefixFrom(a, 64), ndp.Infinity, ndp.Infinity), &ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: []netip.Addr{a}},
				&ndp.DNSSearchList{Lifetime: ndp.Infinity, DomainNames: []string{fmt.Sprintf("a%d.example", i)}},
			}})
		}
		for _, want := range []bool{false, true} {
			l.advertise(router1, prefix(net1, time.Hour, time.Hour), &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{net1.Addr().Next()}},
				&ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: []string{"lab.example"}})
			time.Sleep(2 * time.Second)
			got := text(l.last())
			for _, what := range []string{eui1.String(), "via " + router1.String() + " ", "dns " + net1.Addr().Next().String(), "lab.example"} {
				if strings.Contains(got, what) != want {
					t.Errorf("%s is there: %v, want %v:\n%s", what, !want, want, got)
				}
			}
			time.Sleep(staleTime)
		}
	})
}

// TestWeek has a week of two routers that speak every ten minutes and answer, on a network
// that loses a third of the packets. The source always has an address and a router, once it
// has them.
func TestWeek(t *testing.T) {
	const loss = 1.0 / 3
	inLab(t, source.Config{AddrGen: source.AddrEUI64}, func(l *lab) {
		lost := func() bool { return rand.Float64() < loss }
		speak := func(router netip.Addr, p netip.Prefix) {
			for range 1 + rand.IntN(2) { // some twice
				if !lost() {
					l.advertise(router, prefix(p, 2*time.Hour, 4*time.Hour))
				}
			}
		}
		ticks := time.Tick(10 * time.Minute)
		end := time.After(7 * 24 * time.Hour)
		sent, said, have := 0, 0, false
		for {
			select {
			case <-l.Link.Sent:
				sent++
				if !lost() {
					speak(router1, net1)
					speak(router2, net2)
				}
			case <-ticks:
				speak(router1, net1)
				time.Sleep(rand.N(time.Second))
				speak(router2, net2)
			case s := <-l.Sink.Said:
				known, ok := s.(source.Lease)
				if !ok {
					break
				}
				said++
				has := len(known.Addrs) > 0 && time.Now().Before(known.Addrs[0].Preferred) &&
					slices.ContainsFunc(known.Routes, func(r source.Route) bool { return r.Dst == defaultDst })
				if have && !has {
					t.Fatalf("%v after the start: %+v", time.Since(l.Start), known)
				}
				have = has
			case <-end:
				if !have || said > 7*24*6*4 || sent > 200 {
					t.Errorf("told %d times, %d solicitations", said, sent)
				}
				return
			}
		}
	})
}
