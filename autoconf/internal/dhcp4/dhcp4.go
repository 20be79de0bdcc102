// Package dhcp4 is the source of DHCPv4, RFC 2131: it gets a lease of an address from a
// server, and keeps it.
//
// # What is done
//
//   - DISCOVER, with the back-off of RFC 2131, section 4.1. Offers are collected for a
//     moment. The best has the address that the client had before, then a default route,
//     then it came first; one of a server that did not keep its last offer comes last.
//   - REQUEST in the states SELECTING, INIT-REBOOT (with an address that was stored, or
//     when the interface may be on another network), RENEWING (by unicast) and REBINDING.
//   - An address is probed and announced as RFC 5227 says, in less time. One that is in use
//     is declined. One that another host begins to use later is announced again, and declined
//     if that host uses it again within ten seconds, but not more often than once an hour.
//   - RELEASE, if it is asked for.
//   - Options: 1, 3, 6, 12, 15, 26, 42, 50, 51, 52, 54, 55, 56, 57, 58, 59, 61, 81 (RFC
//     4702), 114 (RFC 8910), 119 (RFC 3397), 121 (RFC 3442), and long ones (RFC 3396).
//
// What is not done: rapid commit (RFC 4039), authentication (RFC 3118), which no server
// has, INFORM, and giving up IPv4 where the network asks for it (RFC 8925).
//
// # Whom it believes
//
// A reply is taken from port 67, with the hardware address and the random transaction
// identifier of the client, while a request waits for it. In SELECTING and RENEWING it has
// to name the server that was asked; a NAK that names none has to come from there. Everybody
// on the network can see the identifier, so a neighbour can answer as a server: it decides
// about address, routes and DNS, and can take an address away.
package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	serverPort = 67
	clientPort = 68

	// discoverWait and maxWait bound the exponential back-off of DISCOVER. The random delay
	// of up to ten seconds before the first one (section 4.4.1) is left out: it is for
	// machines that boot together after a power failure, and someone waits for a stack.
	discoverWait = 4 * time.Second
	maxWait      = 64 * time.Second
	// collectTime is how long other offers are waited for after the first.
	collectTime = 200 * time.Millisecond
	// requestWait and askWait begin the back-off of REQUEST for an offer, whose server has
	// just answered, and of REQUEST to renew. With a DISCOVER and a REQUEST lost, there still
	// is a lease before source.ReportAfter.
	requestWait  = time.Second
	requestTries = 4
	askWait      = 2 * time.Second
	askTries     = 2
	// rebootWait is how long INIT-REBOOT waits for an answer, each time. Many servers are
	// silent if they do not know the address.
	rebootWait  = time.Second
	rebootTries = 2
	// declineWait is that of section 3.1 after a conflict.
	declineWait = 10 * time.Second
	// renewWait is the shortest between attempts to renew, section 4.4.5.
	renewWait = time.Minute
	// releaseWait gives the kernel time to find the server's hardware address.
	releaseWait = 200 * time.Millisecond
	// releaseRetry is when its port is opened again, releaseTries times, if it cannot be.
	releaseRetry = 100 * time.Millisecond
	releaseTries = 5
	// callWait is the shortest between messages that the client asks for.
	callWait = time.Second
)

// A state is one of RFC 2131, figure 5. There, waiting is INIT, probing is a part of
// REQUESTING and REBOOTING.
type state int

const (
	waiting    state = iota // until DISCOVER may be sent
	selecting               // for offers
	probing                 // whether the address is in use
	bound                   // until the next attempt to renew
	requesting              // for an answer to REQUEST from the server that was chosen
	rebooting               // from any server, about an address that was ours
	renewing                // from the server of the lease
	rebinding               // from any server, about the address of the lease
)

