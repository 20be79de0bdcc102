package dhcp6

import (
	"crypto/rand"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// The longest waits of SOLICIT and INFORMATION-REQUEST, section 7.6, unless a server says
// others within bounds, sections 21.24 and 21.25.
const (
	solMaxRT = time.Hour
	infMaxRT = time.Hour
	minMaxRT = time.Minute
	maxMaxRT = 24 * time.Hour
)

// A timing has the parameters of section 15. A message is sent mrc times, unless mrc is 0.
type timing struct {
	irt, mrt time.Duration
	mrc      int
}

// timings are those of section 7.6. RELEASE has its own.
var timings = map[dhcpv6.MessageType]timing{
	dhcpv6.MessageTypeSolicit:            {irt: time.Second}, // mrt is solMaxRT
	dhcpv6.MessageTypeRequest:            {irt: time.Second, mrt: 30 * time.Second, mrc: 10},
	dhcpv6.MessageTypeConfirm:            {irt: time.Second, mrt: 4 * time.Second},
	dhcpv6.MessageTypeRenew:              {irt: 10 * time.Second, mrt: 10 * time.Minute},
	dhcpv6.MessageTypeRebind:             {irt: 10 * time.Second, mrt: 10 * time.Minute},
	dhcpv6.MessageTypeDecline:            {irt: time.Second, mrc: 4},
	dhcpv6.MessageTypeRelease:            {irt: releaseWait},
	dhcpv6.MessageTypeInformationRequest: {irt: time.Second}, // mrt is infMaxRT
}

// confirmTime is the longest time for CONFIRM, CNF_MAX_RD.
const confirmTime = 10 * time.Second

// An exchange is a message that is sent until it is answered. The zero exchange is none.
type exchange struct {
	typ   dhcpv6.MessageType
	xid   dhcpv6.TransactionID
	began time.Time // when the message was sent first
	last  time.Time // when it was sent last
	sent  int       // how often
	rt    time.Duration
	next  time.Time // when it is sent again
	end   time.Time // when it is given up; zero: never
}

func (e *exchange) running() bool { return e.typ != 0 }

// beginExchange begins an exchange in the place of another.
func (c *client) beginExchange(e *exchange, t dhcpv6.MessageType, end time.Time) {
	*e = exchange{typ: t, began: time.Now(), end: end}
	rand.Read(e.xid[:])
	if e == &c.main {
		c.wait = time.Time{}
	}
	c.send(e)
}

// random returns a tenth of d at most, positive or negative.
func random(d time.Duration) time.Duration { return mathrand.N(d/5+1) - d/10 }

// retransmission sets the time of the next transmission, section 15.
func (e *exchange) retransmission(now time.Time, t timing) {
	switch {
	case e.sent > 0:
		e.rt = 2*e.rt + random(e.rt)
	case e.typ == dhcpv6.MessageTypeSolicit:
		// Longer than irt, for that is how long advertisements are collected.
		e.rt = t.irt + 1 + mathrand.N(t.irt/10)
	default:
		e.rt = t.irt + random(t.irt)
	}
	if t.mrt > 0 && e.rt > t.mrt {
		e.rt = t.mrt + random(t.mrt)
	}
	e.sent++
	e.last, e.next = now, now.Add(e.rt)
}

// again has the message sent at a time, and from then on as if it was the first time.
func (e *exchange) again(at time.Time) { e.next, e.sent = at, 0 }

// send sends the message of an exchange. One that cannot be sent is lost like others, but it
// is known why.
func (c *client) send(e *exchange) {
	now := time.Now()
	t := timings[e.typ]
	switch e.typ {
	case dhcpv6.MessageTypeSolicit:
		t.mrt = c.solMaxRT
	case dhcpv6.MessageTypeInformationRequest:
		t.mrt = c.infMaxRT
	}
	m := c.message(e, now)
	e.retransmission(now, t)
	if !c.tokens.Take(now) {
		return
	}
	c.lastSent = now
	c.sendErr = c.port.Send(source.Packet{Data: m.ToBytes(), Peer: servers})
	if c.sendErr != nil {
		c.sendErr = fmt.Errorf("sending to %v: %w", servers, c.sendErr)
	}
}

// message returns the message of an exchange.
func (c *client) message(e *exchange, now time.Time) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: e.typ, TransactionID: e.xid}
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: c.duid})
	server, addrs := []byte(nil), c.subjects
	wants := dhcpv6.OptionCodes{
		dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionNTPServer, dhcpv6.OptionCaptivePortal,
	}
	named := false
	switch e.typ {
	case dhcpv6.MessageTypeSolicit:
		addrs, named = c.hints, true
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	case dhcpv6.MessageTypeRequest:
		server, named = c.chosen, true
	case dhcpv6.MessageTypeRenew:
		server, addrs, named = c.held.server, c.held.hosts(), true
	case dhcpv6.MessageTypeRebind:
		addrs, named = c.held.hosts(), true
	case dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRelease:
		server, wants = c.chosen, nil
	case dhcpv6.MessageTypeConfirm:
		wants = nil
	}
	if server != nil {
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: server})
	}
	m.AddOption(dhcpv6.OptElapsedTime(min(now.Sub(e.began), math.MaxUint16*10*time.Millisecond)))
	if e.typ == dhcpv6.MessageTypeInformationRequest {
		m.AddOption(dhcpv6.OptRequestedOption(append(wants, dhcpv6.OptionInformationRefreshTime, dhcpv6.OptionInfMaxRT)...))
		return m
	}
	if wants != nil {
		m.AddOption(dhcpv6.OptRequestedOption(append(wants, dhcpv6.OptionSolMaxRT)...))
	}
	if named && source.IsName(c.cfg.FQDN) {
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN, OptionData: fqdn(c.cfg.FQDN)})
	}
	// The times are the server's choice: T1, T2 and lifetimes are 0.
	ia := &dhcpv6.OptIANA{IaId: c.iaid}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
	}
	m.AddOption(ia)
	return m
}

// fqdn encodes the option of RFC 4704: the server makes the AAAA record as well as the PTR
// record (S). A name of one label is a partial one, and does not end with the root.
func fqdn(name string) []byte {
	const flagS = 1
	b := []byte{flagS}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	if strings.Contains(name, ".") {
		b = append(b, 0)
	}
	return b
}

// bucketSize is how many messages are sent at once, and then one a second, section 14.1.
const bucketSize = 20

// isHost reports whether an address can be that of a host, perhaps on this link only.
func isHost(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}
