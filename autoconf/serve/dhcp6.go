package serve

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// DHCP6 is what DHCPv6 gives. Each client gets an address in the first IPv6 network of 64 bits
// that the interface has, the same each time: it is made of the client's DUID and IAID.
type DHCP6 struct {
	Off bool
	// LeaseTime is the valid lifetime of addresses, at least 10 s. 0 means an hour.
	LeaseTime time.Duration
}

const (
	serverPort6 = 547
	// maxMessage6 bounds what is read of clients, who have some hundreds of bytes to say.
	maxMessage6 = 2048
	// minDUID and maxDUID are of RFC 8415, section 11.1, with the type of two bytes.
	minDUID, maxDUID = 3, 130
	maxIAs           = source.MaxItems
	// maxDeclined bounds the addresses that are known to be other hosts', and maxTries how
	// many are made for a client.
	maxDeclined = 256
	maxTries    = 8
)

// A dhcp6Server answers messages of DHCPv6, RFC 8415. Since addresses are made of what clients
// say, it needs no memory to give them; it keeps who has one for their names, as long as there
// is room.
type dhcp6Server struct {
	cfg     *settings
	port    source.Port
	network netip.Prefix
	own     []netip.Prefix
	duid    []byte
	v4      *table // nil without DHCPv4

	mu       *sync.Mutex // guards the rest; it is that of v4, whose names are read
	byAddr   map[netip.Addr]*binding6
	byName   names[binding6]
	order    list.List // of *binding6, in the order in which they end
	declined []netip.Addr
}

// A binding6 is an address that a client has.
type binding6 struct {
	addr    netip.Addr
	duid    []byte
	mac     net.HardwareAddr // nil if the DUID has none
	name    string
	expires time.Time
	place   *list.Element
}

// serves6 reports whether there is DHCPv6.
func (s *settings) serves6(own []netip.Prefix) bool {
	_, ok := slash64(own)
	return ok && !s.DHCP6.Off
}

// slash64 returns the network that has addresses for clients.
func slash64(own []netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(own, func(p netip.Prefix) bool { return p.Addr().Is6() && p.Bits() == 64 })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return own[i].Masked(), true
}

// newDHCP6 opens the port.
func newDHCP6(cfg *settings, link source.Link, own []netip.Prefix, v4 *table) (_ *dhcp6Server, err error) {
	s := &dhcp6Server{
		cfg: cfg, own: own, v4: v4, mu: new(sync.Mutex), byAddr: make(map[netip.Addr]*binding6), byName: makeNames[binding6](),
		duid: append([]byte{0, 3, 0, byte(iana.HWTypeEthernet)}, link.MAC()...), // a DUID-LL
	}
	if v4 != nil {
		s.mu, v4.taken = &v4.mu, s.taken
	}
	var ok bool
	if s.network, ok = slash64(own); !ok {
		return nil, errors.New("the interface has no IPv6 network of 64 bits")
	}
	s.port, err = link.UDP(netip.AddrPortFrom(netip.IPv6Unspecified(), serverPort6))
	return s, err
}

func (s *dhcp6Server) close() { s.port.Close() }

// run serves until ctx ends, or the interface is gone.
func (s *dhcp6Server) run(ctx context.Context) error {
	defer s.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case p, ok := <-s.port.Packets():
			if !ok {
				return errGone
			}
			if m := s.answer(p, time.Now()); m != nil {
				if err := s.port.Send(source.Packet{Data: m.ToBytes(), Peer: p.Peer}); err != nil {
					s.cfg.log.Debug("a message was not sent", "to", p.Peer, "error", err)
				}
			}
		}
	}
}

// parseOption6 decodes the options that are used, and no others: some have messages inside.
func parseOption6(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
	switch code {
	case dhcpv6.OptionIANA, dhcpv6.OptionORO:
		return dhcpv6.ParseOption(code, data)
	}
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: bytes.Clone(data)}, nil
}

