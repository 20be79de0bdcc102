package dhcp4

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// A dayServer has one client.
type dayServer struct {
	current, offered netip.Addr               // the client's, and what it was offered
	until            map[netip.Addr]time.Time // the ends of all leases, as the server knows
}

// answer returns the answer to a message, or nil.
func (s *dayServer) answer(m *dhcpv4.DHCPv4, leaseTime time.Duration) *dhcpv4.DHCPv4 {
	asked, _ := netip.AddrFromSlice(m.RequestedIPAddress())
	if !asked.IsValid() {
		asked, _ = netip.AddrFromSlice(m.ClientIPAddr.To4())
	}
	known := s.current.IsValid() && time.Now().Before(s.until[s.current])
	time := dhcpv4.OptIPAddressLeaseTime(leaseTime)
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if s.offered = s.current; !known {
			s.offered = netip.AddrFrom4([4]byte{10, 0, 0, byte(rand.IntN(100) + 100)})
		}
		return reply(m, dhcpv4.MessageTypeOffer, server1, s.offered, time)
	case dhcpv4.MessageTypeRequest:
		if m.ServerIdentifier() != nil && asked == s.offered {
			s.current, known = asked, true
		}
		if asked == s.current && known {
			return reply(m, dhcpv4.MessageTypeAck, server1, asked, time)
		}
		return reply(m, dhcpv4.MessageTypeNak, server1, asked)
	}
	return nil
}

// TestDay has leases of ten minutes for a day, on a network that loses, delays, reorders and
// repeats messages, of a server that sometimes forgets the client, and is sometimes away. The source
// never has an address for longer than the server has given it.
func TestDay(t *testing.T) {
	const leaseTime = 10 * time.Minute
	inLab(t, source.Config{}, func(l *lab) {
		network := l.Over("seed=1/loss=25%/duplicate=25%/reorder=25%/delay=10ms/jitter=300ms")
		defer network.Close()
		server := dayServer{until: make(map[netip.Addr]time.Time)}
		away := false
		answer := func(s sourcetest.Sent) {
			m, err := dhcpv4.FromBytes(s.Data)
			if err != nil {
				t.Fatal(err)
			}
			r := server.answer(m, leaseTime)
			if r == nil {
				return
			}
			if r.MessageType() == dhcpv4.MessageTypeAck {
				server.until[server.current] = time.Now().Add(leaseTime)
			}
			p := source.Packet{Data: r.ToBytes(), Peer: netip.AddrPortFrom(server1, serverPort)}
			network.Deliver(sourcetest.Unconfigured, p)
		}
		history := sourcetest.History{Until: server.until, Since: time.Now()}
		end, forget, goAway, call := time.After(24*time.Hour), time.NewTicker(99*time.Minute), time.NewTicker(17*time.Minute), time.NewTicker(7*time.Hour)
		defer forget.Stop()
		defer goAway.Stop()
		defer call.Stop()
		for {
			select {
			case s := <-network.Sent:
				if s.Port != sourcetest.ARP && !away {
					answer(s)
				}
			case said := <-l.Sink.Said:
				if lease, ok := said.(source.Lease); ok {
					history.Told(t, lease)
				}
			case <-forget.C:
				server.current = netip.Addr{}
			case <-goAway.C:
				away = !away
			case <-call.C:
				l.Calls <- source.Call{Confirm: true}
			case <-end:
				t.Logf("%d leases, renewals and losses; %d losses, %v without an address", history.Sets, history.Losses, history.Without)
				if history.Losses < 24*60/99 || history.Sets < 2*history.Losses || history.Without < time.Hour || history.Without > 12*time.Hour {
					t.Error("that is not expected")
				}
				return
			}
		}
	})
}
