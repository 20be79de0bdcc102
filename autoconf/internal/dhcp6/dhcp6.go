// Package dhcp6 is the source of DHCPv6, RFC 8415 and its successor RFC 9915: it gets
// addresses or, where there are none, other information from a server, and keeps them.
//
// # What is done
//
//   - SOLICIT, with rapid commit and the addresses that the client had before. Advertisements
//     are collected for the first second, unless one has the preference 255. The best has
//     the highest preference, then the most addresses, then it came first; that of a server
//     that did not answer the last REQUEST comes last.
//   - REQUEST, RENEW, REBIND; DECLINE, after which the remaining addresses are used, or others
//     looked for; CONFIRM for addresses that were stored, and when the interface may be on
//     another network; RELEASE, if it is asked for.
//   - INFORMATION-REQUEST while no server has addresses or none answers SOLICIT, which goes
//     on. What was learned stays until a server says something else.
//   - One IA_NA, with several addresses. Each has 128 bits: DHCPv6 says nothing about what
//     is on the link, and has no routes. Both come with router advertisements.
//   - Retransmission as in section 15, the rate limit of section 14.1, elapsed times.
//   - Options: 1, 2, 3, 5, 6, 7, 8, 13, 14, 23 and 24 (RFC 3646), 32, 39 (RFC 4704), 56 (the
//     addresses of RFC 5908), 82, 83, 103 (RFC 8910).
//
// # What is not done
//
//   - Random delays of up to a second before the first message: they are for machines that
//     boot together after a power failure, and someone waits for a stack.
//   - Reconfigure: it is not accepted, so that servers do not send it.
//   - Messages to the unicast address of a server (option 12, which RFC 9915 removes):
//     all go to all servers.
//   - Temporary addresses (IA_TA, which RFC 9915 removes), prefixes, authentication.
//   - Using stored addresses that no server confirms: they may be of another network.
//   - RELEASE is sent twice in one second at most, not four times: someone waits for the end.
//
// # Identity
//
// The client is known by a DUID-LL, made of the hardware address: it stays the same without
// a store, as long as the address does, which a DUID-LLT or a DUID-UUID would not. The DUID
// and the IAID are stored with the lease and kept from then on, whatever the hardware address is.
//
// # Whom it believes
//
// A reply is taken while a message waits for it, from a link-local address, so from this link:
// others could guess the 24 bits of the random transaction identifier, which it has to have, and
// the client's DUID. Where one server was asked, it has to be that one's.
// Messages go to a multicast group, so a neighbour can see them and answer as a server: it
// decides about addresses, DNS servers and search list, and can take an address away.
package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/limit"
)

const (
	serverPort = 547
	clientPort = 546

	// renewalReport is that of an attempt to renew that the client did not ask for: two
	// messages were not answered.
	renewalReport = 35 * time.Second
	// storedTime is how long a server has to confirm addresses that were stored, so that
	// SOLICIT can follow before source.ReportAfter.
	storedTime = 3 * time.Second
	// callWait is the shortest between messages that the client asks for, and longestWait is
	// how long a SOLICIT that it asks for may have to wait after a refusal.
	callWait    = time.Second
	longestWait = 10 * time.Second
	// releaseWait, releaseRetry and releaseTime are when RELEASE is sent again, when one is
	// that could not be sent, and when its answer is not waited for any longer.
	releaseWait  = 400 * time.Millisecond
	releaseRetry = 100 * time.Millisecond
	releaseTime  = source.ReleaseTime - 200*time.Millisecond
)

// servers is All_DHCP_Relay_Agents_and_Servers.
var servers = netip.AddrPortFrom(netip.MustParseAddr("ff02::1:2"), serverPort)

// A client is the state of Run, which calls everything from one goroutine.
type client struct {
	cfg   source.Config
	link  source.Link
	sink  source.Sink
	calls <-chan source.Call
	port  source.Port

	duid     []byte
	iaid     [4]byte
	solMaxRT time.Duration
	infMaxRT time.Duration

	main exchange // about addresses
	info exchange // of INFORMATION-REQUEST

	adverts  []reply      // that can be chosen
	noAddrs  bool         // a server has none
	hints    []netip.Addr // to ask for
	chosen   []byte       // DUID of the server of REQUEST or DECLINE
	subjects []netip.Addr // addresses of REQUEST, CONFIRM or DECLINE
	avoid    []byte       // DUID of a server that did not answer
	failures int          // SOLICITs that led to nothing but a refusal since the last lease
	wait     time.Time    // until the next SOLICIT; zero if there is no wait

	stored   *lease // to be confirmed; nil if there is none
	held     *lease // addresses, and what came with them; nil if there are none
	informed *lease // information without addresses; nil if there is none
	stale    bool   // instants were corrected, and the sink does not know

	renewNext bool // a call wants more than CONFIRM

	// An attempt.
	report  time.Time // when it is reported, unless it has a result; zero if it was or need not be
	reason  error     // why it has no result
	sendErr error     // of the last message

	lastSent time.Time
	tokens   limit.Bucket
}

