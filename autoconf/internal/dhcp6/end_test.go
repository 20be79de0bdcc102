package dhcp6

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestRelease has the lease given back: answered, not answered, and not asked for.
func TestRelease(t *testing.T) {
	for _, answered := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.Begin(source.Config{Release: true})
			l.get(addrs(mine, second))
			l.Stored()
			l.Cancel()
			b := l.Stored()
			l.Lost()
			r := l.message(dhcpv6.MessageTypeRelease)
			if got := asked(r); len(got) != 2 || !bytes.Equal(r.Options.ServerID().ToBytes(), server1.duid) || r.Options.RequestedOptions() != nil {
				t.Errorf("RELEASE is %v", r.Summary())
			}
			if answered {
				l.reply(server2, r)
				l.reply(server1, r, refusal(iana.StatusNoBinding))
			} else {
				l.message(dhcpv6.MessageTypeRelease)
			}
			l.End()
			if _, _, stored := loadStored(b, nil); stored == nil || len(stored.expire(time.Now())) != 2 || len(stored.addrs) != 0 {
				t.Errorf("%s is stored", b)
			}
			if n := len(l.Link.Sent); n != 0 {
				t.Errorf("%d messages are sent besides", n)
			}
		})
	}
	inLab(t, source.Config{}, func(l *lab) {
		l.get(addrs(mine))
		l.Stored()
		l.Cancel()
		l.Quiet(time.Second)
	})
	inLab(t, source.Config{Release: true}, func(l *lab) { // first it cannot be sent
		l.get(addrs(mine))
		l.Stored()
		usable := time.Now().Add(700 * time.Millisecond)
		l.Link.RefuseSend(func(sourcetest.Sent) error {
			if time.Now().Before(usable) {
				return syscall.EADDRNOTAVAIL
			}
			return nil
		})
		l.Cancel()
		l.Stored()
		l.Lost()
		l.reply(server1, l.message(dhcpv6.MessageTypeRelease))
	})
}

// TestDecline has addresses that others have.
func TestDecline(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		taken := []netip.Addr{mine}
		l.Sink.RefuseSet(func(lease source.Lease) error {
			if slices.ContainsFunc(lease.Addrs, func(a source.Addr) bool { return a.Prefix.Addr() == mine }) {
				return &source.ConflictError{Addrs: taken}
			}
			return nil
		})
		l.get(addrs(mine, second))
		l.set(second)
		d := l.message(dhcpv6.MessageTypeDecline)
		if got := asked(d); len(got) != 1 || got[0] != mine || !bytes.Equal(d.Options.ServerID().ToBytes(), server1.duid) {
			t.Errorf("DECLINE is %v", d.Summary())
		}
		l.reply(server1, d, statusOf(iana.StatusSuccess))
		r := l.message(dhcpv6.MessageTypeRenew)
		if got := asked(r); len(got) != 1 || got[0] != second {
			t.Errorf("RENEW is for %v", got)
		}
		// The server gives it again.
		l.reply(server1, r, lifetimesOf(addrs(second, mine), 0, 0, 0))
		l.set(mine)
		l.Lost()
		taken = append(taken, second)
		for i := range 2 {
			declined := time.Now()
			l.reply(server1, l.message(dhcpv6.MessageTypeDecline), refusal(iana.StatusNoBinding))
			s := l.next(dhcpv6.MessageTypeSolicit)
			if d, want := time.Since(declined), time.Second<<i; d < want*9/10 || d > want*11/10 {
				t.Errorf("SOLICIT is sent after %v, want %v", d, want)
			}
			if got := asked(s); len(got) != 0 {
				t.Errorf("SOLICIT asks for %v", got)
			}
			l.reply(server1, s, rapid, addrs(mine, second))
			l.set(mine, second)
			l.Lost()
		}
		l.FailedWith("in use by another host")
	})
}

// TestDeclineEach has a sink that finds one conflict at a time.
func TestDeclineEach(t *testing.T) {
	third := netip.MustParseAddr("2001:db8::44")
	inLab(t, source.Config{}, func(l *lab) {
		l.Sink.RefuseSet(func(lease source.Lease) error {
			if a := lease.Addrs[0].Prefix.Addr(); a != third {
				return &source.ConflictError{Addrs: []netip.Addr{a}}
			}
			return nil
		})
		l.get(addrs(mine, second, third))
		l.set(second, third)
		l.set(third)
		l.message(dhcpv6.MessageTypeDecline)
		d := l.message(dhcpv6.MessageTypeDecline)
		if got := asked(d); !slices.Equal(got, []netip.Addr{mine, second}) {
			t.Errorf("DECLINE is for %v", got)
		}
		l.skip(dhcpv6.MessageTypeDecline, time.Minute)
		if got := asked(l.message(dhcpv6.MessageTypeRenew)); !slices.Equal(got, []netip.Addr{third}) {
			t.Errorf("RENEW is for %v", got)
		}
	})
}

