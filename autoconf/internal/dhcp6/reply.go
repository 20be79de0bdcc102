package dhcp6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	// maxReply bounds what is decoded of a server, which has some hundreds of bytes to say:
	// the work for options inside options grows with the square of it.
	maxReply = 2048
	// minDUID and maxDUID are of section 11.1, with the type of two bytes.
	minDUID, maxDUID = 3, 130
	// infinite is a time without an end, section 7.7.
	infinite = math.MaxUint32 * time.Second
	// minTime bounds how soon a server can have an address removed again. A lifetime that is
	// shorter is over.
	minTime = 10 * time.Second
	// The bounds of the information refresh time, section 7.6.
	defaultRefresh = 24 * time.Hour
	minRefresh     = 10 * time.Minute
)

// A reply is an ADVERTISE or a REPLY to this client.
type reply struct {
	typ        dhcpv6.MessageType
	from       netip.Addr
	server     []byte // its DUID
	status     iana.StatusCode
	text       string // of the status
	preference uint8
	rapid      bool
	ia         *ia          // nil if there is none for this client
	options    source.Lease // without addresses and times
	refresh    time.Duration
	solMaxRT   time.Duration // 0 if it was not said, infMaxRT too
	infMaxRT   time.Duration
}

// An ia is an IA_NA.
type ia struct {
	t1, t2 time.Duration // 0: the client's choice
	status iana.StatusCode
	text   string
	addrs  []lifetimes
	ended  []netip.Addr // whose lifetime is over
}

type lifetimes struct {
	addr             netip.Addr
	preferred, valid time.Duration
}

func (i *ia) hosts() (all []netip.Addr) {
	for _, a := range i.addrs {
		all = append(all, a.addr)
	}
	return all
}

// received takes a packet.
func (c *client) received(p source.Packet) {
	r, err := c.decode(p)
	if err != nil {
		return
	}
	if r.solMaxRT > 0 {
		c.solMaxRT = r.solMaxRT
	}
	if r.infMaxRT > 0 {
		c.infMaxRT = r.infMaxRT
	}
	switch {
	case r.typ == dhcpv6.MessageTypeAdvertise:
		c.advertised(r)
	case bytes.Equal(c.info.xid[:], p.Data[1:4]) && c.info.running():
		c.informedBy(r)
	default:
		c.answered(r)
	}
}

var errOther = errors.New("it is not for this client")

// decode decodes what a server says in answer to a message that was sent.
func (c *client) decode(p source.Packet) (reply, error) {
	b := p.Data
	if len(b) < dhcpv6.MessageHeaderSize || len(b) > maxReply || p.Local.IsMulticast() || !isHost(p.Peer.Addr()) || !p.Peer.Addr().IsLinkLocalUnicast() {
		return reply{}, errOther
	}
	r := reply{typ: dhcpv6.MessageType(b[0]), from: p.Peer.Addr()}
	waits := func(e *exchange) bool { return e.running() && bytes.Equal(e.xid[:], b[1:4]) }
	var asked []byte // the server that has to answer
	switch {
	case waits(&c.main) && r.typ == dhcpv6.MessageTypeAdvertise && c.main.typ == dhcpv6.MessageTypeSolicit:
	case waits(&c.main) && r.typ == dhcpv6.MessageTypeReply:
		switch c.main.typ {
		case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRelease:
			asked = c.chosen
		case dhcpv6.MessageTypeRenew:
			asked = c.held.server
		}
	case waits(&c.info) && r.typ == dhcpv6.MessageTypeReply:
	default:
		return reply{}, errOther
	}
	var options dhcpv6.MessageOptions
	if err := options.FromBytesWithParser(b[dhcpv6.MessageHeaderSize:], parseOption); err != nil {
		return reply{}, err
	}
	r.server = generic(options, dhcpv6.OptionServerID)
	switch {
	case !bytes.Equal(generic(options, dhcpv6.OptionClientID), c.duid), asked != nil && !bytes.Equal(r.server, asked):
		return reply{}, errOther
	case len(r.server) < minDUID || len(r.server) > maxDUID:
		return reply{}, fmt.Errorf("a server DUID of %d bytes", len(r.server))
	}
	r.status, r.text = status(options.Status())
	r.preference = options.Preference()
	r.rapid = options.GetOne(dhcpv6.OptionRapidCommit) != nil
	r.ia = parseIA(options, c.iaid)
	r.options = parseOptions(options)
	r.options.Server = r.from
	r.refresh = max(options.InformationRefreshTime(defaultRefresh), minRefresh)
	r.solMaxRT = parseMaxRT(options, dhcpv6.OptionSolMaxRT)
	r.infMaxRT = parseMaxRT(options, dhcpv6.OptionInfMaxRT)
	return r, nil
}

// parseOption decodes the options that are used, those that the library knows by itself:
// if it decoded all, a message inside a message inside a message would be a lot of work. An
// option without which the message means something else has to be well-formed; another that
// is malformed is as if it was absent.
func parseOption(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
	switch code {
	case dhcpv6.OptionIANA, dhcpv6.OptionStatusCode, dhcpv6.OptionPreference:
		return dhcpv6.ParseOption(code, data)
	case dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionInformationRefreshTime:
		if code == dhcpv6.OptionDomainSearchList && !plain(data) {
			break
		}
		if o, err := dhcpv6.ParseOption(code, data); err == nil {
			return o, nil
		}
	}
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: bytes.Clone(data)}, nil
}

