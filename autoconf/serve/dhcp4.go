package serve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
	"github.com/vdestack/vdestack/autoconf/internal/dhcp4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	serverPort = 67
	clientPort = 68
	// probeTime is how long a host that has an address may take to answer an ARP request
	// before the address is offered.
	probeTime = 100 * time.Millisecond
	// maxProbes bounds how many offers wait for that; more clients have to ask again.
	maxProbes = 1024
	// maxConflicts is how many addresses are tried for one DISCOVER.
	maxConflicts = 8
	// maxMessage and maxClientID bound what is read of clients, who have some hundreds of bytes
	// to say, and kept of them.
	maxMessage  = 1500
	maxClientID = 255
	// minReply and maxReply bound the size of messages: what every client takes, RFC 2131,
	// section 2, and what needs no fragments. sizeofHeaders are IPv4's and UDP's.
	minReply      = 548
	maxReply      = 1472
	sizeofHeaders = 28
)

var broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// A dhcp4Server is the state machine of DHCPv4, RFC 2131.
type dhcp4Server struct {
	cfg    *settings
	link   source.Link
	table  *table
	server netip.Addr
	// in is the socket that the kernel and other programs know. out sends to clients that
	// have no address yet; what it receives has come to in too.
	in, out, arp source.Port
	probes       []*probe // in the order in which they end
}

// A probe is an offer that waits for a host that has the address.
type probe struct {
	b      *binding
	addr   netip.Addr
	client *client
	m      *dhcpv4.DHCPv4 // the last DISCOVER
	due    time.Time
	tries  int
}

// newDHCP4 opens the ports.
func newDHCP4(cfg *settings, link source.Link, own []netip.Prefix) (_ *dhcp4Server, err error) {
	network, err := cfg.DHCP4.network(own)
	if err != nil {
		return nil, err
	}
	s := &dhcp4Server{cfg: cfg, link: link, server: network.Addr(), table: newTable(cfg, network, own)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.in, err = link.UDP(netip.AddrPortFrom(netip.IPv4Unspecified(), serverPort)); err != nil {
		return nil, err
	}
	if s.out, err = link.UDP4Unconfigured(serverPort); err != nil {
		return nil, err
	}
	s.arp, err = link.ARP(netip.Addr{})
	return s, err
}

func (s *dhcp4Server) close() {
	for _, p := range []source.Port{s.in, s.out, s.arp} {
		if p != nil {
			p.Close()
		}
	}
}

var errGone = errors.New("the interface is gone")

// run serves until ctx ends, or the interface is gone.
func (s *dhcp4Server) run(ctx context.Context) error {
	defer s.close()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		if len(s.probes) > 0 {
			timer.Reset(time.Until(s.probes[0].due))
		}
		select {
		case <-ctx.Done():
			return nil
		case p, ok := <-s.in.Packets():
			if !ok {
				return errGone
			}
			s.received(p)
		case p, ok := <-s.arp.Packets():
			if !ok {
				return errGone
			}
			s.receivedARP(p)
		case _, ok := <-s.out.Packets():
			if !ok {
				return errGone
			}
		case <-timer.C:
			s.probed(time.Now())
		}
	}
}

// received answers a message. What is malformed, or not for this server, is ignored.
func (s *dhcp4Server) received(p source.Packet) {
	if len(p.Data) > maxMessage {
		return
	}
	m, err := dhcp4.Decode(p.Data)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || !isMAC(m.ClientHWAddr) ||
		!m.GatewayIPAddr.IsUnspecified() || len(m.Options.Get(dhcpv4.OptionClientIdentifier)) > maxClientID {
		return
	}
	var server netip.Addr
	if id := m.Options.Get(dhcpv4.OptionServerIdentifier); id != nil {
		if server, _ = netip.AddrFromSlice(id); !server.Is4() {
			return
		}
	}
	c := s.client(m)
	now := time.Now()
	other := server.IsValid() && server != s.server
	switch t := m.MessageType(); {
	case t == dhcpv4.MessageTypeDiscover:
		s.discover(m, c, 0, now)
	case t == dhcpv4.MessageTypeRequest && other:
		// The client has chosen another server.
		if a, ok := s.table.has(c.key, now); ok {
			s.table.endOffer(c.key, a, now)
		}
	case other:
	case t == dhcpv4.MessageTypeRequest:
		s.request(m, c, server.IsValid(), now)
	case t == dhcpv4.MessageTypeDecline && server.IsValid():
		if s.table.end(c.key, c.requested, declined, now.Add(declineTime)) {
			s.cfg.log.Warn("a client says that another host has its address", "address", c.requested, "client", c.mac)
		}
	case t == dhcpv4.MessageTypeRelease:
		if a := addrOf(m.ClientIPAddr); s.table.end(c.key, a, ended, now) {
			s.cfg.log.Info("released", "address", a, "client", c.mac)
		}
	case t == dhcpv4.MessageTypeInform:
		if usable(s.table.network, addrOf(m.ClientIPAddr)) {
			s.send(m, s.reply(m, dhcpv4.MessageTypeAck, c, nil))
		}
	}
}

