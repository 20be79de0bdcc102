package dhcp4

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

var (
	mine    = netip.MustParseAddr("10.0.0.42")
	server1 = netip.MustParseAddr("10.0.0.1")
	server2 = netip.MustParseAddr("10.0.0.2")
)

// A lab has servers of DHCPv4 for a source.
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

// inUse refuses to open ports.
func inUse(string) error { return errors.New("in use") }

// inUseOnce refuses to open a port, but not another one.
func inUseOnce() func(port string) error {
	var first sync.Once
	return func(port string) (err error) {
		first.Do(func() { err = inUse(port) })
		return err
	}
}

// message returns the next packet, which is a message of a type, and its destination.
func (l *lab) message(want dhcpv4.MessageType) (*dhcpv4.DHCPv4, sourcetest.Sent) {
	l.Helper()
	s := l.Sent()
	if s.Port == sourcetest.ARP {
		l.Fatalf("got an ARP packet %x, want %v", s.Data, want)
	}
	m, err := dhcpv4.FromBytes(s.Data)
	if err != nil {
		l.Fatal(err)
	}
	if got := m.MessageType(); got != want {
		l.Fatalf("got %v, want %v", got, want)
	}
	return m, s
}

// arp checks that the next packet is an ARP request for an address.
func (l *lab) arp(sender, target netip.Addr) {
	l.Helper()
	s, t := sender.As4(), target.As4()
	want := fmt.Sprintf("0001080006040001%x%x000000000000%x", []byte(sourcetest.MAC), s, t)
	if got := l.Sent(); got.Port != sourcetest.ARP || fmt.Sprintf("%x", got.Data) != want || got.HW != nil {
		l.Fatalf("got %x by %s to %v, want %s", got.Data, got.Port, got.HW, want)
	}
}

// reply returns a message of a server to a message of the source.
func reply(to *dhcpv4.DHCPv4, t dhcpv4.MessageType, server, addr netip.Addr, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: to.HWType, TransactionID: to.TransactionID,
		ClientHWAddr: to.ClientHWAddr, Options: make(dhcpv4.Options),
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	if t == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = to.ClientIPAddr
	}
	if t != dhcpv4.MessageTypeNak {
		m.YourIPAddr = addr.AsSlice()
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(time.Hour))
		m.UpdateOption(dhcpv4.OptSubnetMask([]byte{255, 255, 255, 0}))
	}
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// deliver gives the source a message from a server. The packet socket gets every message, the
// one of the lease what is for its address.
func (l *lab) deliver(m *dhcpv4.DHCPv4) {
	l.Helper()
	from, _ := netip.AddrFromSlice(m.ServerIdentifier())
	l.deliverFrom(from, m)
}

// deliverFrom is deliver for a message that does not say who has sent it.
func (l *lab) deliverFrom(from netip.Addr, m *dhcpv4.DHCPv4) {
	l.Helper()
	p := source.Packet{Data: m.ToBytes(), Peer: netip.AddrPortFrom(from, serverPort), Local: broadcastAddr}
	if !l.Link.Deliver(sourcetest.Unconfigured, p) {
		l.Fatal("the packet socket is not open")
	}
	if m.ClientIPAddr != nil && !m.ClientIPAddr.IsUnspecified() {
		l.Link.Deliver(ours, p)
	}
}

func (l *lab) offer(to *dhcpv4.DHCPv4, server, addr netip.Addr, options ...dhcpv4.Option) {
	l.Helper()
	l.deliver(reply(to, dhcpv4.MessageTypeOffer, server, addr, options...))
}

func (l *lab) ack(to *dhcpv4.DHCPv4, server, addr netip.Addr, options ...dhcpv4.Option) {
	l.Helper()
	l.deliver(reply(to, dhcpv4.MessageTypeAck, server, addr, options...))
}

func (l *lab) nak(to *dhcpv4.DHCPv4, server netip.Addr) {
	l.Helper()
	l.deliver(reply(to, dhcpv4.MessageTypeNak, server, netip.Addr{}, dhcpv4.OptMessage("go\x1b away")))
}

// ours is the port of the lease.
var ours = sourcetest.UDP(netip.AddrPortFrom(mine, clientPort))

// probed checks that an address is probed, configured and announced, and returns the lease.
func (l *lab) probed(addr netip.Addr) source.Lease {
	l.Helper()
	for range probes {
		l.arp(netip.IPv4Unspecified(), addr)
	}
	lease := l.Set()
	if len(lease.Addrs) != 1 || lease.Addrs[0].Prefix.Addr() != addr {
		l.Fatalf("got %+v, want a lease of %v", lease, addr)
	}
	for range announcements {
		l.arp(addr, addr)
	}
	return lease
}

// get has the source get a lease of an address from server1.
func (l *lab) get(options ...dhcpv4.Option) source.Lease {
	l.Helper()
	d, _ := l.message(dhcpv4.MessageTypeDiscover)
	return l.answer(d, options...)
}

// answer gives a lease for a DISCOVER.
func (l *lab) answer(d *dhcpv4.DHCPv4, options ...dhcpv4.Option) source.Lease {
	l.Helper()
	l.offer(d, server1, mine, options...)
	r, _ := l.message(dhcpv4.MessageTypeRequest)
	l.ack(r, server1, mine, options...)
	return l.probed(mine)
}

// An event is something that the source has sent or said.
type event struct {
	at   time.Duration // since the start
	text string
}

// events returns what happens within a time.
func (l *lab) events(d time.Duration) (all []event) {
	l.Helper()
	end := time.After(d)
	for {
		text := ""
		select {
		case s := <-l.Link.Sent:
			if s.Port == sourcetest.ARP {
				text = "ARP"
				break
			}
			m, err := dhcpv4.FromBytes(s.Data)
			if err != nil {
				l.Fatal(err)
			}
			text = m.MessageType().String() + " to " + s.Peer.Addr().String()
		case said := <-l.Sink.Said:
			switch said := said.(type) {
			case source.Lease:
				text = "lost"
				if len(said.Addrs) > 0 {
					text = "set"
				}
			case error:
				text = said.Error()
			case json.RawMessage:
				continue
			}
		case <-end:
			return all
		}
		all = append(all, event{time.Since(l.Start), text})
	}
}