// A client is the state of Run, which calls everything from one goroutine.
type client struct {
	cfg   source.Config
	link  source.Link
	sink  source.Sink
	mac   net.HardwareAddr
	calls <-chan source.Call

	raw source.Port // sends without an address, and receives everything
	udp source.Port // sends from the address of the lease, and receives what is for that
	arp source.Port // is open while an address is probed, and while there is a lease

	state     state
	next      time.Time // when the wait of the state ends; the zero Time means never
	tries     int       // messages that were sent in this state
	discovers int       // DISCOVERs that were sent since the last lease

	// An attempt.
	report   time.Time // when it is reported, unless it has a result; zero if it was or need not be
	reported bool
	reason   error // why it has no result
	sendErr  error // of the last message

	// An exchange of messages.
	xid    dhcpv4.TransactionID
	began  time.Time // when the client began to look for an address, or to renew; zero if it has not
	secs   uint16    // since then
	asked  time.Time // when the first REQUEST was sent
	sent   time.Time // when the last message was sent
	logged bool      // that a reply was ignored

	offers []lease
	lease  lease      // the offer that is requested, then the lease that is probed
	wanted netip.Addr // address that is asked for; may be invalid
	avoid  netip.Addr // server that did not keep its last offer

	held          *lease // which is configured; nil if there is none
	stale         bool   // its instants were corrected, and the sink does not know
	announce      time.Time
	announcements int // that are to be sent

	about    netip.Addr       // what arp receives
	sibling  net.HardwareAddr // an interface of the stack that was heard; nil if none was
	defended time.Time        // when another host was seen to use the address; zero if none was
	givenUp  time.Time        // when an address was, for that; zero if none was
}

var _ source.Run = Run

// Run is the source of DHCPv4 on a link.
func Run(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &client{cfg: cfg, link: link, sink: sink, mac: link.MAC(), calls: cfg.Calls}
	if len(c.mac) != 6 {
		return fmt.Errorf("hardware address %q: want 6 bytes", c.mac)
	}
	defer func() {
		for _, p := range []*source.Port{&c.raw, &c.udp, &c.arp} {
			closePort(p)
		}
	}()
	if err := c.start(); err != nil {
		return err
	}
	alarm := source.NewAlarm()
	defer alarm.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			c.release()
			return nil
		case call, ok := <-c.calls:
			if !ok {
				c.calls = nil
				break
			}
			err = c.call(call)
		case p, ok := <-packets(c.raw):
			err = c.received(p, ok)
		case p, ok := <-packets(c.udp):
			err = c.received(p, ok)
		case p, ok := <-packets(c.arp):
			err = c.receivedARP(p, ok)
		case <-alarm.At(c.soonest()):
			err = c.elapsed(time.Now())
		}
		if err != nil {
			return err
		}
	}
}

func packets(p source.Port) <-chan source.Packet {
	if p == nil {
		return nil
	}
	return p.Packets()
}

func closePort(p *source.Port) {
	if *p != nil {
		(*p).Close()
		*p = nil
	}
}

// start uses what was stored, or begins without.
func (c *client) start() error {
	c.begin()
	addr, valid := loadStored(c.cfg.Stored, c.mac)
	c.wanted = addr
	if valid {
		return c.reboot()
	}
	return c.discover()
}

// begin begins an attempt that ends with Set, or is reported.
func (c *client) begin() {
	c.report, c.reported, c.reason = time.Now().Add(source.ReportAfter), false, nil
}

// soonest returns the next instant at which something is due, zero if there is none.
func (c *client) soonest() time.Time {
	return source.First(c.next, c.report, c.announce, c.expires())
}

func (c *client) expires() time.Time {
	if c.held == nil {
		return time.Time{}
	}
	return c.held.expires
}

// elapsed does what is due.
func (c *client) elapsed(now time.Time) error {
	if source.Due(c.expires(), now) {
		if err := c.expire(); err != nil {
			return err
		}
	}
	if source.Due(c.announce, now) {
		c.sendAnnouncement()
	}
	if source.Due(c.report, now) {
		c.fail(c.reason)
	}
	if source.Due(c.next, now) {
		return c.timeout(now)
	}
	return nil
}

