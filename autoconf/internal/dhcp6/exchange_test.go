package dhcp6

import (
	"encoding/hex"
	"errors"
	"fmt"
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

// TestLease has the four messages, their bytes, and what the sink is told.
func TestLease(t *testing.T) {
	inLab(t, source.Config{FQDN: "a.example"}, func(l *lab) {
		s := l.message(dhcpv6.MessageTypeSolicit)
		const duid = "0001000a00030001020000000042"
		const more = "00080002" + "0000" + "0006000a00170018003800670052" + "0027000c" + "01" + "01610765" + "78616d706c6500"
		if got, want := hex.EncodeToString(s.ToBytes()[4:]), duid+"000e0000"+more+"0003000c"+"00000042"+"0000000000000000"; got != want {
			t.Errorf("SOLICIT is\n%s, want\n%s", got, want)
		}
		l.reply(server1, s, addrs(second)) // without the option for rapid commit
		l.advertise(server1, s, addrs(mine, second))
		r := l.message(dhcpv6.MessageTypeRequest)
		l.At(1050*time.Millisecond, 51*time.Millisecond)
		if got, want := hex.EncodeToString(r.ToBytes()[4:]), duid+"0002000a00030001020000000001"+more+"00030044"+"00000042"+"0000000000000000"+
			"00050018"+"20010db8000000000000000000000042"+"0000000000000000"+"00050018"+"20010db8000000000000000000000043"+"0000000000000000"; got != want {
			t.Errorf("REQUEST is\n%s, want\n%s", got, want)
		}
		if r.TransactionID == s.TransactionID {
			t.Error("REQUEST has the transaction identifier of SOLICIT")
		}
		sent := time.Now()
		time.Sleep(300 * time.Millisecond)
		l.reply(server2, r, addrs(second))
		l.reply(server1, r, addrs(mine, second), dhcpv6.OptDNS([]byte(mine.AsSlice())))
		got := l.set(mine, second)
		for _, a := range got.Addrs {
			if a.Prefix.Bits() != 128 || !a.Preferred.Equal(sent.Add(2000*time.Second)) || !a.Valid.Equal(sent.Add(3000*time.Second)) {
				t.Errorf("the address is %+v", a)
			}
		}
		if got.Server != server1.addr || len(got.DNS) != 1 || !got.DNS[0].Expires.Equal(got.Expires) || !got.Expires.Equal(sent.Add(3000*time.Second)) ||
			!got.Rebind.Equal(sent.Add(1600*time.Second)) || !got.Renew.Equal(sent.Add(1000*time.Second)) {
			t.Errorf("the lease is %+v", got)
		}
		l.Stored()
		l.Quiet(900 * time.Second)
	})
}

// TestRetransmission has the times of each message that nobody answers, section 15, and its
// elapsed time.
func TestRetransmission(t *testing.T) {
	for _, tt := range []struct {
		typ      dhcpv6.MessageType
		first    time.Duration
		max      time.Duration
		count    int // until it is given up
		duration time.Duration
		until    func(l *lab) // the first message
	}{
		{dhcpv6.MessageTypeSolicit, time.Second, time.Hour, 0, 0, func(*lab) {}},
		{dhcpv6.MessageTypeRequest, time.Second, 30 * time.Second, 10, 0, func(l *lab) {
			l.advertise(server1, l.message(dhcpv6.MessageTypeSolicit), addrs(mine))
		}},
		{dhcpv6.MessageTypeRenew, 10 * time.Second, 10 * time.Minute, 0, 12 * time.Hour, func(l *lab) {
			ia := addrs(mine)
			ia.T1, ia.T2 = 6*time.Hour, 18*time.Hour
			ia.Options.Addresses()[0].ValidLifetime = 24 * time.Hour
			l.get(ia)
		}},
		{dhcpv6.MessageTypeRebind, 10 * time.Second, 10 * time.Minute, 0, 6 * time.Hour, func(l *lab) {
			ia := addrs(mine)
			ia.T1, ia.T2 = 18*time.Hour, 18*time.Hour
			ia.Options.Addresses()[0].ValidLifetime = 24 * time.Hour
			l.get(ia)
			l.skip(dhcpv6.MessageTypeRenew, time.Until(l.Start.Add(18*time.Hour-time.Millisecond)))
		}},
		{dhcpv6.MessageTypeConfirm, time.Second, 4 * time.Second, 0, 10 * time.Second, func(l *lab) {
			l.get(addrs(mine))
			l.Calls <- source.Call{Confirm: true}
		}},
		{dhcpv6.MessageTypeDecline, time.Second, 0, 4, 0, func(l *lab) {
			l.Sink.RefuseSet(func(source.Lease) error { return &source.ConflictError{Addrs: []netip.Addr{mine}} })
			l.get(addrs(mine))
		}},
	} {
		t.Run(tt.typ.String(), func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				tt.until(l)
				var began, last time.Time
				var rt time.Duration // the last wait
				n := 0
				for ; tt.count == 0 || n <= tt.count; n++ {
					s := <-l.Link.Sent
					m, err := dhcpv6.MessageFromBytes(s.Data)
					if err != nil {
						t.Fatal(err)
					}
					now := time.Now()
					if m.MessageType == dhcpv6.MessageTypeInformationRequest {
						n--
						continue
					}
					if n > 0 && m.MessageType != tt.typ || tt.count == 0 && tt.duration == 0 && n == 20 {
						break
					}
					if m.MessageType != tt.typ {
						t.Fatalf("got %v", m.MessageType)
					}
					if n == 0 {
						began, last = now, now
					}
					wait := now.Sub(last)
					least, most := tt.first*9/10, tt.first*11/10
					if tt.typ == dhcpv6.MessageTypeSolicit {
						least = tt.first + 1
					}
					if n > 1 {
						least, most = 2*rt-rt/10, 2*rt+rt/10
						if tt.max > 0 && most > tt.max {
							least, most = min(least, tt.max*9/10), tt.max*11/10
						}
					}
					if n > 0 && (wait < least || wait > most) {
						t.Errorf("message %d is sent %v after the last, want %v to %v", n, wait, least, most)
					}
					if got, want := m.Options.ElapsedTime(), min(now.Sub(began), 65535*10*time.Millisecond); (got - want).Abs() > 10*time.Millisecond {
						t.Errorf("message %d is sent after %v, it says %v", n, want, got)
					}
					last, rt = now, wait
				}
				if tt.count > 0 && n != tt.count {
					t.Errorf("it is sent %d times, want %d", n, tt.count)
				}
				if d := last.Sub(began); tt.duration > 0 && (d > tt.duration || d < tt.duration-12*time.Minute) {
					t.Errorf("it is sent for %v, want %v", d, tt.duration)
				}
			})
		})
	}
}