var _ source.Run = Run

// Run is the source of DHCPv6 on a link.
func Run(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error {
	c, err := newClient(cfg, link, sink)
	if err != nil {
		return err
	}
	defer c.port.Close()
	c.start()
	alarm := source.NewAlarm()
	defer alarm.Stop()
	for {
		select {
		case <-ctx.Done():
			c.release()
			return nil
		case call, ok := <-c.calls:
			if !ok {
				c.calls = nil
				break
			}
			c.call(call)
		case p, ok := <-c.port.Packets():
			if !ok {
				return source.ErrGone
			}
			c.received(p)
		case <-alarm.At(c.soonest()):
			c.elapsed(time.Now())
		}
		if c.stale && c.report.IsZero() {
			c.set()
		}
	}
}

func newClient(cfg source.Config, link source.Link, sink source.Sink) (*client, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	mac := link.MAC()
	if len(mac) != 6 {
		return nil, fmt.Errorf("hardware address %q: want 6 bytes", mac)
	}
	c := &client{cfg: cfg, link: link, sink: sink, calls: cfg.Calls, solMaxRT: solMaxRT, infMaxRT: infMaxRT, tokens: limit.NewBucket(bucketSize)}
	c.duid, c.iaid, c.stored = loadStored(cfg.Stored, mac)
	var err error
	c.port, err = link.UDP(netip.AddrPortFrom(netip.IPv6Unspecified(), clientPort))
	return c, err
}

// start uses what was stored, or begins without.
func (c *client) start() {
	c.begin(source.ReportAfter)
	if c.stored != nil {
		c.hints = c.stored.hosts()
		if c.stored.expire(time.Now()); len(c.stored.addrs) > 0 {
			c.confirm(c.stored, storedTime)
			return
		}
		c.stored = nil
	}
	c.solicit()
}

// soonest returns the next instant at which something is due, zero if there is none.
func (c *client) soonest() time.Time {
	all := []time.Time{c.report, c.wait, c.main.next, c.main.end, c.info.next}
	if c.held != nil {
		all = append(all, c.held.firstEnd())
		if !c.main.running() {
			all = append(all, c.held.renew, c.held.rebind)
		}
	}
	if c.informed != nil && !c.info.running() {
		all = append(all, c.informed.renew)
	}
	return source.First(all...)
}

// elapsed does what is due.
func (c *client) elapsed(now time.Time) {
	c.expire(now)
	if source.Due(c.report, now) {
		c.fail(c.why())
	}
	switch {
	case source.Due(c.wait, now):
		c.solicit()
	case source.Due(c.main.end, now):
		c.ended()
	case source.Due(c.main.next, now):
		c.timeout()
	case c.held != nil && !c.main.running() && (source.Due(c.held.renew, now) || source.Due(c.held.rebind, now)):
		c.begin(renewalReport)
		c.proceed()
	}
	switch {
	case source.Due(c.info.next, now):
		c.send(&c.info)
	case c.informed != nil && !c.info.running() && source.Due(c.informed.renew, now):
		c.begin(renewalReport)
		c.inform()
	}
}

// begin begins an attempt that ends with Set, or is reported after d; if one is running,
// after d at the latest.
func (c *client) begin(d time.Duration) {
	if at := time.Now().Add(d); c.report.IsZero() || at.Before(c.report) {
		c.report = at
	}
}

// done ends an attempt with a result.
func (c *client) done() { c.report, c.reason = time.Time{}, nil }

// fail ends an attempt without a result.
func (c *client) fail(err error) {
	c.done()
	c.sink.Failed(err)
}

// why returns why there is no result yet.
func (c *client) why() error {
	switch {
	case c.reason != nil:
		return c.reason
	case c.sendErr != nil:
		return c.sendErr
	}
	switch c.main.typ {
	case dhcpv6.MessageTypeRequest:
		return fmt.Errorf("a server has offered %v, but does not answer the request", c.subjects)
	case dhcpv6.MessageTypeConfirm:
		return fmt.Errorf("no server says whether %v can be used on this network", c.subjects)
	case dhcpv6.MessageTypeRenew:
		return fmt.Errorf("server %v does not renew the lease of %v", c.held.options.Server, c.held.hosts())
	case dhcpv6.MessageTypeRebind:
		return fmt.Errorf("no server renews the lease of %v", c.held.hosts())
	}
	if c.informed != nil {
		return errors.New("no server answers")
	}
	return errors.New("no server has offered an address")
}

// set tells the sink what is known, which ends an attempt. Addresses that others have are
// declined. That begins an exchange, so set comes last.
func (c *client) set() {
	c.stale = false
	var l source.Lease
	switch {
	case c.held != nil:
		l = c.held.source()
	case c.informed != nil:
		l = c.informed.source()
	}
	err := c.sink.Set(l)
	if conflict, ok := errors.AsType[*source.ConflictError](err); ok && c.held != nil {
		c.decline(conflict)
		return
	}
	c.done()
}

// store keeps what is known.
func (c *client) store() { c.sink.Store(encode(c.duid, c.iaid, c.held)) }