// client returns who has sent a message.
func (s *dhcp4Server) client(m *dhcpv4.DHCPv4) *client {
	c := &client{mac: slices.Clone(m.ClientHWAddr), requested: addrOf(m.RequestedIPAddress())}
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); len(id) >= 2 { // RFC 2132, section 9.14
		c.id = slices.Clone(id)
	}
	c.key = string(c.id)
	if c.id == nil {
		// Most clients send this identifier.
		c.key = string(append([]byte{byte(iana.HWTypeEthernet)}, c.mac...))
	}
	c.name = s.nameOf(m)
	c.reserved = s.table.reservation(c)
	return c
}

// Flags of the option of RFC 4702.
const (
	flagS = 1 // the server makes the A record
	flagO = 2 // the server has decided about S
	flagE = 4 // the name is in wire format
	flagN = 8 // the server makes no records
)

// nameOf returns the name that a client says is its own, below the domain; empty if it does not
// want one in DNS, or says none that is one.
func (s *dhcp4Server) nameOf(m *dhcpv4.DHCPv4) string {
	name := string(m.Options.Get(dhcpv4.OptionHostName))
	if o := m.Options.Get(dhcpv4.OptionFQDN); len(o) >= 3 {
		switch {
		case o[0]&flagN != 0:
			return ""
		case o[0]&flagE == 0:
			name = string(o[3:])
		default:
			name = wireName(o[3:])
		}
	}
	full, ok := s.cfg.below(strings.TrimRight(name, "\x00")) // some clients end it
	if !ok {
		return ""
	}
	return full
}

// wireName reads a name in wire format, without pointers; one label without an end is a name
// without a domain, RFC 4702, section 2.3.1. It returns an empty name if it is malformed.
func wireName(b []byte) string {
	var labels []string
	for len(b) > 0 && b[0] != 0 {
		n := int(b[0])
		if n > 63 || len(b) < 1+n || bytes.IndexByte(b[1:1+n], '.') >= 0 {
			return ""
		}
		labels = append(labels, string(b[1:1+n]))
		b = b[1+n:]
	}
	return strings.Join(labels, ".")
}