// TestConflicts has a server whose addresses are always in use: it is asked ever less often,
// whether it answers DECLINE or not.
func TestConflicts(t *testing.T) {
	for _, answered := range []bool{true, false} {
		inLab(t, source.Config{}, func(l *lab) {
			l.Sink.RefuseSet(func(lease source.Lease) error { return &source.ConflictError{Addrs: []netip.Addr{mine}} })
			sent := 0
			for time.Since(l.Start) < 24*time.Hour {
				m, err := dhcpv6.MessageFromBytes(l.Sent().Data)
				if err != nil {
					t.Fatal(err)
				}
				sent++
				switch {
				case m.MessageType == dhcpv6.MessageTypeSolicit:
					l.reply(server1, m, rapid, addrs(mine))
				case answered:
					l.reply(server1, m)
				}
			}
			if sent < 50 || sent > 250 {
				t.Errorf("answered %v: %d messages are sent in a day", answered, sent)
			}
		})
	}
}

// TestStored has a lease that was stored, and networks on which it is used again.
func TestStored(t *testing.T) {
	for _, tt := range []struct {
		name string
		age  time.Duration
		then func(l *lab)
	}{
		{"confirmed", 1500 * time.Second, func(l *lab) {
			m := l.message(dhcpv6.MessageTypeConfirm)
			if got := asked(m); len(got) != 2 || m.Options.ServerID() != nil {
				l.Errorf("CONFIRM is %v", m.Summary())
			}
			l.reply(server2, m, statusOf(iana.StatusUnspecFail))
			l.reply(server2, m, statusOf(iana.StatusSuccess))
			got := l.set(mine, second)
			if d := time.Until(got.Expires); d < 1498*time.Second || d > 1500*time.Second || got.Server != server2.addr || len(got.DNS) != 1 ||
				got.DNS[0].Addr != server1.addr || len(got.Search) != 1 || got.Search[0].Name != "b.example" {
				l.Errorf("the lease is %+v", got)
			}
			// The wall clock may be wrong, and the rest is old.
			r := l.message(dhcpv6.MessageTypeRenew)
			l.At(0, 100*time.Millisecond)
			l.reply(server1, r, addrs(mine, second))
			l.set(mine, second)
		}},
		{"confirmed, and the server is gone", 0, func(l *lab) {
			l.reply(server2, l.message(dhcpv6.MessageTypeConfirm))
			l.set(mine, second)
			l.skip(dhcpv6.MessageTypeRenew, 1599*time.Second) // four fifths of the preferred lifetime
			l.next(dhcpv6.MessageTypeRebind)
		}},
		{"of another network", 0, func(l *lab) {
			l.reply(server2, l.message(dhcpv6.MessageTypeConfirm), statusOf(iana.StatusNotOnLink))
			s := l.message(dhcpv6.MessageTypeSolicit)
			l.At(0, 100*time.Millisecond)
			if got := asked(s); len(got) != 0 {
				l.Errorf("SOLICIT asks for %v", got)
			}
		}},
		{"not confirmed", 0, func(l *lab) {
			l.skip(dhcpv6.MessageTypeConfirm, storedTime-time.Millisecond)
			s := l.next(dhcpv6.MessageTypeSolicit)
			if got := asked(s); len(got) != 2 {
				l.Errorf("SOLICIT asks for %v", got)
			}
			l.advertise(server1, s, addrs(mine))
			l.reply(server1, l.message(dhcpv6.MessageTypeRequest), addrs(mine))
			l.set(mine)
		}},
		{"expired", time.Hour, func(l *lab) {
			s := l.message(dhcpv6.MessageTypeSolicit)
			if got := asked(s); len(got) != 2 {
				l.Errorf("SOLICIT asks for %v", got)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b json.RawMessage
			inLab(t, source.Config{}, func(l *lab) {
				l.get(addrs(mine, second), dhcpv6.OptDNS([]byte(server1.addr.AsSlice())), option(dhcpv6.OptionDomainSearchList, []byte("\x01b\x07example\x00")...))
				b = l.Stored()
			})
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(tt.age)
				l := newLab(t)
				l.Link.HW = net.HardwareAddr{2, 0, 0, 0, 0, 0x99} // which does not matter
				l.Begin(source.Config{Stored: b})
				tt.then(l)
				l.End()
			})
		})
	}
}

