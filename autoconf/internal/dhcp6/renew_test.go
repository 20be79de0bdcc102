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
)

// lifetimesOf changes the lifetimes of an address of an IA_NA.
func lifetimesOf(ia *dhcpv6.OptIANA, n int, preferred, valid time.Duration) *dhcpv6.OptIANA {
	a := ia.Options.Addresses()[n]
	a.PreferredLifetime, a.ValidLifetime = preferred, valid
	return ia
}

// TestRenew has RENEW at T1 by the server of the lease, and by another.
func TestRenew(t *testing.T) {
	inLab(t, source.Config{FQDN: "host"}, func(l *lab) {
		first := l.get(addrs(mine, second), dhcpv6.OptDNS([]byte(mine.AsSlice())))
		l.Stored()
		r := l.message(dhcpv6.MessageTypeRenew)
		l.At(1000*time.Second, 0)
		if got := asked(r); !slices.Equal(got, []netip.Addr{mine, second}) || r.Options.ServerID() == nil || r.Options.FQDN() == nil {
			t.Errorf("RENEW is %v", r.Summary())
		}
		l.reply(server2, r, addrs(mine, second))
		r = l.message(dhcpv6.MessageTypeRenew)
		l.reply(server1, r, addrs(mine, second))
		got := l.set(mine, second)
		if d := got.Expires.Sub(first.Expires); d < 1000*time.Second || d > 1015*time.Second || len(got.DNS) != 0 {
			t.Errorf("renewed by %v: %+v", d, got)
		}
		l.Stored()
		l.Quiet(900 * time.Second)
	})
}

// TestRenewed has what a server answers to RENEW, and the addresses after that.
func TestRenewed(t *testing.T) {
	third := netip.MustParseAddr("2001:db8::44")
	for _, tt := range []struct {
		name   string
		answer dhcpv6.Option
		want   []netip.Addr // none: the exchange goes on
		left   []netip.Addr // after the lifetimes of what was not renewed
	}{
		{"both", addrs(second, mine), []netip.Addr{second, mine}, []netip.Addr{second, mine}},
		{"one", addrs(second), []netip.Addr{second, mine}, []netip.Addr{second}},
		{"another", addrs(third), []netip.Addr{third, mine, second}, []netip.Addr{third}},
		{"one is over", lifetimesOf(addrs(mine, second), 0, 0, 0), []netip.Addr{second}, []netip.Addr{second}},
		{"one is deprecated", lifetimesOf(addrs(mine, second), 0, 0, 3000*time.Second), []netip.Addr{mine, second}, []netip.Addr{mine, second}},
		{"preferred after valid", lifetimesOf(addrs(mine, second), 0, 4000*time.Second, 3000*time.Second), []netip.Addr{second, mine}, []netip.Addr{second}},
		{"no IA", statusOf(iana.StatusSuccess), nil, nil},
		{"an empty IA", addrs(), nil, nil},
		{"failure", statusOf(iana.StatusUnspecFail), nil, nil},
		{"failure of the IA", refusal(iana.StatusUnspecFail), nil, nil},
		{"no addresses", refusal(iana.StatusNoAddrsAvail), nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				l.get(addrs(mine, second))
				l.Stored()
				l.reply(server1, l.message(dhcpv6.MessageTypeRenew), tt.answer)
				if tt.want == nil {
					l.message(dhcpv6.MessageTypeRenew)
					l.At(1010*time.Second, time.Second)
					return
				}
				l.set(tt.want...)
				l.Stored()
				ends := addrs(tt.left...)
				// Renewed before the others end.
				l.reply(server1, l.message(dhcpv6.MessageTypeRenew), ends)
				l.Set()
				l.Stored()
				time.Sleep(time.Until(l.Start.Add(3001 * time.Second)))
				if len(tt.want) > len(tt.left) {
					l.set(tt.left...)
				}
			})
		})
	}
}