// option6 returns the bytes of an option that parseOption6 does not decode; nil if it is absent.
func option6(o dhcpv6.MessageOptions, code dhcpv6.OptionCode) []byte {
	if g, ok := o.GetOne(code).(*dhcpv6.OptionGeneric); ok {
		return append([]byte{}, g.OptionData...)
	}
	return nil
}

// answer returns the answer to a message, or nil.
func (s *dhcp6Server) answer(p source.Packet, now time.Time) *dhcpv6.Message {
	b := p.Data
	if len(b) < dhcpv6.MessageHeaderSize || len(b) > maxMessage6 || !p.Peer.Addr().IsLinkLocalUnicast() {
		return nil
	}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageType(b[0])}
	copy(m.TransactionID[:], b[1:])
	if err := m.Options.FromBytesWithParser(b[dhcpv6.MessageHeaderSize:], parseOption6); err != nil {
		return nil
	}
	client, server := option6(m.Options, dhcpv6.OptionClientID), option6(m.Options, dhcpv6.OptionServerID)
	if client != nil && (len(client) < minDUID || len(client) > maxDUID) || server != nil && !bytes.Equal(server, s.duid) {
		return nil
	}
	// RFC 8415, section 16, has who may be left out.
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if server != nil || client == nil {
			return nil
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if server == nil || client == nil {
			return nil
		}
	case dhcpv6.MessageTypeInformationRequest:
		if m.Options.OneIANA() != nil {
			return nil
		}
	default:
		return nil
	}
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: s.duid})
	if client != nil {
		r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: client})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	switch m.MessageType {
	case dhcpv6.MessageTypeConfirm:
		status, ok := s.confirm(m)
		if !ok {
			return nil
		}
		r.AddOption(&dhcpv6.OptStatusCode{StatusCode: status})
		return r
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		s.giveBack(m, client)
		r.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
		return r
	case dhcpv6.MessageTypeSolicit:
		if m.Options.GetOne(dhcpv6.OptionRapidCommit) == nil {
			r.MessageType = dhcpv6.MessageTypeAdvertise
		} else {
			r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		}
	}
	s.addAddrs(r, m, client, now)
	s.addOptions(r, m)
	return r
}

// confirm reports whether the addresses of a client are of this network; ok is false if it has
// said none.
func (s *dhcp6Server) confirm(m *dhcpv6.Message) (status iana.StatusCode, ok bool) {
	for _, ia := range firstIAs(m) {
		for _, a := range ia.Options.Addresses() {
			ok = true
			if !s.network.Contains(addrOf(a.IPv6Addr)) {
				return iana.StatusNotOnLink, true
			}
		}
	}
	return iana.StatusSuccess, ok
}

// giveBack ends what a client has, which it releases or which other hosts have.
func (s *dhcp6Server) giveBack(m *dhcpv6.Message, client []byte) {
	for _, ia := range firstIAs(m) {
		a, ok := s.addr(client, ia.IaId)
		if !ok || !slices.ContainsFunc(ia.Options.Addresses(), func(o *dhcpv6.OptIAAddress) bool { return addrOf(o.IPv6Addr) == a }) {
			continue
		}
		if b := s.byAddr[a]; b != nil {
			s.remove(b)
		}
		if m.MessageType == dhcpv6.MessageTypeDecline {
			s.declined = append(s.declined, a)
			s.declined = slices.Delete(s.declined, 0, max(0, len(s.declined)-maxDeclined))
			s.cfg.log.Warn("a client says that another host has its address", "address", a)
		}
	}
}

func firstIAs(m *dhcpv6.Message) []*dhcpv6.OptIANA {
	all := m.Options.IANA()
	return all[:min(len(all), maxIAs)]
}

