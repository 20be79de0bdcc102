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
	if len(b) < sizeofARP || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) || bytes.Equal(b[8:14], mac) {
		return false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	switch binary.BigEndian.Uint16(b[6:]) {
	case arpReply:
		return sender == addr
	case arpRequest:
		return sender == addr || sender.IsUnspecified() && target == addr
	}
	return false
}

// probe looks for other hosts that have the address of a lease.
func (c *client) probe(l lease) error {
	c.lease = l
	c.enter(probing)
	if err := c.openARP(); err != nil {
		return err
	}
	c.sendProbe()
	return nil
}

func (c *client) openARP() (err error) {
	if c.arp == nil {
		c.arp, err = c.link.ARP()
	}
	return err
}

func (c *client) sendProbe() {
	c.tries++
	c.next = time.Now().Add(probeWait)
	// If it is lost, the others remain.
	_ = c.arp.Send(source.Packet{Data: AppendARP(nil, c.mac, netip.IPv4Unspecified(), c.lease.addr.Addr())})
}

// receivedARP takes what has come while an address is probed.
func (c *client) receivedARP(p source.Packet, ok bool) error {
	if !ok {
		return source.ErrGone
	}
	if c.state == probing && Conflicts(p.Data, c.mac, c.lease.addr.Addr()) {
		return c.decline()
	}
	return nil
}

// sendAnnouncement tells the network, where others may have kept the hardware address of an
// earlier host, whose address it is.
func (c *client) sendAnnouncement() {
	c.announce = time.Time{}
	c.announcements--
	if c.openARP() == nil {
		a := c.held.addr.Addr()
		_ = c.arp.Send(source.Packet{Data: AppendARP(nil, c.mac, a, a)})
	}
	if c.announcements > 0 {
		c.announce = time.Now().Add(announceWait)
	} else if c.state != probing {
		closePort(&c.arp)
	}
}