// TestTakenAway has a server that takes all addresses away.
func TestTakenAway(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.get(addrs(mine))
		l.reply(server1, l.message(dhcpv6.MessageTypeRenew), lifetimesOf(addrs(mine), 0, 0, 0))
		l.Lost()
		l.FailedWith("server fe80::1 takes [2001:db8::42] away")
		s := l.message(dhcpv6.MessageTypeSolicit)
		l.advertise(server1, s, addrs(second))
		l.reply(server1, l.message(dhcpv6.MessageTypeRequest), addrs(second))
		l.set(second)
	})
}

// TestServerGone has a server that never answers again: RENEW, REBIND, the end of the lease,
// SOLICIT.
func TestServerGone(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.get(lifetimesOf(addrs(mine, second), 1, 100*time.Second, 2500*time.Second))
		until := func(d time.Duration) time.Duration { return time.Until(l.Start.Add(d)) }
		if n := l.skip(dhcpv6.MessageTypeRenew, until(1599*time.Second)); n < 5 || n > 7 {
			t.Errorf("RENEW is sent %d times", n)
		}
		l.FailedWith("server fe80::1 does not renew the lease of [2001:db8::42 2001:db8::43]")
		l.FailedWith("server fe80::1 does not renew")
		l.At(1600*time.Second, 0)
		m := l.next(dhcpv6.MessageTypeRebind)
		if m.Options.ServerID() != nil || len(asked(m)) != 2 {
			t.Errorf("REBIND is %v", m.Summary())
		}
		l.skip(dhcpv6.MessageTypeRebind, until(2499*time.Second))
		l.FailedWith("no server renews the lease")
		l.set(mine)
		l.At(2500*time.Second, 0)
		l.skip(dhcpv6.MessageTypeRebind, until(2999*time.Second))
		l.Lost()
		l.At(3000*time.Second, 0)
		l.FailedWith("the lease of [2001:db8::42] has expired")
		s := l.next(dhcpv6.MessageTypeSolicit)
		if got := asked(s); !slices.Equal(got, []netip.Addr{mine, second}) {
			t.Errorf("SOLICIT asks for %v", got)
		}
	})
}

// TestRebind has another server that renews the lease.
func TestRebind(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.get(addrs(mine))
		l.skip(dhcpv6.MessageTypeRenew, time.Until(l.Start.Add(1599*time.Second)))
		l.reply(server2, l.next(dhcpv6.MessageTypeRebind), addrs(mine))
		l.FailedWith("does not renew")
		l.FailedWith("does not renew")
		if got := l.set(mine); got.Server != server2.addr {
			t.Errorf("the server is %v", got.Server)
		}
		m := l.message(dhcpv6.MessageTypeRenew)
		if got := m.Options.ServerID().ToBytes(); !slices.Equal(got, server2.duid) {
			t.Errorf("RENEW is for %x", got)
		}
	})
}

// TestNoBinding has a server that has lost its state, and gives the address again, or does not.
func TestNoBinding(t *testing.T) {
	for _, status := range []dhcpv6.Option{refusal(iana.StatusNoBinding), statusOf(iana.StatusNoBinding)} {
		inLab(t, source.Config{}, func(l *lab) {
			l.get(addrs(mine))
			l.Stored()
			l.reply(server1, l.message(dhcpv6.MessageTypeRenew), status)
			r := l.message(dhcpv6.MessageTypeRequest)
			if got := asked(r); len(got) != 1 || got[0] != mine {
				t.Errorf("REQUEST is for %v", got)
			}
			l.reply(server1, r, addrs(mine))
			l.set(mine)
			l.Stored()
			l.skip(dhcpv6.MessageTypeRenew, 1600*time.Second-time.Since(l.Start)%time.Second)
		})
	}
	inLab(t, source.Config{}, func(l *lab) {
		l.get(addrs(mine))
		l.reply(server1, l.message(dhcpv6.MessageTypeRenew), refusal(iana.StatusNoBinding))
		l.reply(server1, l.message(dhcpv6.MessageTypeRequest), refusal(iana.StatusNoAddrsAvail))
		l.Lost()
		l.message(dhcpv6.MessageTypeInformationRequest)
		s := l.next(dhcpv6.MessageTypeSolicit)
		if got := asked(s); len(got) > 0 {
			t.Errorf("SOLICIT asks for %v", got)
		}
		l.reply(server1, s, rapid, addrs(second))
		l.set(second)
	})
}

