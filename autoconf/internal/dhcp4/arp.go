package dhcp4

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	probes        = 3
	announcements = 2
	// probeWait is the time after each probe. RFC 5227 has one to two seconds, for networks
	// that are slow to begin; here an answer to the first probe may take 750 ms.
	probeWait    = 250 * time.Millisecond
	announceWait = 2 * time.Second
	// defendInterval is that of section 2.4: another host that uses the address again before
	// it ends has the address.
	defendInterval = 10 * time.Second
	// keepTime is how long no other address is given up. Who can have the stack lose one can do
	// it again, and for each the server keeps an address that nobody uses.
	keepTime = time.Hour
)

const (
	sizeofARP  = 28
	arpRequest = 1
	arpReply   = 2
)

// AppendARP appends a request of RFC 826 for an address. The sender is the zero Addr or the
// same address.
func AppendARP(b []byte, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b = append(b, 0, 1, 8, 0, 6, 4, 0, arpRequest) // Ethernet, IPv4, sizes of addresses
	b = append(b, mac...)
	s, t := sender.As4(), target.As4()
	b = append(b, s[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0) // hardware address of the target
	return append(b, t[:]...)
}

// Conflicts reports whether an ARP packet shows that another host has an address, or probes
// for it too: RFC 5227, section 2.1.1.
func Conflicts(b []byte, mac net.HardwareAddr, addr netip.Addr) bool {
	if uses(b, mac, addr) {
		return true
	}
	return uses(b, mac, netip.IPv4Unspecified()) && b[7] == arpRequest && netip.AddrFrom4([4]byte(b[24:28])) == addr
}

// uses reports whether an ARP packet is of another host that uses an address: section 2.4.
func uses(b []byte, mac net.HardwareAddr, addr netip.Addr) bool {
	if len(b) < sizeofARP || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) || bytes.Equal(b[8:14], mac) {
		return false
	}
	op := binary.BigEndian.Uint16(b[6:])
	return (op == arpRequest || op == arpReply) && netip.AddrFrom4([4]byte(b[14:18])) == addr
}

// probe looks for other hosts that have the address of a lease.
func (c *client) probe(l lease) error {
	c.lease = l
	c.enter(probing)
	if err := c.openARP(l.addr.Addr()); err != nil {
		return err
	}
	c.sendProbe()
	return nil
}

// openARP opens a port for what is about an address.
func (c *client) openARP(about netip.Addr) (err error) {
	if c.arp != nil && c.about != about {
		closePort(&c.arp)
	}
	if c.arp == nil {
		c.about = about
		c.arp, err = c.link.ARP(about)
	}
	return err
}

func (c *client) sendProbe() {
	c.tries++
	c.next = time.Now().Add(probeWait)
	// If it is lost, the others remain.
	_ = c.arp.Send(source.Packet{Data: AppendARP(nil, c.mac, netip.IPv4Unspecified(), c.lease.addr.Addr())})
}

// receivedARP takes what has come while an address is probed, and while there is a lease.
func (c *client) receivedARP(p source.Packet, ok bool) error {
	switch {
	case !ok:
		return source.ErrGone
	case c.state == probing:
		if Conflicts(p.Data, c.mac, c.lease.addr.Addr()) && !c.ours(p.Data) {
			return c.decline()
		}
	case c.held != nil && uses(p.Data, c.mac, c.held.addr.Addr()):
		return c.defend(p.Data)
	}
	return nil
}

// ours reports whether an ARP packet is of another interface of the stack on the network. The
// kernel answers, and asks, for all addresses of the stack on all its interfaces.
func (c *client) ours(b []byte) bool {
	if mac := net.HardwareAddr(b[8:14]); !bytes.Equal(mac, c.sibling) {
		if !c.link.Ours(mac) {
			return false
		}
		c.sibling = bytes.Clone(mac)
	}
	return true
}

// defend announces the address of the lease, which another host uses, or gives it up if it
// does so again: RFC 5227, section 2.4 (b). For keepTime after that it defends every address,
// as often as the RFC allows it (c).
func (c *client) defend(b []byte) error {
	now := time.Now()
	again := !c.defended.IsZero() && now.Sub(c.defended) < defendInterval
	keep := !c.givenUp.IsZero() && now.Sub(c.givenUp) < keepTime
	if again && keep || c.ours(b) {
		return nil
	}
	addr, mac := c.held.addr.Addr(), net.HardwareAddr(b[8:14]).String()
	if again {
		c.cfg.Log.Warn("given up, for another host uses it", "address", addr, "host", mac)
		c.lease, c.givenUp = *c.held, now
		return c.decline()
	}
	c.cfg.Log.Warn("defended, for another host uses it", "address", addr, "host", mac)
	c.defended = now
	c.announcements = max(c.announcements, 1)
	c.sendAnnouncement()
	return nil
}

// sendAnnouncement tells the network, where others may have kept the hardware address of an
// earlier host, whose address it is.
func (c *client) sendAnnouncement() {
	c.announce = time.Time{}
	c.announcements--
	a := c.held.addr.Addr()
	if c.state == probing || c.openARP(a) == nil {
		_ = c.arp.Send(source.Packet{Data: AppendARP(nil, c.mac, a, a)})
	}
	if c.announcements > 0 {
		c.announce = time.Now().Add(announceWait)
	}
}