// TestIdentity has the DUID and the IAID: of the hardware address, then what was stored.
func TestIdentity(t *testing.T) {
	other := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	duid, iaid, _ := loadStored(nil, sourcetest.MAC)
	for _, bad := range []string{
		``, `{}`, `[]`, `null`, `{"duid":"000300010200","iaid":""}`, `{"duid":"0003","iaid":"00000001"}`, `{"duid":"00","iaid":"00000042"}`,
		`{"duid":"00030001020000000099","iaid":"0000004200"}`, `{"duid":"x0030001020000000099","iaid":"00000042"}`, `{"duid":7,"iaid":"00000042"}`,
	} {
		if d, i, l := loadStored([]byte(bad), sourcetest.MAC); !bytes.Equal(d, duid) || i != iaid || l != nil {
			t.Errorf("%s: DUID %x, IAID %x, lease %v", bad, d, i, l)
		}
	}
	if d, i, l := loadStored(encode(duid, iaid, nil), other); !bytes.Equal(d, duid) || i != iaid || l != nil {
		t.Errorf("stored, DUID %x, IAID %x, lease %v", d, i, l)
	}
	if d, _, _ := loadStored(nil, other); bytes.Equal(d, duid) {
		t.Error("two hardware addresses have one DUID")
	}
}

