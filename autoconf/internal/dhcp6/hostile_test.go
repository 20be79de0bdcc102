package dhcp6

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestHostile has a neighbour that sees all messages, and answers each with several of all
// kinds for a day, some long after: the source sends and says little, and nothing that makes
// no sense.
func TestHostile(t *testing.T) {
	seconds := func() time.Duration {
		return []time.Duration{0, 1, 5, 9, 10, 10, 10, 11, 12, 60, math.MaxUint32 - 1, math.MaxUint32}[rand.IntN(12)] * time.Second
	}
	bytes := func() []byte {
		b := make([]byte, rand.IntN(100))
		for i := range b {
			b[i] = byte(rand.IntN(256) & rand.IntN(256))
		}
		return b
	}
	hosts := []string{"2001:db8::1", "2001:db8::42", "2001:db8::43", "2001:db8::44", "::", "::1", "ff02::1", "fe80::5", "::ffff:1.2.3.4"}
	codes := []iana.StatusCode{iana.StatusSuccess, iana.StatusSuccess, iana.StatusNoAddrsAvail, iana.StatusNoBinding, iana.StatusNotOnLink, iana.StatusUnspecFail, iana.StatusUseMulticast, 999}
	answer := func(m *dhcpv6.Message) []byte {
		ia := &dhcpv6.OptIANA{IaId: ourIA, T1: seconds(), T2: seconds()}
		for range rand.IntN(20) {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: netip.MustParseAddr(hosts[rand.IntN(len(hosts))]).AsSlice(), PreferredLifetime: seconds(), ValidLifetime: seconds()})
		}
		s := []server{server1, server1, server1, server2}[rand.IntN(4)]
		r := s.message(m, []dhcpv6.MessageType{dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeReply, dhcpv6.MessageTypeReply, dhcpv6.MessageTypeReconfigure}[rand.IntN(4)], ia)
		for _, o := range []dhcpv6.Option{
			rapid, statusOf(codes[rand.IntN(len(codes))]), refusal(codes[rand.IntN(len(codes))]), dhcpv6.OptPreference(255),
			option(dhcpv6.OptionSolMaxRT, 0, 0, 0, 60), option(dhcpv6.OptionInformationRefreshTime, 0, 0, 0, 0),
			option(dhcpv6.OptionDNSRecursiveNameServer, bytes()...), option(dhcpv6.OptionDomainSearchList, bytes()...), option(dhcpv6.OptionNTPServer, bytes()...),
		} {
			if rand.IntN(3) == 0 {
				r.AddOption(o)
			}
		}
		if rand.IntN(10) == 0 {
			r.AddOption(option(dhcpv6.OptionCode(rand.IntN(200)), bytes()...))
		}
		return r.ToBytes()
	}
	inLab(t, source.Config{}, func(l *lab) {
		l.Sink.RefuseSet(sourcetest.SomeConflicts)
		sent, sets, failed := 0, 0, 0
		call := time.NewTicker(3 * time.Hour)
		defer call.Stop()
		for end := time.After(24 * time.Hour); ; {
			select {
			case s := <-l.Link.Sent:
				sent++
				m, err := dhcpv6.MessageFromBytes(s.Data)
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + rand.IntN(5) {
					p := server1.packet(m)
					p.Data = answer(m)
					time.AfterFunc([]time.Duration{0, time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[rand.IntN(4)], func() { l.Link.Deliver(ours, p) })
				}
			case said := <-l.Sink.Said:
				switch said := said.(type) {
				case source.Lease:
					sets++
					checkLease(t, said)
				case error:
					failed++
				}
			case <-call.C:
				l.Calls <- source.Call{Confirm: rand.IntN(2) == 0, Renew: true}
			case <-end:
				t.Logf("%d messages, %d leases, %d failures", sent, sets, failed)
				if max(sent, sets, failed) > 24*3600/10 {
					t.Error("that is too much")
				}
				return
			}
		}
	})
}