// addr makes the address of a client. It fails if other hosts have all that it would make.
func (s *dhcp6Server) addr(client []byte, iaid [4]byte) (netip.Addr, bool) {
	a := s.network.Addr().As16()
	for n := range byte(maxTries) {
		h := sha256.New()
		h.Write([]byte{n, byte(len(client))})
		h.Write(client)
		h.Write(iaid[:])
		copy(a[8:], h.Sum(nil))
		addr := netip.AddrFrom16(a)
		if !slices.Contains(s.declined, addr) && !containsAddr(s.own, addr) && addr != s.network.Addr() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addAddrs answers the IAs of a client. With a REPLY it has the addresses from then on.
func (s *dhcp6Server) addAddrs(r, m *dhcpv6.Message, client []byte, now time.Time) {
	d := s.cfg.DHCP6.LeaseTime
	extend := m.MessageType == dhcpv6.MessageTypeRenew || m.MessageType == dhcpv6.MessageTypeRebind
	fqdn := option6(m.Options, dhcpv6.OptionFQDN)
	name := ""
	for i, ia := range firstIAs(m) {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		r.AddOption(out)
		a, ok := s.addr(client, ia.IaId)
		if !ok {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
			continue
		}
		out.T1, out.T2 = d/2, d/5*4
		out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: d / 8 * 7, ValidLifetime: d})
		for n, o := range ia.Options.Addresses() {
			// What it has of another server ends, section 18.3.4.
			if old := addrOf(o.IPv6Addr); extend && old != a && old.Is6() && n < maxIAs {
				out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: old.AsSlice()})
			}
		}
		if r.MessageType != dhcpv6.MessageTypeReply {
			continue
		}
		if b := s.keep(a, client, now); b != nil && i == 0 {
			s.name(b, s.nameOf(fqdn), now)
			name = b.name
			s.cfg.log.Info("leased", "address", a, "name", name)
		}
	}
	if r.MessageType == dhcpv6.MessageTypeReply && len(fqdn) > 0 && m.MessageType != dhcpv6.MessageTypeInformationRequest {
		r.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN, OptionData: answerFQDN6(fqdn[0], name)})
	}
}

// flagN6 is the N flag of RFC 4704; S and O are where RFC 4702 has them.
const flagN6 = 4

// answerFQDN6 returns the option of RFC 4704 with the name that a client has got, or no name.
func answerFQDN6(asked byte, name string) []byte {
	flags := byte(flagN6)
	if name != "" {
		flags = flagS
	}
	if (asked^flags)&flagS != 0 {
		flags |= flagO
	}
	if name == "" {
		return []byte{flags}
	}
	return appendWireName([]byte{flags}, name)
}

// nameOf returns the name that a client says is its own, below the domain.
func (s *dhcp6Server) nameOf(fqdn []byte) string {
	if len(fqdn) == 0 || fqdn[0]&flagN6 != 0 {
		return ""
	}
	full, ok := s.cfg.below(wireName(fqdn[1:]))
	if !ok {
		return ""
	}
	return full
}

// keep remembers who has an address, for LeaseTime. It returns nil if there is no room.
func (s *dhcp6Server) keep(a netip.Addr, client []byte, now time.Time) *binding6 {
	b := s.byAddr[a]
	if b == nil {
		if len(s.byAddr) >= maxBindings {
			return nil
		}
		b = &binding6{addr: a, duid: client, mac: macOf(client)}
		s.byAddr[a] = b
	} else {
		s.order.Remove(b.place)
	}
	b.expires = now.Add(s.cfg.DHCP6.LeaseTime)
	b.place = s.order.PushBack(b)
	return b
}

// macOf returns the Ethernet address in a DUID-LLT or DUID-LL, or nil.
func macOf(duid []byte) net.HardwareAddr {
	for _, t := range []struct {
		begin string
		size  int
	}{{"\x00\x01\x00\x01", 8}, {"\x00\x03\x00\x01", 4}} {
		if strings.HasPrefix(string(duid), t.begin) && len(duid) == t.size+6 {
			return slices.Clone(duid[t.size:])
		}
	}
	return nil
}