// appendWireName appends a canonical name in wire format.
func appendWireName(b []byte, name string) []byte {
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// discover offers an address, after it was probed unless the client has it.
func (s *dhcp4Server) discover(m *dhcpv4.DHCPv4, c *client, conflicts int, now time.Time) {
	if len(s.probes) >= maxProbes {
		return
	}
	b, probed := s.table.offer(c, now)
	switch {
	case b == nil:
		s.cfg.log.Warn("no address is left", "client", c.mac)
	case probed:
		s.send(m, s.reply(m, dhcpv4.MessageTypeOffer, c, &b.Lease))
	case b.probe != nil:
		b.probe.m = m
	default:
		b.probe = &probe{b: b, addr: b.Addr, client: c, m: m, due: now.Add(probeTime), tries: conflicts}
		s.probes = append(s.probes, b.probe)
		// If it is lost, the client's own probe remains.
		_ = s.arp.Send(source.Packet{Data: dhcp4.AppendARP(nil, s.link.MAC(), s.server, b.Addr)})
	}
}

// probed sends the offers whose probes are over.
func (s *dhcp4Server) probed(now time.Time) {
	for len(s.probes) > 0 && !s.probes[0].due.After(now) {
		p := s.probes[0]
		s.probes = slices.Delete(s.probes, 0, 1)
		if s.table.probed(p) {
			s.send(p.m, s.reply(p.m, dhcpv4.MessageTypeOffer, p.client, &p.b.Lease))
		}
	}
}

// receivedARP finds out that another host has an address that is probed.
func (s *dhcp4Server) receivedARP(p source.Packet) {
	now := time.Now()
	for i, pr := range s.probes {
		if !dhcp4.Conflicts(p.Data, pr.client.mac, pr.addr) || bytes.Equal(p.Data[8:14], s.link.MAC()) {
			continue
		}
		s.probes = slices.Delete(s.probes, i, i+1)
		if !s.table.probed(pr) || !s.table.end(pr.client.key, pr.addr, declined, now.Add(declineTime)) {
			return
		}
		s.cfg.log.Warn("another host has an address that was to be offered", "address", pr.addr, "host", net.HardwareAddr(p.Data[8:14]))
		if pr.tries < maxConflicts {
			s.discover(pr.m, pr.client, pr.tries+1, now)
		}
		return
	}
}

// request answers a REQUEST: of an offer of this server, or of an address that the client has,
// RFC 2131, section 4.3.2.
func (s *dhcp4Server) request(m *dhcpv4.DHCPv4, c *client, selecting bool, now time.Time) {
	a := c.requested
	if !a.IsValid() {
		a = addrOf(m.ClientIPAddr)
	}
	if !isHost(a) {
		return
	}
	if had, ok := s.table.has(c.key, now); !selecting && ok && had != a {
		s.refuse(m, c, a)
		return
	}
	l, ok := s.table.lease(c, a, selecting, now)
	switch {
	case ok:
		s.cfg.log.Info("leased", "address", a, "client", c.mac, "name", l.Name)
		s.send(m, s.reply(m, dhcpv4.MessageTypeAck, c, &l))
	case selecting, !usable(s.table.network, a), s.table.known(a):
		s.refuse(m, c, a)
	default:
		// It may be another server's client.
	}
}

func (s *dhcp4Server) refuse(m *dhcpv4.DHCPv4, c *client, a netip.Addr) {
	s.cfg.log.Info("refused", "address", a, "client", c.mac)
	s.send(m, s.reply(m, dhcpv4.MessageTypeNak, c, nil))
}

// reply returns a message to a client, with a lease unless that is nil.
func (s *dhcp4Server) reply(to *dhcpv4.DHCPv4, t dhcpv4.MessageType, c *client, l *Lease) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: to.HWType, TransactionID: to.TransactionID, Flags: to.Flags,
		ClientHWAddr: to.ClientHWAddr, Options: make(dhcpv4.Options),
	}
	if t == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = to.ClientIPAddr
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptServerIdentifier(s.server.AsSlice()))
	if c.id != nil {
		m.UpdateOption(dhcpv4.OptClientIdentifier(c.id)) // RFC 6842
	}
	if t == dhcpv4.MessageTypeNak {
		return m
	}
	if l != nil {
		m.YourIPAddr = l.Addr.AsSlice()
		d := s.cfg.DHCP4.LeaseTime
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d))
		m.UpdateOption(dhcpv4.OptRenewTimeValue(d / 2))
		m.UpdateOption(dhcpv4.OptRebindingTimeValue(d / 8 * 7))
	}
	size, _ := to.MaxMessageSize() // 0 if it is not said
	limit := min(max(int(size)-sizeofHeaders, minReply), maxReply)
	asked := to.Options.Get(dhcpv4.OptionParameterRequestList)
	for _, o := range s.options(to, m, l) {
		if o.Code != dhcpv4.OptionFQDN && asked != nil && !bytes.Contains(asked, []byte{o.Code.Code()}) {
			continue
		}
		m.UpdateOption(o)
		if len(m.ToBytes()) > limit {
			m.Options.Del(o.Code)
			s.cfg.log.Debug("an option does not fit into a message", "option", o.Code, "client", c.mac, "size", limit)
		}
	}
	return m
}

