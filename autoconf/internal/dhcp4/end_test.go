package dhcp4

import (
	"bytes"
	"errors"
	"math"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// TestConflict has another host with the address.
func TestConflict(t *testing.T) {
	other, sibling := []byte{2, 0, 0, 0, 0, 9}, net.HardwareAddr{2, 0, 0, 0, 0, 7}
	request := func(l *lab) {
		l.Link.Other = sibling
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.offer(d, server1, mine)
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server1, mine)
		l.arp(netip.IPv4Unspecified(), mine)
	}
	declined := func(l *lab) {
		m, s := l.message(dhcpv4.MessageTypeDecline)
		if s.Port != sourcetest.Unconfigured || s.Peer.Addr() != broadcastAddr || m.NumSeconds != 0 || !m.ClientIPAddr.IsUnspecified() ||
			!m.RequestedIPAddress().Equal(mine.AsSlice()) || !m.ServerIdentifier().Equal(server1.AsSlice()) ||
			m.Options.Has(dhcpv4.OptionParameterRequestList) || m.Options.Has(dhcpv4.OptionMaximumDHCPMessageSize) {
			t.Errorf("DECLINE by %s: %v", s.Port, m.Summary())
		}
	}
	zero := netip.IPv4Unspecified()
	answer := AppendARP(nil, other, mine, mine)
	answer[7] = arpReply
	broken := bytes.Clone(answer)
	broken[0] = 7
	for _, tt := range []struct {
		name     string
		packet   []byte
		conflict bool
	}{
		{"answer", answer, true},
		{"announcement", AppendARP(nil, other, mine, mine), true},
		{"question of the host", AppendARP(nil, other, mine, server1), true},
		{"padded", append(AppendARP(nil, other, mine, server1), make([]byte, 18)...), true},
		{"probe of another host", AppendARP(nil, other, zero, mine), true},
		{"question for it", AppendARP(nil, other, server1, mine), false},
		{"of another interface of the stack", AppendARP(nil, sibling, mine, server1), false},
		{"our probe", AppendARP(nil, sourcetest.MAC, zero, mine), false},
		{"another address", AppendARP(nil, other, server1, server1), false},
		{"no ARP of Ethernet", broken, false},
		{"short", answer[:27], false},
		{"empty", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				request(l)
				time.Sleep(probeWait / 2)
				l.Link.Deliver(sourcetest.ARP, source.Packet{Data: tt.packet, HW: other})
				if !tt.conflict {
					l.arp(zero, mine)
					return
				}
				declined(l)
				l.FailedWith("in use by another host: 10.0.0.42")
				declinedAt := time.Now()
				d, _ := l.message(dhcpv4.MessageTypeDiscover)
				if wait := time.Since(declinedAt); wait < declineWait || wait > 2*declineWait {
					t.Errorf("DISCOVER after %v", wait)
				}
				if d.Options.Has(dhcpv4.OptionRequestedIPAddress) {
					t.Error("it asks for the address again")
				}
			})
		})
	}
	t.Run("seen by the sink", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			l.Sink.RefuseSet(func(s source.Lease) error {
				if len(s.Addrs) == 0 {
					return errors.New("the kernel is of another opinion") // which is nothing to the source
				}
				return &source.ConflictError{Addrs: []netip.Addr{mine}}
			})
			request(l)
			l.arp(zero, mine)
			l.arp(zero, mine)
			l.Set()
			declined(l)
			l.Lost()
			l.FailedWith("in use by another host")
		})
	})
}

// TestDefend has another host use the address of a lease.
func TestDefend(t *testing.T) {
	rival, sibling := net.HardwareAddr{2, 0, 0, 0, 0, 9}, net.HardwareAddr{2, 0, 0, 0, 0, 7}
	reply := AppendARP(nil, rival, mine, server1)
	reply[7] = arpReply
	hear := func(l *lab, packet []byte) {
		l.Helper()
		if !l.Link.Deliver(sourcetest.ARP, source.Packet{Data: packet}) {
			l.Fatal("the port is not open")
		}
	}
	// settled has a lease, and no announcement that is still to be sent.
	settled := func(l *lab) {
		l.Link.Other = sibling
		l.get()
		l.Stored()
		time.Sleep(time.Second)
	}
	for _, tt := range []struct {
		name     string
		packet   []byte
		conflict bool
	}{
		{"announcement", AppendARP(nil, rival, mine, mine), true},
		{"question of the host", AppendARP(nil, rival, mine, server1), true},
		{"answer", reply, true},
		{"probe", AppendARP(nil, rival, netip.IPv4Unspecified(), mine), false}, // the kernel answers
		{"question for it", AppendARP(nil, rival, server1, mine), false},
		{"ours", AppendARP(nil, sourcetest.MAC, mine, mine), false},
		{"of another interface of the stack", AppendARP(nil, sibling, mine, server1), false},
		{"short", reply[:27], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, source.Config{}, func(l *lab) {
				settled(l)
				for range 2 {
					hear(l, tt.packet)
					if tt.conflict {
						l.arp(mine, mine)
					}
					l.Quiet(defendInterval)
				}
			})
		})
	}
	lost := func(l *lab) *dhcpv4.DHCPv4 {
		l.Helper()
		if m, _ := l.message(dhcpv4.MessageTypeDecline); !m.RequestedIPAddress().Equal(mine.AsSlice()) || !m.ServerIdentifier().Equal(server1.AsSlice()) {
			l.Errorf("declined: %v", m.Summary())
		}
		l.Lost()
		l.FailedWith("in use by another host: 10.0.0.42")
		if open := l.Link.Open(); len(open) > 0 {
			l.Errorf("ports are open: %q", open)
		}
		l.Quiet(declineWait - time.Second)
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		return d
	}
	t.Run("given up", func(t *testing.T) {
		inLab(t, source.Config{}, func(l *lab) {
			settled(l)
			packet := AppendARP(nil, rival, mine, server1)
			hear(l, packet)
			l.arp(mine, mine)
			time.Sleep(defendInterval - 1)
			hear(l, packet)
			l.answer(lost(l))
			// The next one is defended for an hour, and not more often than the RFC allows.
			l.Stored()
			sent := 0
			for range int(keepTime/time.Second) - 60 {
				time.Sleep(time.Second)
				hear(l, packet)
				synctest.Wait()
				for len(l.Link.Sent) > 0 {
					if s := l.Sent(); s.Port == sourcetest.ARP {
						sent++
					} else if m, err := dhcpv4.FromBytes(s.Data); err != nil || m.MessageType() != dhcpv4.MessageTypeRequest {
						t.Fatalf("sent %x", s.Data)
					} else {
						l.ack(m, server1, mine)
						l.Set()
						l.Stored()
					}
				}
			}
			if want := int(keepTime/defendInterval) - 6; sent < want-2 || sent > want+2 {
				t.Errorf("defended %d times in an hour, want %d", sent, want)
			}
			for len(l.Sink.Said) > 0 {
				t.Errorf("the sink is told %+v", <-l.Sink.Said)
			}
			// As if the machine had been asleep.
			l.Calls <- source.Call{Slept: time.Minute}
			l.Set()
			hear(l, packet)
			l.arp(mine, mine)
			hear(l, packet)
			lost(l)
		})
	})
}