// TestChoice has what servers advertise, and which is asked.
func TestChoice(t *testing.T) {
	preference := func(v byte) dhcpv6.Option { return option(dhcpv6.OptionPreference, v) }
	type advert struct {
		server  server
		options []dhcpv6.Option
	}
	short := lifetimesOf(addrs(second), 0, time.Second, 9*time.Second)
	swapped := addrs(mine)
	swapped.T1 = time.Hour
	for _, tt := range []struct {
		name    string
		adverts []advert
		want    server // asked; none without a DUID
		at      time.Duration
	}{
		{"first", []advert{{server2, []dhcpv6.Option{addrs(mine)}}, {server1, []dhcpv6.Option{addrs(second)}}}, server2, 1050 * time.Millisecond},
		{"preference", []advert{{server2, []dhcpv6.Option{addrs(mine)}}, {server1, []dhcpv6.Option{addrs(second), preference(1)}}}, server1, 1050 * time.Millisecond},
		{"preference and addresses", []advert{{server2, []dhcpv6.Option{addrs(mine, second)}}, {server1, []dhcpv6.Option{addrs(second), preference(1)}}}, server1, 1050 * time.Millisecond},
		{"addresses", []advert{{server2, []dhcpv6.Option{addrs(mine)}}, {server1, []dhcpv6.Option{addrs(second, mine)}}}, server1, 1050 * time.Millisecond},
		{"addresses that are none", []advert{{server2, []dhcpv6.Option{addrs(mine)}}, {server1, []dhcpv6.Option{addrs(second, netip.IPv6LinkLocalAllNodes(), netip.IPv6Loopback(), second, server2.addr, netip.IPv6Unspecified())}}}, server2, 1050 * time.Millisecond},
		{"at once", []advert{{server2, []dhcpv6.Option{addrs(mine), preference(254)}}, {server1, []dhcpv6.Option{addrs(second), preference(255)}}}, server1, 0},
		{"the last of one", []advert{{server1, []dhcpv6.Option{addrs(mine, second)}}, {server2, []dhcpv6.Option{addrs(mine)}}, {server1, []dhcpv6.Option{addrs(mine)}}}, server1, 1050 * time.Millisecond},
		{"status", []advert{{server2, []dhcpv6.Option{addrs(mine), statusOf(iana.StatusNoAddrsAvail), preference(255)}}, {server1, []dhcpv6.Option{addrs(second)}}}, server1, 1050 * time.Millisecond},
		{"status of the IA", []advert{{server2, []dhcpv6.Option{refusal(iana.StatusNoAddrsAvail), preference(255)}}, {server1, []dhcpv6.Option{addrs(second)}}}, server1, 1050 * time.Millisecond},
		{"no IA", []advert{{server2, []dhcpv6.Option{preference(255)}}}, server{}, 0},
		{"another's IA", []advert{{server2, []dhcpv6.Option{&dhcpv6.OptIANA{Options: addrs(mine).Options}, preference(255)}}}, server{}, 0},
		{"T1 after T2", []advert{{server2, []dhcpv6.Option{swapped, preference(255)}}}, server{}, 0},
		{"short lifetime", []advert{{server2, []dhcpv6.Option{short, preference(255)}}}, server{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				s := l.message(dhcpv6.MessageTypeSolicit)
				for _, a := range tt.adverts {
					l.advertise(a.server, s, a.options...)
					time.Sleep(time.Nanosecond)
				}
				if tt.want.duid == nil {
					l.message(dhcpv6.MessageTypeInformationRequest)
					l.message(dhcpv6.MessageTypeSolicit)
					return
				}
				r := l.message(dhcpv6.MessageTypeRequest)
				l.At(tt.at, 51*time.Millisecond)
				if got := r.Options.ServerID().ToBytes(); !slices.Equal(got, tt.want.duid) {
					t.Errorf("server %x is asked, want %x", got, tt.want.duid)
				}
			})
		})
	}
}

