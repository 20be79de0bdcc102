package dhcp4

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestHostile has a neighbour that sees all messages, and answers each with several of all
// kinds for a day, some long after: the source sends and says little, and nothing that makes
// no sense.
func TestHostile(t *testing.T) {
	pick := func(all ...string) netip.Addr { return netip.MustParseAddr(all[rand.IntN(len(all))]) }
	seconds := func() time.Duration {
		return []time.Duration{0, 1, 5, 9, 10, 10, 10, 11, 12, 60, math.MaxInt32}[rand.IntN(11)] * time.Second
	}
	bytes := func() []byte {
		b := make([]byte, rand.IntN(300))
		for i := range b {
			b[i] = byte(rand.IntN(256) & rand.IntN(256))
		}
		return b
	}
	hosts := []string{"10.0.0.1", "10.0.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.255", "240.0.0.1", "0.0.0.1", "10.0.0.42"}
	answer := func(m *dhcpv4.DHCPv4) []byte {
		types := []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak, dhcpv4.MessageTypeInform}
		r := reply(m, types[rand.IntN(len(types))], pick(hosts[:3]...), pick(append(hosts, "10.0.0.42", "10.0.0.43", "1.1.1.1")...))
		if long := rand.IntN(1000) == 0; long {
			r.UpdateOption(dhcpv4.OptIPAddressLeaseTime((math.MaxUint32 - 1) * time.Second))
		} else {
			r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(min(seconds(), time.Minute)))
		}
		r.UpdateOption(dhcpv4.OptRenewTimeValue(seconds()))
		r.UpdateOption(dhcpv4.OptRebindingTimeValue(seconds()))
		r.UpdateOption(dhcpv4.OptRouter(pick(hosts...).AsSlice(), pick(hosts...).AsSlice()))
		for range rand.IntN(2) {
			r.UpdateOption(generic(byte(1+rand.IntN(254)), bytes()...))
		}
		for range rand.IntN(2) {
			r.UpdateOption(generic(parameters[rand.IntN(len(parameters))], bytes()...))
		}
		if rand.IntN(2) == 0 {
			r.UpdateOption(dhcpv4.OptSubnetMask([]byte{255, 255, 255, 0}))
			r.UpdateOption(dhcpv4.OptMessageType(types[rand.IntN(len(types))]))
			r.UpdateOption(dhcpv4.OptServerIdentifier(server1.AsSlice()))
		}
		return r.ToBytes()
	}
	inLab(t, source.Config{}, func(l *lab) {
		l.Sink.RefuseSet(sourcetest.SomeConflicts)
		sent, sets, failed, stored := 0, 0, 0, 0
		call := time.NewTicker(3 * time.Hour)
		defer call.Stop()
		for end := time.After(24 * time.Hour); ; {
			select {
			case s := <-l.Link.Sent:
				sent++
				if s.Port == sourcetest.ARP {
					if rand.IntN(20) == 0 {
						data := append([]byte(nil), s.Data...)
						data[8]++ // another sender
						l.Link.Deliver(sourcetest.ARP, source.Packet{Data: data})
					}
					break
				}
				m, err := dhcpv4.FromBytes(s.Data)
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + rand.IntN(5) {
					p := source.Packet{Data: answer(m), Peer: netip.AddrPortFrom(server1, serverPort)}
					time.AfterFunc([]time.Duration{0, time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[rand.IntN(4)], func() {
						l.Link.Deliver(sourcetest.Unconfigured, p)
						l.Link.Deliver(ours, p)
					})
				}
			case said := <-l.Sink.Said:
				switch said := said.(type) {
				case source.Lease:
					sets++
					if len(said.Addrs) > 0 && (!isHost(said.Addrs[0].Prefix.Addr()) || !isHost(said.Server) || said.Renew.After(said.Rebind) || said.Rebind.After(said.Expires) && !said.Expires.IsZero()) ||
						max(len(said.Addrs), len(said.Routes), len(said.DNS), len(said.Search), len(said.NTP)) > source.MaxItems {
						t.Errorf("it has %+v", said)
					}
				case error:
					failed++
				case json.RawMessage:
					stored++
				}
			case <-call.C:
				l.Calls <- source.Call{Confirm: rand.IntN(2) == 0, Renew: true}
			case <-end:
				t.Logf("%d packets, %d leases, %d failures, %d stored", sent, sets, failed, stored)
				if max(sent, sets, failed) > 24*3600/10 {
					t.Error("that is too much")
				}
				return
			}
		}
	})
}
