package slirp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// DHCP (RFC 2131 and 2132), which answers BOOTP too, as the C library does.
const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	dhcpHeaderLen = 236 // without the magic cookie
	dhcpFileLen   = 128
	// dhcpReplyLen is the length of all answers, which every client must accept.
	dhcpReplyLen = 548
	maxName      = 255
	// dhcpRoom is the room in an answer for what the locator sets.
	dhcpRoom = dhcpReplyLen - dhcpHeaderLen - len(dhcpCookie) - 3 - 6 - 1

	leaseTime = 24 * time.Hour
	// maxLeases is how many guests get an address.
	maxLeases = 256
)

const dhcpCookie = "\x63\x82\x53\x63"

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Types of messages.
const (
	dhcpDiscover = 1 + iota
	dhcpOffer
	dhcpRequest
	dhcpDecline
	dhcpAck
	dhcpNak
	dhcpRelease
	dhcpInform
)

// Numbers of options.
const (
	optMask      = 1
	optRouter    = 3
	optDNS       = 6
	optHostname  = 12
	optDomain    = 15
	optRequested = 50
	optLeaseTime = 51
	optType      = 53
	optServer    = 54
	optTFTP      = 66
	optSearch    = 119
	optEnd       = 255
)

type hardwareAddr [6]byte

// leases are the addresses of guests.
type leases struct {
	cfg *config

	mu    sync.Mutex // guards table
	table map[netip.Addr]lease
}

// A lease says for which guest an address is taken; the zero guest stands for a host that
// did not ask.
type lease struct {
	guest hardwareAddr
	until time.Time
}

func (ls *leases) init(cfg *config) { ls.cfg, ls.table = cfg, make(map[netip.Addr]lease) }

// A dhcpMessage has the fields of a guest's message that matter here.
type dhcpMessage struct {
	typ       byte // 0: BOOTP
	guest     hardwareAddr
	requested netip.Addr // option 50
	server    netip.Addr // option 54
	client    netip.Addr // the guest's current address
}

// parseDHCP reads a message of a guest; ok is false for what is not a DHCP request.
func parseDHCP(b []byte) (m dhcpMessage, ok bool) {
	const request, ethernet = 1, 1
	if len(b) < dhcpHeaderLen || b[0] != request || b[1] != ethernet || b[2] != byte(len(m.guest)) {
		return m, false
	}
	m.client = netip.AddrFrom4([4]byte(b[12:]))
	m.guest = hardwareAddr(b[28:])
	if m.guest == (hardwareAddr{}) || m.guest[0]&1 != 0 {
		return m, false
	}
	b, ok = bytes.CutPrefix(b[dhcpHeaderLen:], []byte(dhcpCookie))
	if !ok {
		return m, true
	}
	for len(b) > 0 && b[0] != optEnd {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return m, false
		}
		value := b[2 : 2+int(b[1])]
		switch {
		case b[0] == optType && len(value) == 1:
			m.typ = value[0]
		case b[0] == optRequested && len(value) == 4:
			m.requested = netip.AddrFrom4([4]byte(value))
		case b[0] == optServer && len(value) == 4:
			m.server = netip.AddrFrom4([4]byte(value))
		}
		b = b[2+int(b[1]):]
	}
	return m, true
}

// serveDHCP answers a message of a guest. What acknowledges the address that the guest has
// goes there, all else to everybody (RFC 2131, 4.1): a socket of that address does not receive
// broadcasts.
func (n *nat) serveDHCP(data []byte) {
	reply := n.dhcp.answer(data, time.Now())
	if reply == nil {
		return
	}
	to := netip.AddrFrom4([4]byte(reply[12:])) // ciaddr, of an ACK only
	if !usable(n.cfg.host, to) || n.cfg.own(to) {
		to = limitedBroadcast
	}
	n.writeUDP(netip.AddrPortFrom(n.cfg.host.Addr(), dhcpServerPort), netip.AddrPortFrom(to, dhcpClientPort), reply)
}