// TestMany has a server with more addresses than are taken.
func TestMany(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		var all []netip.Addr
		for a := mine; len(all) < 30; a = a.Next() {
			all = append(all, a)
		}
		l.reply(server1, l.message(dhcpv6.MessageTypeSolicit), rapid, addrs(all...))
		l.set(all[:source.MaxItems]...)
	})
}

// TestRate has more messages than may be sent.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, link, _ := waiting(t, dhcpv6.MessageTypeSolicit)
		for _, want := range []int{bucketSize, bucketSize + 5} {
			for range 100 {
				c.send(&c.main)
			}
			if got := len(link.Sent); got != want {
				t.Errorf("%d messages are sent, want %d", got, want)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// TestLate has an advertisement after the first wait, and a rapid commit after it was not
// in the first message's time.
func TestLate(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.message(dhcpv6.MessageTypeSolicit)
		s := l.message(dhcpv6.MessageTypeSolicit)
		l.advertise(server1, s, addrs(mine))
		r := l.message(dhcpv6.MessageTypeRequest)
		l.At(1050*time.Millisecond, 51*time.Millisecond)
		l.reply(server1, s, rapid, addrs(second)) // of the exchange before
		l.message(dhcpv6.MessageTypeRequest)
		for range 3 {
			l.reply(server1, r, addrs(mine))
		}
		l.set(mine)
		l.Stored()
		l.Quiet(time.Minute)
	})
}

// TestNoServer has the report of the first attempt, and the requests for information.
func TestNoServer(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.FailedWith("no server has offered an address")
		l.At(source.ReportAfter, 0)
		var got []dhcpv6.MessageType
		for len(l.Link.Sent) > 0 {
			got = append(got, dhcpv6.MessageType((<-l.Link.Sent).Data[0]))
		}
		const solicit, inform = dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeInformationRequest
		slices.Sort(got)
		if n := len(got); n < 6 || n > 8 || got[2] != solicit || got[n-2] != inform {
			t.Errorf("got %v", got)
		}
		sent := len(got)
		for range 100 {
			time.Sleep(time.Hour)
			for len(l.Link.Sent) > 0 {
				<-l.Link.Sent
				sent++
			}
		}
		if sent > 250 {
			t.Errorf("%d messages are sent in 100 hours", sent)
		}
	})
}