// plain reports whether names have neither pointers, which section 10 forbids, nor more
// bytes than a name can have: a few bytes would make a lot of work.
func plain(names []byte) bool {
	const maxLabel, maxName = 63, 255
	name := 0
	for len(names) > 0 {
		n := int(names[0])
		if name += n + 1; n > maxLabel || name > maxName {
			return false
		}
		if n == 0 {
			name = 0
		}
		names = names[min(n+1, len(names)):]
	}
	return true
}

// generic returns the bytes of an option that parseOption does not decode.
func generic(o dhcpv6.MessageOptions, code dhcpv6.OptionCode) []byte {
	if g, ok := o.GetOne(code).(*dhcpv6.OptionGeneric); ok {
		return g.OptionData
	}
	return nil
}

func status(o *dhcpv6.OptStatusCode) (iana.StatusCode, string) {
	if o == nil {
		return iana.StatusSuccess, ""
	}
	return o.StatusCode, source.Text(o.StatusMessage)
}

// parseIA returns the IA_NA of the client. One that contradicts itself is as if it was
// absent, section 21.4.
func parseIA(o dhcpv6.MessageOptions, iaid [4]byte) *ia {
	all := o.IANA()
	n := slices.IndexFunc(all, func(o *dhcpv6.OptIANA) bool { return o.IaId == iaid })
	if n < 0 || all[n].T1 > all[n].T2 && all[n].T2 > 0 {
		return nil
	}
	i := &ia{t1: all[n].T1, t2: all[n].T2}
	i.status, i.text = status(all[n].Options.Status())
	for _, o := range all[n].Options.Addresses() {
		a, _ := netip.AddrFromSlice(o.IPv6Addr)
		s, _ := status(o.Options.Status())
		switch {
		case !isHost(a) || a.IsLinkLocalUnicast() || s != iana.StatusSuccess || o.PreferredLifetime > o.ValidLifetime:
		case slices.Contains(i.hosts(), a) || slices.Contains(i.ended, a):
		case len(i.addrs)+len(i.ended) == source.MaxItems:
		case o.ValidLifetime < minTime:
			i.ended = append(i.ended, a)
		default:
			i.addrs = append(i.addrs, lifetimes{a, o.PreferredLifetime, o.ValidLifetime})
		}
	}
	return i
}

func parseOptions(o dhcpv6.MessageOptions) (l source.Lease) {
	for _, a := range hosts(o.DNS()) {
		l.DNS = append(l.DNS, source.Server{Addr: a})
	}
	if labels := o.DomainSearchList(); labels != nil {
		for _, name := range names(labels.Labels) {
			l.Search = append(l.Search, source.Domain{Name: name})
		}
	}
	for _, o := range o.Get(dhcpv6.OptionNTPServer) {
		l.NTP = append(l.NTP, parseNTP(o.ToBytes())...)
	}
	l.NTP = l.NTP[:min(len(l.NTP), source.MaxItems)]
	l.CaptivePortal = source.ParsePortal(string(generic(o, dhcpv6.OptionCaptivePortal)))
	return l
}

// parseNTP returns the addresses of an option of RFC 5908. Multicast addresses and names
// cannot be passed on.
func parseNTP(b []byte) []netip.Addr {
	const serverAddress = 1
	var all []net.IP
	var suboptions dhcpv6.Options
	if err := suboptions.FromBytesWithParser(b, func(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
		if code == serverAddress {
			all = append(all, bytes.Clone(data))
		}
		return nil, nil
	}); err != nil {
		return nil
	}
	return hosts(all)
}

// hosts returns the addresses of a list that can be those of hosts.
func hosts(all []net.IP) []netip.Addr { return source.Hosts(all, isHost) }

// names returns the names of a list that can be used in DNS.
func names(all []string) (list []string) {
	for _, name := range all {
		name = strings.TrimSuffix(name, ".")
		if source.IsName(name) && !slices.Contains(list, name) && len(list) < source.MaxItems {
			list = append(list, name)
		}
	}
	return list
}

// parseMaxRT returns the value of SOL_MAX_RT or INF_MAX_RT, 0 if it is absent or out of
// bounds.
func parseMaxRT(o dhcpv6.MessageOptions, code dhcpv6.OptionCode) time.Duration {
	b := generic(o, code)
	if len(b) != 4 {
		return 0
	}
	d := time.Duration(binary.BigEndian.Uint32(b)) * time.Second
	if d < minMaxRT || d > maxMaxRT {
		return 0
	}
	return d
}

// failed reports whether the server may answer the same message otherwise, later.
func (r *reply) failed() bool {
	later := func(s iana.StatusCode) bool {
		return s != iana.StatusSuccess && s != iana.StatusNoAddrsAvail && s != iana.StatusNoBinding && s != iana.StatusNotOnLink
	}
	return later(r.status) || r.ia != nil && later(r.ia.status)
}

// useless says why a reply has no addresses, and returns nil if it has.
func (r *reply) useless() error {
	code, text := r.status, r.text
	if code == iana.StatusSuccess && r.ia != nil {
		code, text = r.ia.status, r.ia.text
	}
	switch {
	case code != iana.StatusSuccess && text != "":
		return fmt.Errorf("server %v gives no address: %v: %s", r.from, code, text)
	case code != iana.StatusSuccess:
		return fmt.Errorf("server %v gives no address: %v", r.from, code)
	case r.ia == nil || len(r.ia.addrs) == 0:
		return fmt.Errorf("server %v gives no address", r.from)
	}
	return nil
}