// TestRelease checks what is sent at the end.
func TestRelease(t *testing.T) {
	for _, release := range []bool{false, true} {
		inLab(t, source.Config{Release: release}, func(l *lab) {
			l.get()
			l.Stored()
			l.Cancel()
			if !release {
				l.Quiet(time.Minute)
				return
			}
			m, s := l.message(dhcpv4.MessageTypeRelease)
			if s.Port != ours || s.Peer != netip.AddrPortFrom(server1, serverPort) || !m.ClientIPAddr.Equal(mine.AsSlice()) ||
				!m.ServerIdentifier().Equal(server1.AsSlice()) || m.Options.Has(dhcpv4.OptionRequestedIPAddress) ||
				m.Options.Has(dhcpv4.OptionParameterRequestList) || !bytes.Equal(m.Options.Get(dhcpv4.OptionClientIdentifier), append([]byte{1}, sourcetest.MAC...)) {
				t.Errorf("RELEASE by %s: %v", s.Port, m.Summary())
			}
			if addr, valid := loadStored(l.Stored(), sourcetest.MAC); addr != mine || valid {
				t.Errorf("what is stored is %v, valid: %v", addr, valid)
			}
		})
	}
	inLab(t, source.Config{Release: true}, func(l *lab) { // there is nothing
		l.message(dhcpv4.MessageTypeDiscover)
		l.Cancel()
		l.Quiet(time.Minute)
	})
	inLab(t, source.Config{Release: true}, func(l *lab) { // it cannot be sent
		l.get(dhcpv4.OptIPAddressLeaseTime(math.MaxUint32 * time.Second))
		l.Link.RefuseOpen(inUse)
	})
	inLab(t, source.Config{Release: true}, func(l *lab) { // not at once
		l.get()
		l.Link.RefuseOpen(inUseOnce())
		l.Cancel()
		l.message(dhcpv4.MessageTypeRelease)
	})
}

// TestGone has ports that cannot be opened, that end, and that cannot send.
func TestGone(t *testing.T) {
	no := errors.New("no socket")
	request := func(l *lab) {
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.offer(d, server1, mine)
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server1, mine)
	}
	for _, tt := range []struct {
		port string // that cannot be opened
		want error
		f    func(l *lab)
	}{
		{sourcetest.Unconfigured, no, func(*lab) {}},
		{sourcetest.ARP, no, request},
		{"", source.ErrGone, func(l *lab) { l.message(dhcpv4.MessageTypeDiscover); l.Link.Break() }},
		{"", source.ErrGone, func(l *lab) { request(l); l.Sent(); l.Link.Break() }},
		{"", source.ErrGone, func(l *lab) { l.get(); l.message(dhcpv4.MessageTypeRequest); l.Link.Break() }},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.Link.RefuseOpen(func(name string) error {
				if name == tt.port {
					return no
				}
				return nil
			})
			l.Begin(source.Config{})
			tt.f(l)
			if err := <-l.Done; !errors.Is(err, tt.want) {
				t.Errorf("Run: %v, want %v", err, tt.want)
			}
			if open := l.Link.Open(); len(open) > 0 {
				t.Errorf("ports are open: %q", open)
			}
			l.Cancel()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.Link.RefuseSend(func(sourcetest.Sent) error { return errors.New("the network is down") })
		l.Begin(source.Config{})
		l.FailedWith("sending to 255.255.255.255: the network is down")
		l.Link.RefuseSend(nil)
		l.get()
		l.End()
	})
	for _, mac := range []net.HardwareAddr{nil, sourcetest.MAC[:5]} {
		l := newLab(t)
		l.Link.HW = mac
		if err := Run(t.Context(), source.Config{}, l.Link, l.Sink); err == nil {
			t.Errorf("hardware address %v: no error", mac)
		}
	}
}
