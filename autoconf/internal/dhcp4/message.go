package dhcp4

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

var broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})

const (
	// maxMessage is the size of messages that servers are told: it fits into a packet of
	// any tunnel, so nothing is fragmented.
	maxMessage = 1200
	// maxReply bounds what is read of servers that do not care.
	maxReply = 1500
)

// parameters are the options that servers are asked for. RFC 3442 has classless routes
// before routers.
var parameters = []byte{
	dhcpv4.OptionSubnetMask.Code(),
	dhcpv4.OptionClasslessStaticRoute.Code(),
	dhcpv4.OptionRouter.Code(),
	dhcpv4.OptionDomainNameServer.Code(),
	dhcpv4.OptionDNSDomainSearchList.Code(),
	dhcpv4.OptionDomainName.Code(),
	dhcpv4.OptionInterfaceMTU.Code(),
	dhcpv4.OptionIPAddressLeaseTime.Code(),
	dhcpv4.OptionRenewTimeValue.Code(),
	dhcpv4.OptionRebindingTimeValue.Code(),
	dhcpv4.OptionNTPServers.Code(),
	optionCaptivePortal.Code(),
}

// optionCaptivePortal is that of RFC 8910.
const optionCaptivePortal = dhcpv4.GenericOptionCode(114)

// message returns a message with what all have. The broadcast flag is not set: the packet
// socket receives what is sent to the hardware address, whatever the IP address is.
func (c *client) message(t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: c.xid,
		ClientHWAddr:  c.mac,
		Options:       make(dhcpv4.Options),
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptClientIdentifier(c.identifier()))
	return m
}

// identifier returns the client identifier of RFC 2132, section 9.14: it is stable as long
// as the hardware address, and that of most other clients.
func (c *client) identifier() []byte { return append([]byte{byte(iana.HWTypeEthernet)}, c.mac...) }

// question returns a DISCOVER or REQUEST.
func (c *client) question(t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := c.message(t)
	m.NumSeconds = c.secs
	m.UpdateOption(dhcpv4.OptMaxMessageSize(maxMessage))
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionParameterRequestList, parameters))
	// RFC 4702, section 3.1: a host name is not sent besides the FQDN.
	switch name := c.cfg.FQDN; {
	case !source.IsName(name):
	case strings.Contains(name, "."):
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionFQDN, fqdn(name)))
	default:
		m.UpdateOption(dhcpv4.OptHostName(name))
	}
	return m
}

// fqdn encodes the option of RFC 4702: the name is in wire format (E), and the server makes
// the A record as well as the PTR record (S).
func fqdn(name string) []byte {
	const flagS, flagE = 1, 4
	b := []byte{flagS | flagE, 0, 0} // two results of DNS, which are not used
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// received takes what has come from a port of UDP.
func (c *client) received(p source.Packet, ok bool) error {
	if !ok {
		return source.ErrGone
	}
	m := c.reply(p)
	if m == nil {
		return nil
	}
	server, _ := netip.AddrFromSlice(m.ServerIdentifier())
	if m.MessageType() == dhcpv4.MessageTypeNak && !m.Options.Has(dhcpv4.OptionServerIdentifier) {
		server = p.Peer.Addr() // libslirp does not say it, though it must
	}
	if !isHost(server) {
		return nil
	}
	switch t := m.MessageType(); {
	case t == dhcpv4.MessageTypeOffer && c.state == selecting:
	case (t == dhcpv4.MessageTypeAck || t == dhcpv4.MessageTypeNak) && c.answers(server):
		if t == dhcpv4.MessageTypeNak {
			return c.refused(server, source.Text(m.Message()))
		}
	default:
		return nil
	}
	parse := parseLease
	if c.state == selecting {
		parse = parseOffer
	}
	l, err := parse(m, server)
	switch {
	case err != nil:
		if !c.logged {
			c.cfg.Log.Info("ignored", "server", server, "error", err)
		}
		c.logged = true
		return nil
	case c.state == selecting:
		return c.offered(l)
	}
	return c.acknowledged(l)
}

// answers reports whether a REQUEST waits for a server.
func (c *client) answers(server netip.Addr) bool {
	switch c.state {
	case requesting:
		return server == c.lease.server
	case renewing:
		return server == c.held.server
	case rebooting, rebinding:
		return true
	}
	return false
}

// reply decodes a message of a server to this client, of the present exchange. It returns
// nil for all else.
func (c *client) reply(p source.Packet) *dhcpv4.DHCPv4 {
	if p.Peer.Port() != serverPort || !isHost(p.Peer.Addr()) || len(p.Data) > maxReply {
		return nil
	}
	m, err := Decode(p.Data)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != c.xid ||
		m.HWType != iana.HWTypeEthernet || !bytes.Equal(m.ClientHWAddr, c.mac) {
		return nil
	}
	// RFC 6842: servers return the identifier; older ones do not.
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); id != nil && !bytes.Equal(id, c.identifier()) {
		return nil
	}
	return m
}

// Offsets of fields that may have options, RFC 2131, section 2.
const (
	offsetServerName = 44
	offsetFile       = 108
	offsetCookie     = 236
)

// Decode decodes a message, with the options in the fields for the server's name and the
// file (RFC 2132, section 9.3; in the order of RFC 3396).
func Decode(b []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, err
	}
	overload := m.Options.Get(dhcpv4.OptionOptionOverload)
	if len(overload) != 1 {
		return m, nil
	}
	for _, field := range []struct {
		flag     byte
		from, to int
	}{{1, offsetFile, offsetCookie}, {2, offsetServerName, offsetFile}} {
		if overload[0]&field.flag == 0 {
			continue
		}
		if err := m.Options.FromBytes(b[field.from:field.to]); err != nil {
			return nil, fmt.Errorf("options in a field: %w", err)
		}
	}
	return m, nil
}