// answer returns the answer to a message, or nil.
func (ls *leases) answer(data []byte, now time.Time) []byte {
	m, ok := parseDHCP(data)
	host := ls.cfg.host.Addr()
	if !ok || m.server.IsValid() && m.server != host {
		return nil
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch m.typ {
	case 0, dhcpDiscover:
		addr, ok := ls.find(m, now)
		if !ok {
			return nil
		}
		typ, hold := byte(dhcpOffer), time.Minute
		if m.typ == 0 {
			typ, hold = 0, leaseTime
		}
		if old := ls.table[addr]; old.until.Before(now.Add(hold)) {
			ls.table[addr] = lease{m.guest, now.Add(hold)}
		}
		return ls.reply(data, typ, addr)
	case dhcpRequest:
		addr := m.requested
		if !addr.IsValid() {
			addr = m.client // it renews
		}
		if !ls.free(addr, m.guest, now) {
			return ls.reply(data, dhcpNak, netip.Addr{})
		}
		for a, l := range ls.table {
			if a != addr && l.guest == m.guest {
				delete(ls.table, a)
			}
		}
		ls.table[addr] = lease{m.guest, now.Add(leaseTime)}
		return ls.reply(data, dhcpAck, addr)
	case dhcpDecline:
		if l, ok := ls.table[m.requested]; ok && l.guest == m.guest {
			ls.table[m.requested] = lease{until: now.Add(leaseTime)}
		}
	case dhcpRelease:
		if l, ok := ls.table[m.client]; ok && l.guest == m.guest {
			delete(ls.table, m.client)
		}
	case dhcpInform:
		return ls.reply(data, dhcpAck, netip.Addr{})
	}
	return nil
}

// find chooses the address for a guest: the one it has, the one it wants, the first that
// was never taken, or the first whose lease has ended. ls.mu is held.
func (ls *leases) find(m dhcpMessage, now time.Time) (netip.Addr, bool) {
	for a, l := range ls.table {
		if l.guest == m.guest {
			return a, true
		}
	}
	if ls.free(m.requested, m.guest, now) {
		return m.requested, true
	}
	var old netip.Addr
	for a := range ls.pool {
		l, ok := ls.table[a]
		if !ok {
			return a, true
		}
		if !old.IsValid() && l.until.Before(now) {
			old = a
		}
	}
	return old, old.IsValid()
}

// pool yields all addresses for guests.
func (ls *leases) pool(yield func(netip.Addr) bool) {
	a := ls.cfg.dhcp
	for i := 0; i < maxLeases && usable(ls.cfg.host, a); i++ {
		if !ls.cfg.own(a) && !yield(a) {
			return
		}
		a = a.Next()
	}
}

// free reports whether a guest may have an address. ls.mu is held.
func (ls *leases) free(addr netip.Addr, guest hardwareAddr, now time.Time) bool {
	for a := range ls.pool {
		if a == addr {
			l, taken := ls.table[a]
			return !taken || l.guest == guest || l.until.Before(now)
		}
	}
	return false
}

// reply returns an answer, with an address if that is valid.
func (ls *leases) reply(request []byte, typ byte, addr netip.Addr) []byte {
	cfg := ls.cfg
	host := cfg.host.Addr().AsSlice()
	b := make([]byte, dhcpHeaderLen, dhcpReplyLen)
	b[0], b[1], b[2] = 2, 1, 6
	copy(b[4:], request[4:8])    // xid
	copy(b[10:], request[10:12]) // flags
	copy(b[28:44], request[28:]) // chaddr
	copy(b[24:28], request[24:]) // giaddr
	if typ == dhcpAck {
		copy(b[12:16], request[12:]) // ciaddr
	}
	if addr.IsValid() {
		copy(b[16:], addr.AsSlice())
	}
	b = append(b, dhcpCookie...)
	if typ != 0 {
		b = append(b, optType, 1, typ)
		b = option(b, optServer, host)
	}
	if typ != dhcpNak {
		copy(b[20:], host) // siaddr
		copy(b[108:], cfg.bootFile)
		b = cfg.appendOptions(b, addr.IsValid())
	}
	b = append(b, optEnd)
	return append(b, make([]byte, max(0, dhcpReplyLen-len(b)))...)
}

func (cfg *config) appendOptions(b []byte, leased bool) []byte {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-cfg.host.Bits()))
	b = option(b, optMask, mask)
	if !cfg.restricted {
		b = option(b, optRouter, cfg.host.Addr().AsSlice())
		b = option(b, optDNS, cfg.dns.AsSlice())
	}
	if leased {
		b = option(b, optLeaseTime, binary.BigEndian.AppendUint32(nil, uint32(leaseTime/time.Second)))
	}
	b = option(b, optHostname, []byte(cfg.hostname))
	b = option(b, optDomain, []byte(cfg.domain))
	b = option(b, optTFTP, []byte(cfg.tftpName))
	if len(cfg.search) > 0 {
		search, _ := encodeSearch(cfg.search) // it was checked
		b = option(b, optSearch, search)
	}
	return b
}

// option appends an option, unless it is empty.
func option(b []byte, number byte, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(b, number, byte(len(value)))
	return append(b, value...)
}

// encodeSearch returns a search list (RFC 3397), without compression.
func encodeSearch(list []string) ([]byte, error) {
	var b []byte
	for _, domain := range list {
		for label := range strings.SplitSeq(strings.TrimSuffix(domain, "."), ".") {
			if label == "" || len(label) > 63 {
				return nil, fmt.Errorf("%q is not a domain", domain)
			}
			b = append(append(b, byte(len(label))), label...)
		}
		b = append(b, 0)
	}
	if len(b) > 255 {
		return nil, errors.New("the domains do not fit into a DHCP option")
	}
	return b, nil
}
