package dhcp6

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// A dayServer has one client.
type dayServer struct {
	current netip.Addr               // the client's
	until   map[netip.Addr]time.Time // the ends of all leases, as the server knows
}

const dayTime = 10 * time.Minute

// lease returns an IA_NA of the address that the client has or gets.
func (s *dayServer) lease(commit bool) *dhcpv6.OptIANA {
	if !s.current.IsValid() || !time.Now().Before(s.until[s.current]) {
		s.current = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(rand.Uint32()), 15: 1})
	}
	if commit {
		s.until[s.current] = time.Now().Add(dayTime)
	}
	ia := lifetimesOf(addrs(s.current), 0, dayTime/2, dayTime)
	ia.T1, ia.T2 = 0, 0
	return ia
}

// answer returns the answer to a message.
func (s *dayServer) answer(m *dhcpv6.Message) *dhcpv6.Message {
	const reply = dhcpv6.MessageTypeReply
	ours := s.current.IsValid() && time.Now().Before(s.until[s.current]) && m.Options.OneIANA() != nil && asked(m) != nil && asked(m)[0] == s.current
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		if rand.IntN(2) == 0 {
			return server1.message(m, reply, rapid, s.lease(true))
		}
		return server1.message(m, dhcpv6.MessageTypeAdvertise, s.lease(false))
	case dhcpv6.MessageTypeRequest:
		return server1.message(m, reply, s.lease(true))
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		if ours {
			return server1.message(m, reply, s.lease(true))
		}
		return server1.message(m, reply, refusal(iana.StatusNoBinding))
	case dhcpv6.MessageTypeConfirm:
		if rand.IntN(3) == 0 {
			return server1.message(m, reply, statusOf(iana.StatusNotOnLink))
		}
		return server1.message(m, reply, statusOf(iana.StatusSuccess))
	}
	return server1.message(m, reply, dhcpv6.OptDNS([]byte(mine.AsSlice())))
}

// TestDay has leases of ten minutes for a day, on a network that loses, delays, reorders and
// repeats messages, of a server that sometimes forgets the client, and is sometimes away. The
// source never has an address for longer than the server has given it.
func TestDay(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		network := l.Over("seed=1/loss=25%/duplicate=25%/reorder=25%/delay=10ms/jitter=300ms")
		defer network.Close()
		server := dayServer{until: make(map[netip.Addr]time.Time)}
		away := false
		sent, ticks := 0, 0
		history := sourcetest.History{Until: server.until, Since: time.Now()}
		end, forget, goAway, call := time.After(24*time.Hour), time.NewTicker(99*time.Minute), time.NewTicker(17*time.Minute), time.NewTicker(3*time.Hour)
		defer forget.Stop()
		defer goAway.Stop()
		defer call.Stop()
		for {
			select {
			case s := <-network.Sent:
				sent++
				if away {
					break
				}
				m, err := dhcpv6.MessageFromBytes(s.Data)
				if err != nil {
					t.Fatal(err)
				}
				network.Deliver(ours, server1.packet(server.answer(m)))
			case said := <-l.Sink.Said:
				if lease, ok := said.(source.Lease); ok {
					history.Told(t, lease)
					checkLease(t, lease)
				}
			case <-forget.C:
				server.current = netip.Addr{}
			case <-goAway.C:
				ticks++
				away = ticks%4 == 3
			case <-call.C:
				l.Calls <- source.Call{Confirm: true}
			case <-end:
				t.Logf("%d leases, renewals and losses; %d losses, %v without an address, %d messages", history.Sets, history.Losses, history.Without, sent)
				if history.Losses < 10 || history.Sets < 4*history.Losses || history.Without < time.Hour || history.Without > 18*time.Hour || sent > 3000 {
					t.Error("that is not expected")
				}
				return
			}
		}
	})
}