// TestCalls has what the client asks for in each state, and how it ends.
func TestCalls(t *testing.T) {
	t.Run("renew", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			l.get(addrs(mine))
			l.Calls <- source.Call{Renew: true}
			l.reply(server1, l.message(dhcpv6.MessageTypeRenew), addrs(mine))
			l.set(mine)
			time.Sleep(time.Hour / 10)
			l.Calls <- source.Call{Renew: true}
			called := time.Now()
			l.FailedWith("does not renew")
			if d := time.Since(called); d > source.FirstAttempt {
				t.Errorf("it fails after %v", d)
			}
			l.skip(dhcpv6.MessageTypeRenew, 10*time.Minute)
			l.Calls <- source.Call{Renew: true}
			called = time.Now()
			l.reply(server1, l.message(dhcpv6.MessageTypeRenew), addrs(mine))
			l.set(mine)
			if d := time.Since(called); d > callWait {
				t.Errorf("RENEW is sent after %v", d)
			}
		})
	})
	t.Run("confirm in a request", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			s := l.message(dhcpv6.MessageTypeSolicit)
			l.advertise(server1, s, addrs(mine))
			synctest.Wait()
			l.Calls <- source.Call{Confirm: true} // which forgets the advertisement
			l.advertise(server2, l.message(dhcpv6.MessageTypeSolicit), addrs(mine))
			if r := l.message(dhcpv6.MessageTypeRequest); !bytes.Equal(r.Options.ServerID().ToBytes(), server2.duid) {
				t.Errorf("REQUEST is for %x", r.Options.ServerID().ToBytes())
			}
			l.Calls <- source.Call{Renew: true}
			l.message(dhcpv6.MessageTypeRequest)
			l.Calls <- source.Call{Confirm: true}
			l.reply(server1, l.message(dhcpv6.MessageTypeSolicit), rapid, addrs(second))
			l.set(second)
		})
	})
	t.Run("confirm", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			l.get(addrs(mine))
			l.Stored()
			l.Calls <- source.Call{Confirm: true}
			l.reply(server2, l.message(dhcpv6.MessageTypeConfirm))
			l.set(mine)
			l.Quiet(time.Minute)
			// Nobody says no, so it is used further.
			l.Calls <- source.Call{Confirm: true, Renew: true}
			l.FailedWith("no server says whether [2001:db8::42] can be used")
			l.FailedWith("no server says whether [2001:db8::42] can be used")
			l.skip(dhcpv6.MessageTypeConfirm, time.Minute)
			l.Calls <- source.Call{Confirm: true}
			l.reply(server2, l.message(dhcpv6.MessageTypeConfirm), statusOf(iana.StatusNotOnLink))
			l.Lost()
			if _, _, stored := loadStored(l.Stored(), nil); stored != nil {
				t.Errorf("a lease of %v is stored", stored.hosts())
			}
			l.reply(server2, l.message(dhcpv6.MessageTypeSolicit), rapid, addrs(second))
			l.set(second)
		})
	})
	t.Run("renew in a confirmation", func(t *testing.T) {
		for _, calls := range [][]source.Call{{{Confirm: true}, {Renew: true}}, {{Confirm: true, Renew: true}}} {
			inLab(t, source.Config{}, func(l *lab) {
				l.get(addrs(mine))
				l.Stored()
				for _, call := range calls {
					l.Calls <- call
				}
				l.reply(server2, l.message(dhcpv6.MessageTypeConfirm))
				l.reply(server1, l.message(dhcpv6.MessageTypeRenew), addrs(mine))
				l.set(mine)
				l.Stored()
				l.Quiet(time.Minute)
				l.Calls <- source.Call{Confirm: true}
				l.reply(server2, l.message(dhcpv6.MessageTypeConfirm))
				l.set(mine)
				l.Quiet(time.Minute)
			})
		}
	})
	t.Run("slept", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			first := l.get(addrs(mine))
			l.Stored()
			l.Calls <- source.Call{Slept: 100 * time.Second}
			if got := l.set(mine); !got.Expires.Equal(first.Expires.Add(-100 * time.Second)) {
				t.Errorf("the lease ends at %v, before %v", got.Expires, first.Expires)
			}
			l.Calls <- source.Call{Slept: 1000 * time.Second, Confirm: true}
			l.reply(server2, l.message(dhcpv6.MessageTypeConfirm))
			l.set(mine)
			l.reply(server1, l.message(dhcpv6.MessageTypeRenew), addrs(mine)) // T1 is over
			l.set(mine)
			l.Calls <- source.Call{Slept: 1700 * time.Second}
			l.set(mine)
			l.message(dhcpv6.MessageTypeRebind)
			l.Calls <- source.Call{Slept: 9 * time.Second} // most of the time until the next
			slept := time.Now()
			l.message(dhcpv6.MessageTypeRebind)
			if d := time.Since(slept); d > 2*time.Second {
				t.Errorf("REBIND is sent %v later", d)
			}
			l.Calls <- source.Call{Slept: 5000 * time.Second, Confirm: true}
			l.Lost()
			l.FailedWith("has expired")
			l.message(dhcpv6.MessageTypeSolicit)
		})
	})
	t.Run("nothing is known", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			l.FailedWith("no server")
			time.Sleep(20 * time.Hour)
			for len(l.Link.Sent)+len(l.Sink.Said) > 0 {
				select {
				case <-l.Link.Sent:
				case <-l.Sink.Said:
				}
			}
			for _, call := range []source.Call{{Renew: true}, {Confirm: true, Slept: time.Hour}} {
				l.Calls <- call
				called := time.Now()
				l.FailedWith("no server has offered an address")
				if d := time.Since(called); d > source.FirstAttempt {
					t.Errorf("it fails after %v", d)
				}
				if n := len(l.Link.Sent); n < 5 || n > 8 {
					t.Errorf("%d messages are sent", n)
				}
				for len(l.Link.Sent) > 0 {
					<-l.Link.Sent
				}
				time.Sleep(time.Minute)
				for len(l.Link.Sent)+len(l.Sink.Said) > 0 {
					select {
					case <-l.Link.Sent:
					case <-l.Sink.Said:
					}
				}
			}
		})
	})
	t.Run("information is known", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			l.advertise(server1, l.message(dhcpv6.MessageTypeSolicit), statusOf(iana.StatusNoAddrsAvail))
			dns := dhcpv6.OptDNS([]byte(server1.addr.AsSlice()))
			l.reply(server1, l.message(dhcpv6.MessageTypeInformationRequest), dns)
			l.set()
			time.Sleep(90 * time.Minute)
			for len(l.Link.Sent) > 0 {
				<-l.Link.Sent
			}
			l.Calls <- source.Call{Confirm: true}
			l.reply(server1, l.next(dhcpv6.MessageTypeInformationRequest), dns)
			l.Stored()
			l.set()
		})
	})
	t.Run("too often", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			for range 300 {
				l.Calls <- source.Call{Renew: true}
				l.Calls <- source.Call{Confirm: true}
				time.Sleep(100 * time.Millisecond)
			}
			if n := len(l.Link.Sent); n > 50 {
				t.Errorf("%d messages are sent in half a minute", n)
			}
			for len(l.Link.Sent) > 0 {
				<-l.Link.Sent
			}
			close(l.Calls)
			time.Sleep(time.Minute)
			if n := len(l.Link.Sent); n == 0 {
				t.Error("nothing is sent any longer")
			}
		})
	})
}
