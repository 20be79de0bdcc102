// Package rd is the source of router advertisements: router and prefix discovery, RFC 4861,
// and addresses without a server, RFC 4862.
//
// # What is done
//
//   - Solicitations with the back-off of RFC 7559, until there is a default router; again when
//     the last one is lost or three quarters of its time have passed, for some routers
//     only answer. The random delay of up to a second before the first one is left out: it is
//     for machines that boot together after a power failure, and someone waits for a stack.
//   - Each advertisement is followed, solicited or not: default routers and more specific
//     routes with their preferences (RFC 4191), prefixes on the link, prefixes for addresses
//     with the rule of two hours of RFC 4862 (5.5.3), MTU, DNS servers and search lists
//     (RFC 8106), and the captive portal (RFC 8910). All have their own lifetimes. MTU and
//     portal have none in the messages: they last as long as the longest of their
//     advertisement.
//   - Addresses by a hash of the name, from the hardware address, or stable and private (RFC
//     7217). If another host has one, the last kind tries others, three at most (IDGEN_RETRIES);
//     else there is none, until the client asks to renew or confirm. The secret of RFC 7217 and
//     the numbers of conflicts are stored. The name of the interface is its Net_Iface; the
//     Network_ID is left out.
//   - Temporary addresses (RFC 8981) are the kernel's: [source.Addr.Temporary].
//   - When the interface may be on another network, all routers are asked. If one of them
//     announces a prefix that is known, it is the same network. If they announce others only,
//     everything of before is dropped three seconds after the first. If none answers, all is
//     kept for its lifetime.
//
// What is not done: the flags for DHCPv6 are passed on, for the user chooses the sources. Hop
// limit, reachable time and retransmission timer are not set; a router that becomes a host
// (section 7.2.5) is one until its time ends; PREF64 (RFC 8781) and SEND (RFC
// 3971) are not known. A fragmented advertisement, which RFC 6980 forbids, looks as any other.
//
// # Whom it believes
//
// An advertisement has hop limit 255 and a link-local source, so it comes from the link; more is
// not known about its sender. Any neighbour can be a router, change lifetimes, and by answering
// for an address keep the stack from having it. What was learned first stays when others fill
// the tables, until it was not announced for an hour, and however many advertisements come, they are applied once a second.
package rd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	typeAdvertisement = 134

	// applyWait is the shortest between two calls of Set.
	applyWait = time.Second
	// doubtTime is how long other routers are waited for when the first one that answers
	// says that this is another network: routers answer within half a second, but not more
	// often than once in three (RFC 4861, section 6.2.6).
	doubtTime = 3 * time.Second
)

// A client is the state of Run, which calls everything from one goroutine.
type client struct {
	cfg   source.Config
	link  source.Link
	sink  source.Sink
	mac   net.HardwareAddr
	calls <-chan source.Call
	port  source.Port

	known
	secret secret

	solicitor

	// An attempt.
	report   time.Time // when it is reported, unless it has a result; zero if it was or need not be
	answered bool      // an advertisement has come
	reason   error     // why it has no result

	// Whether this is still the same network.
	confirming bool
	doubt      time.Time // when it is another one, unless a known prefix is announced until then

	apply   time.Time // when the sink is told; zero if it knows all
	applied time.Time // when it was told last
	told    bool      // it has something
}

var _ source.Run = Run

// Run is the source of router advertisements on a link.
func Run(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &client{cfg: cfg, link: link, sink: sink, mac: link.MAC(), calls: cfg.Calls}
	if len(c.mac) != 6 {
		return fmt.Errorf("hardware address %q: want 6 bytes", c.mac)
	}
	port, err := link.ICMP6(typeAdvertisement)
	if err != nil {
		return err
	}
	defer port.Close()
	c.port = port
	if cfg.AddrGen == source.AddrStable && !c.secret.load(cfg.Stored) {
		c.secret.generate()
		c.store()
	}
	now := time.Now()
	c.begin(now)
	c.solicit(now)
	alarm := source.NewAlarm()
	defer alarm.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case call, ok := <-c.calls:
			if !ok {
				c.calls = nil
				break
			}
			c.call(time.Now(), call)
		case p, ok := <-port.Packets():
			if !ok {
				return source.ErrGone
			}
			if a, ok := parse(p); ok {
				c.advertised(time.Now(), a)
			}
		case <-alarm.At(c.soonest()):
			c.elapsed(time.Now())
		}
	}
}

// begin begins an attempt that ends with Set, or is reported.
func (c *client) begin(now time.Time) {
	c.report, c.answered, c.reason = now.Add(source.ReportAfter), false, nil
}

// soonest returns the next instant at which something is due, zero if there is none.
func (c *client) soonest() time.Time {
	return source.First(c.firstEnd(), c.report, c.doubt, c.apply, c.nextSolicitation())
}