// TestInfinite has a lease that does not end.
func TestInfinite(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		ia := lifetimesOf(addrs(mine), 0, infinite, infinite)
		ia.T1, ia.T2 = 0, 0
		got := l.get(ia)
		if !got.Expires.IsZero() || !got.Renew.IsZero() || !got.Addrs[0].Valid.IsZero() || !got.Addrs[0].Preferred.IsZero() {
			t.Errorf("the lease is %+v", got)
		}
		b := l.Stored()
		if _, _, stored := loadStored(b, nil); stored == nil || !stored.addrs[0].valid.IsZero() {
			t.Errorf("%s is stored", b)
		}
		l.Quiet(10 * 365 * 24 * time.Hour)
		l.Calls <- source.Call{Renew: true}
		l.reply(server1, l.message(dhcpv6.MessageTypeRenew), ia)
		l.set(mine)
	})
}

// TestInformation has servers without addresses, and what they say besides.
func TestInformation(t *testing.T) {
	dns := dhcpv6.OptDNS([]byte(server1.addr.AsSlice()))
	for _, tt := range []struct {
		name    string
		advert  dhcpv6.Option // nil: SOLICIT is not answered
		options []dhcpv6.Option
		at      time.Duration // of INFORMATION-REQUEST
		refresh time.Duration // 0: never
	}{
		{"no addresses", statusOf(iana.StatusNoAddrsAvail), nil, 1050 * time.Millisecond, 24 * time.Hour},
		{"no addresses in the IA", refusal(iana.StatusNoAddrsAvail), nil, 1050 * time.Millisecond, 24 * time.Hour},
		{"silent", nil, []dhcpv6.Option{option(dhcpv6.OptionInformationRefreshTime, 0, 0, 4, 0)}, 3150 * time.Millisecond, 1024 * time.Second},
		{"hurried", nil, []dhcpv6.Option{option(dhcpv6.OptionInformationRefreshTime, 0, 0, 0, 1)}, 3150 * time.Millisecond, 10 * time.Minute},
		{"for ever", nil, []dhcpv6.Option{option(dhcpv6.OptionInformationRefreshTime, 255, 255, 255, 255)}, 3150 * time.Millisecond, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				s := l.message(dhcpv6.MessageTypeSolicit)
				if tt.advert != nil {
					l.advertise(server1, s, tt.advert)
				} else {
					l.message(dhcpv6.MessageTypeSolicit)
				}
				i := l.message(dhcpv6.MessageTypeInformationRequest)
				l.At(tt.at, 400*time.Millisecond)
				l.reply(server1, i) // without information
				i = l.next(dhcpv6.MessageTypeInformationRequest)
				asked := time.Now()
				l.reply(server1, i, append(tt.options, dns)...)
				got := l.set()
				if len(got.DNS) != 1 || got.DNS[0].Addr != server1.addr || !got.DNS[0].Expires.IsZero() || got.Server != server1.addr {
					t.Errorf("got %+v", got)
				}
				refresh := time.Duration(0)
				for time.Since(asked) < 50*time.Hour {
					select {
					case s := <-l.Link.Sent:
						if dhcpv6.MessageType(s.Data[0]) == dhcpv6.MessageTypeInformationRequest && refresh == 0 {
							refresh = time.Since(asked)
						}
					case <-time.After(time.Hour):
					}
				}
				if refresh != tt.refresh {
					t.Errorf("it asks again after %v, want %v", refresh, tt.refresh)
				}
				// SOLICIT goes on, and addresses replace what was known.
				solicit := l.next(dhcpv6.MessageTypeSolicit)
				synctest.Wait() // for what it says before the reply
				for len(l.Sink.Said) > 0 {
					<-l.Sink.Said
				}
				l.reply(server1, solicit, rapid, addrs(mine))
				if got := l.set(mine); len(got.DNS) > 0 {
					t.Errorf("got %+v", got)
				}
				l.Stored()
				l.Quiet(900 * time.Second)
			})
		})
	}
}