// fail ends an attempt without a result, or says why the present one has none so far. Each
// is reported once.
func (c *client) fail(err error) {
	if err == nil {
		err = c.sendErr
	}
	if err == nil {
		err = c.unanswered()
	}
	if c.report.After(time.Now()) && c.next.Before(c.report) {
		c.reason = err
		return
	}
	if !c.reported {
		c.sink.Failed(err)
	}
	c.report, c.reported, c.reason = time.Time{}, true, nil
	if c.stale && c.held != nil {
		c.set()
	}
}

// unanswered says what the state waits for in vain.
func (c *client) unanswered() error {
	switch c.state {
	case requesting:
		return fmt.Errorf("server %v has offered %v, but does not answer the request", c.lease.server, c.lease.addr.Addr())
	case probing:
		return fmt.Errorf("address %v is still looked for on the network", c.lease.addr.Addr())
	case renewing:
		return fmt.Errorf("server %v does not renew the lease of %v", c.held.server, c.held.addr.Addr())
	case rebinding:
		return fmt.Errorf("no server renews the lease of %v", c.held.addr.Addr())
	}
	return errors.New("no server has offered an address")
}

// enter changes the state, and closes the ports that it does not need.
func (c *client) enter(s state) {
	c.state, c.tries = s, 0
	switch s {
	case waiting, bound:
		closePort(&c.raw)
		closePort(&c.udp)
	case renewing, rebinding:
	default:
		closePort(&c.udp)
	}
	switch {
	case s == probing:
	case c.held == nil:
		closePort(&c.arp)
	default:
		_ = c.openARP(c.held.addr.Addr()) // without it nobody looks for conflicts
	}
}

// after returns the instant after about d: d is randomized by a quarter, and by a second
// at most.
func after(d time.Duration) time.Time {
	fuzz := min(d/4, time.Second)
	return time.Now().Add(d - fuzz + rand.N(2*fuzz))
}

// discoverAfter returns the end of the wait for offers.
func (c *client) discoverAfter() time.Time {
	return after(min(discoverWait<<min(max(c.discovers-1, 0), 8), maxWait))
}

// exchange begins an exchange of messages.
func (c *client) exchange() {
	v := rand.Uint32()
	c.xid = dhcpv4.TransactionID{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
	c.asked = time.Time{}
	c.reported, c.logged = false, false
	if c.began.IsZero() {
		c.began = time.Now()
	}
}

// broadcast sends a message without an address.
func (c *client) broadcast(m *dhcpv4.DHCPv4) error {
	if err := c.openRaw(); err != nil {
		return err
	}
	c.send(c.raw, m, broadcastAddr)
	return nil
}

func (c *client) openRaw() (err error) {
	if c.raw == nil {
		c.raw, err = c.link.UDP4Unconfigured(clientPort)
	}
	return err
}

// openUDP opens what REQUEST is sent from to renew the lease. Servers broadcast NAK, and some
// of them ACK, which a socket with an address does not receive, but c.raw does.
func (c *client) openUDP() (err error) {
	if err = c.openRaw(); err == nil && c.udp == nil {
		c.udp, err = c.link.UDP(netip.AddrPortFrom(c.held.addr.Addr(), clientPort))
	}
	return err
}

// send sends a message. One that cannot be sent is lost like others, but it is known why.
func (c *client) send(port source.Port, m *dhcpv4.DHCPv4, to netip.Addr) {
	c.sent = time.Now()
	if c.asked.IsZero() && m.MessageType() == dhcpv4.MessageTypeRequest {
		c.asked = c.sent
	}
	c.sendErr = port.Send(source.Packet{Data: m.ToBytes(), Peer: netip.AddrPortFrom(to, serverPort)})
	if c.sendErr != nil {
		c.sendErr = fmt.Errorf("sending to %v: %w", to, c.sendErr)
	}
}

// elapsedSeconds returns the value of secs for a new message.
func (c *client) elapsedSeconds() uint16 {
	return uint16(min(time.Since(c.began)/time.Second, math.MaxUint16))
}