// name gives a binding a name, unless another client has it. A client of DHCPv4 with the same
// hardware address is the same.
func (s *dhcp6Server) name(b *binding6, name string, now time.Time) {
	if name == b.name {
		return
	}
	if b.name != "" {
		s.byName.delete(b.name)
		b.name = ""
	}
	if name == "" || s.byName.by[name] != nil || !s.cfg.mayName(name, s.reservation(b.mac, name)) {
		return
	}
	if s.v4 != nil {
		if other := s.v4.byName.by[name]; other != nil && other.live(now) && !bytes.Equal(other.MAC, b.mac) {
			return
		}
	}
	b.name = name
	s.byName.set(name, b)
}

// reservation returns that of DHCPv4 for a hardware address, or for whoever has a name: its name is
// the client's here too.
func (s *dhcp6Server) reservation(mac net.HardwareAddr, name string) *Reservation {
	all := s.cfg.DHCP4.Reservations
	i := slices.IndexFunc(all, func(r Reservation) bool {
		return r.MAC != nil && bytes.Equal(r.MAC, mac) || r.MAC == nil && r.ClientID == nil && r.Name == name
	})
	if i < 0 {
		return nil
	}
	return &all[i]
}

// taken reports whether a client with another hardware address has a name. s.mu is held.
func (s *dhcp6Server) taken(name string, mac net.HardwareAddr, now time.Time) bool {
	b := s.byName.by[name]
	return b != nil && b.expires.After(now) && !bytes.Equal(b.mac, mac)
}

func (s *dhcp6Server) remove(b *binding6) {
	delete(s.byAddr, b.addr)
	if b.name != "" {
		s.byName.delete(b.name)
	}
	s.order.Remove(b.place)
}

// sweep ends what has ended.
func (s *dhcp6Server) sweep(now time.Time) {
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		b := e.Value.(*binding6)
		if b.expires.After(now) {
			return
		}
		s.remove(b)
	}
}

// addOptions adds what a client asks for, or all if it does not say.
func (s *dhcp6Server) addOptions(r, m *dhcpv6.Message) {
	asked := func(code dhcpv6.OptionCode) bool {
		return m.Options.GetOne(dhcpv6.OptionORO) == nil || m.IsOptionRequested(code)
	}
	if servers := s.cfg.nameservers6(s.own); len(servers) > 0 && asked(dhcpv6.OptionDNSRecursiveNameServer) {
		r.AddOption(dhcpv6.OptDNS(ips(servers)...))
	}
	if len(s.cfg.Search) > 0 && asked(dhcpv6.OptionDomainSearchList) {
		r.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: s.cfg.Search}))
	}
}

// addrOf returns the address of the client with a name.
func (s *dhcp6Server) addrOf(name string, now time.Time) (netip.Addr, bool) {
	if s == nil {
		return netip.Addr{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byName.by[name]; b != nil && b.expires.After(now) {
		return b.addr, true
	}
	return netip.Addr{}, false
}

// hasBelow reports whether the name of a client is below another.
func (s *dhcp6Server) hasBelow(name string, now time.Time) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	return s.byName.below[name] > 0
}

// leases returns all leases.
func (s *dhcp6Server) leases(now time.Time) (all []Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byAddr {
		if b.expires.After(now) {
			all = append(all, Lease{b.addr, slices.Clone(b.mac), slices.Clone(b.duid), b.name, b.expires})
		}
	}
	return all
}

// nameAt returns the name of the client with an address.
func (s *dhcp6Server) nameAt(a netip.Addr, now time.Time) string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byAddr[a]; b != nil && b.expires.After(now) {
		return b.name
	}
	return ""
}

func (d *DHCP6) check() error {
	if d.LeaseTime = cmp.Or(d.LeaseTime, defaultLease); d.LeaseTime < minLease || d.LeaseTime > maxLease {
		return fmt.Errorf("DHCP6.LeaseTime %v: want at least %v and at most 136 years", d.LeaseTime, minLease)
	}
	return nil
}