// elapsed does what is due.
func (c *client) elapsed(now time.Time) {
	if c.expire(now) {
		c.changed(now)
	}
	if source.Due(c.doubt, now) {
		if c.drop(func(l *life) bool { return l.old }) {
			c.cfg.Log.Info("this is another network: what was known is dropped")
		}
		c.confirmed()
		c.changed(now)
	}
	if source.Due(c.apply, now) {
		c.set()
	}
	now = time.Now() // set may wait
	if source.Due(c.report, now) {
		c.fail(nil)
	}
	if source.Due(c.nextSolicitation(), now) {
		if c.report.IsZero() && !c.told && c.count >= tries {
			c.fail(nil)
		}
		c.sendSolicitation(now)
	}
}

// changed has the sink told soon, and looks for a default router if there is none.
func (c *client) changed(now time.Time) {
	if c.apply.IsZero() {
		c.apply = now
		if soonest := c.applied.Add(applyWait); soonest.After(now) {
			c.apply = soonest
		}
	}
	if !c.hasDefault() {
		c.restart(now)
	}
}

// fail ends an attempt without a result.
func (c *client) fail(err error) {
	switch {
	case err != nil:
	case c.reason != nil:
		err = c.reason
	case c.sendErr != nil:
		err = c.sendErr
	default:
		err = errors.New("no router has answered")
	}
	c.report, c.reason = time.Time{}, nil
	c.sink.Failed(err)
}

// set tells the sink what is known.
func (c *client) set() {
	now := time.Now()
	c.expire(now)
	c.apply = time.Time{}
	l := c.lease(c.cfg.Temporary)
	if l.IsZero() && !c.told {
		return
	}
	c.told = !l.IsZero()
	err := c.sink.Set(l)
	c.applied = time.Now()
	if conflict, ok := errors.AsType[*source.ConflictError](err); ok && c.conflict(conflict) {
		return
	}
	if c.answered && c.told {
		c.report, c.reason = time.Time{}, nil
	}
}

// advertised follows an advertisement.
func (c *client) advertised(now time.Time, a advertisement) {
	if c.expire(now) {
		c.changed(now)
	}
	if c.confirming && len(a.prefixes) > 0 {
		switch {
		case c.knowsPrefix(a):
			c.confirmed()
		case c.doubt.IsZero():
			c.doubt = now.Add(doubtTime)
		}
	}
	c.answered = true
	if !c.learn(now, a, c.address) {
		c.reason = fmt.Errorf("router %v advertises nothing that could be used", a.router)
	}
	if c.hasDefault() {
		c.next = time.Time{}
	}
	c.changed(now)
}

// confirmed ends the doubt whether this is still the same network.
func (c *client) confirmed() {
	c.confirming, c.doubt = false, time.Time{}
	for l := range c.lives() {
		l.old = false
	}
}

// call does what the client asks for.
func (c *client) call(now time.Time, call source.Call) {
	if d := call.Slept; d > 0 {
		instants := []*time.Time{&c.next, &c.sent, &c.began, &c.report, &c.doubt, &c.apply, &c.applied}
		for l := range c.lives() {
			instants = append(instants, &l.end, &l.soft, &l.heard)
		}
		for _, at := range instants {
			if !at.IsZero() {
				*at = at.Add(-d)
			}
		}
		c.expire(now)
		c.changed(now)
	}
	if !call.Renew && !call.Confirm {
		return
	}
	if call.Confirm {
		c.confirming, c.doubt = true, time.Time{}
		for l := range c.lives() {
			l.old = true
		}
	}
	// The other hosts may be gone.
	for _, e := range c.addrs {
		if e.v.taken {
			e.v.taken = false
			c.changed(now)
		}
	}
	c.begin(now)
	c.solicit(now)
}

// conflict does without addresses that other hosts have. It reports whether the sink has to
// be told again.
func (c *client) conflict(conflict *source.ConflictError) bool {
	retry, again, left := false, false, false
	for _, e := range c.addrs {
		switch {
		case e.v.taken:
		case !slices.Contains(conflict.Addrs, e.v.addr):
			left = true
		case c.cfg.AddrGen == source.AddrStable && e.v.conflicts < idgenRetries:
			e.v.addr, e.v.conflicts = c.secret.addr(c.link.Name(), e.key, e.v.conflicts+1)
			c.store()
			retry, again = true, true
		default:
			e.v.taken, again = true, true
		}
	}
	if !again {
		return false
	}
	c.reason = conflict
	c.apply = time.Now()
	if retry {
		c.apply = c.apply.Add(randomDelay(idgenDelay))
	} else if !left {
		c.fail(conflict)
	}
	return true
}