// TestMaxRT has servers say how long SOLICIT and INFORMATION-REQUEST may wait, and values
// that are out of bounds.
func TestMaxRT(t *testing.T) {
	for _, tt := range []struct{ said, want time.Duration }{
		{5 * time.Minute, 5 * time.Minute}, {2 * time.Hour, 2 * time.Hour}, {time.Second, time.Hour}, {48 * time.Hour, time.Hour},
	} {
		inLab(t, source.Config{}, func(l *lab) {
			s := uint32(tt.said / time.Second)
			value := []byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)}
			m := l.message(dhcpv6.MessageTypeSolicit)
			l.advertise(server1, m, option(dhcpv6.OptionSolMaxRT, value...), option(dhcpv6.OptionInfMaxRT, value...))
			time.Sleep(40 * time.Hour)
			if n, want := len(l.Link.Sent)/2, int(40*time.Hour/tt.want); n < want || n > want+15 {
				t.Errorf("max RT %v: %d of each message in 40 hours", tt.said, n)
			}
		})
	}
}

// TestRefused has a server that advertises addresses and then has none.
func TestRefused(t *testing.T) {
	for _, code := range []iana.StatusCode{iana.StatusNoAddrsAvail, iana.StatusNotOnLink} {
		inLab(t, source.Config{}, func(l *lab) {
			requests := 0
			for time.Since(l.Start) < time.Hour {
				s := <-l.Link.Sent
				m, err := dhcpv6.MessageFromBytes(s.Data)
				if err != nil {
					t.Fatal(err)
				}
				switch m.MessageType {
				case dhcpv6.MessageTypeSolicit:
					l.advertise(server1, m, addrs(mine), option(dhcpv6.OptionPreference, 255))
				case dhcpv6.MessageTypeRequest:
					requests++
					l.reply(server1, m, refusal(code))
				}
			}
			if requests < 5 || requests > 15 {
				t.Errorf("%v: it is asked %d times in an hour", code, requests)
			}
			l.FailedWith(fmt.Sprintf("server fe80::1 gives no address: %v: so  it is", code))
		})
	}
}

// TestFailing has a server that fails for a while, and then does not.
func TestFailing(t *testing.T) {
	for _, o := range []dhcpv6.Option{statusOf(iana.StatusUnspecFail), statusOf(iana.StatusUseMulticast), refusal(99)} {
		inLab(t, source.Config{}, func(l *lab) {
			l.advertise(server1, l.message(dhcpv6.MessageTypeSolicit), addrs(mine))
			for range 4 {
				l.reply(server1, l.message(dhcpv6.MessageTypeRequest), o)
			}
			l.reply(server1, l.message(dhcpv6.MessageTypeRequest), addrs(mine))
			l.At(16300*time.Millisecond, 3300*time.Millisecond)
			l.FailedWith("gives no address")
			l.set(mine)
		})
	}
}

// TestSilent has a server that advertises, and does not answer. Another is asked then.
func TestSilent(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.advertise(server1, l.message(dhcpv6.MessageTypeSolicit), addrs(mine), option(dhcpv6.OptionPreference, 254))
		for range 10 {
			l.message(dhcpv6.MessageTypeRequest)
		}
		s := l.message(dhcpv6.MessageTypeSolicit)
		l.FailedWith("does not answer the request")
		l.FailedWith("does not answer the request")
		l.advertise(server1, s, addrs(mine), option(dhcpv6.OptionPreference, 254))
		l.advertise(server2, s, addrs(second))
		l.reply(server2, l.message(dhcpv6.MessageTypeRequest), addrs(second))
		l.set(second)
	})
}

// TestPort has a port that cannot be opened, one that cannot send, and one that fails.
func TestPort(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.Link.RefuseOpen(func(string) error { return broken })
		if err := Run(t.Context(), source.Config{}, l.Link, l.Sink); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		l.Link.RefuseOpen(nil)
		l.Link.RefuseSend(func(sourcetest.Sent) error { return broken })
		l.Begin(source.Config{})
		l.FailedWith("sending to [ff02::1:2]:547: broken")
		l.At(source.ReportAfter, 0)
		l.Link.Break()
		if err := <-l.Done; err == nil {
			t.Error("Run goes on without a port")
		}
		l.Cancel()
		l.Link.HW = nil
		if err := Run(t.Context(), source.Config{}, l.Link, l.Sink); err == nil {
			t.Error("there is no error without a hardware address")
		}
	})
}