// options are what a client is told in m, what matters most first.
func (s *dhcp4Server) options(to, m *dhcpv4.DHCPv4, l *Lease) (all []dhcpv4.Option) {
	cfg := &s.cfg.DHCP4
	all = append(all, dhcpv4.OptSubnetMask(net.CIDRMask(s.table.network.Bits(), 32)))
	if len(cfg.Routers) > 0 {
		all = append(all, dhcpv4.OptRouter(ips(cfg.Routers)...))
	}
	if len(cfg.Routes) > 0 {
		var routes []*dhcpv4.Route
		add := func(dst netip.Prefix, gw netip.Addr) {
			routes = append(routes, &dhcpv4.Route{
				Dest:   &net.IPNet{IP: dst.Masked().Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)},
				Router: gw.AsSlice(),
			})
		}
		for _, r := range cfg.Routes {
			add(r.Dst, r.Gateway)
		}
		for _, r := range cfg.Routers { // RFC 3442: the option of routers is then ignored
			add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), r)
		}
		all = append(all, dhcpv4.OptClasslessStaticRoute(routes...))
	}
	v4 := only4(s.cfg.Nameservers)
	if s.cfg.Nameservers == nil && !s.cfg.DNS.Off {
		v4 = []netip.Addr{s.server}
	}
	if len(v4) > 0 {
		all = append(all, dhcpv4.OptDNS(ips(v4)...))
	}
	all = append(all, dhcpv4.OptDomainName(s.cfg.domain))
	if s.cfg.MTU > 0 {
		all = append(all, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(s.cfg.MTU))))
	}
	if l != nil && m.MessageType() == dhcpv4.MessageTypeAck { // an offer has no name yet
		if o := to.Options.Get(dhcpv4.OptionFQDN); len(o) >= 3 {
			all = append(all, dhcpv4.OptGeneric(dhcpv4.OptionFQDN, answerFQDN(o, l.Name)))
		} else if l.Name != "" {
			all = append(all, dhcpv4.OptHostName(strings.TrimSuffix(l.Name, "."+s.cfg.domain)))
		}
	}
	if len(s.cfg.Search) > 0 {
		all = append(all, dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: s.cfg.Search}))
	}
	if len(cfg.NTP) > 0 {
		all = append(all, dhcpv4.OptNTPServers(ips(cfg.NTP)...))
	}
	return all
}

// answerFQDN returns the option of RFC 4702 with the name that a client has got, or no name.
func answerFQDN(o []byte, name string) []byte {
	flags, wants := o[0]&flagE, o[0]&(flagS|flagN)
	switch {
	case name == "":
		flags |= flagN
		if wants&flagS != 0 {
			flags |= flagO
		}
	case wants&flagS == 0:
		flags |= flagS | flagO
	default:
		flags |= flagS
	}
	b := []byte{flags, 255, 255} // RFC 4702, section 2.2
	switch {
	case name == "":
		return b
	case flags&flagE == 0:
		return append(b, name...)
	}
	return appendWireName(b, name)
}

// send sends a reply to where RFC 2131, section 4.1, has it.
func (s *dhcp4Server) send(to, m *dhcpv4.DHCPv4) {
	p := source.Packet{Data: m.ToBytes(), Local: s.server, Peer: netip.AddrPortFrom(broadcastAddr, clientPort)}
	port := s.out
	ciaddr := addrOf(to.ClientIPAddr)
	switch {
	case m.MessageType() == dhcpv4.MessageTypeNak:
	case usable(s.table.network, ciaddr):
		p.Local, p.Peer = netip.Addr{}, netip.AddrPortFrom(ciaddr, clientPort)
		port = s.in
	case !to.IsBroadcast() && m.YourIPAddr != nil:
		p.Peer, p.HW = netip.AddrPortFrom(addrOf(m.YourIPAddr), clientPort), to.ClientHWAddr
	}
	if err := port.Send(p); err != nil {
		s.cfg.log.Debug("a message was not sent", "to", p.Peer, "error", err)
	}
}

func ips(all []netip.Addr) (list []net.IP) {
	for _, a := range all {
		list = append(list, a.AsSlice())
	}
	return list
}

func only4(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !a.Is4() })
}
