package dhcp6

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// proceed begins what is to be done after an exchange.
func (c *client) proceed() {
	c.main = exchange{}
	now := time.Now()
	switch {
	case c.held == nil:
		c.solicit()
	case source.Due(c.held.rebind, now):
		c.beginExchange(&c.main, dhcpv6.MessageTypeRebind, c.held.lastEnd())
	case source.Due(c.held.renew, now):
		c.beginExchange(&c.main, dhcpv6.MessageTypeRenew, c.held.rebind)
	}
}

// solicit looks for servers.
func (c *client) solicit() {
	c.adverts, c.noAddrs = nil, false
	c.beginExchange(&c.main, dhcpv6.MessageTypeSolicit, time.Time{})
}

// retry looks for servers after a time, which is longer each time.
func (c *client) retry() {
	d := min(time.Second<<min(c.failures, 20), c.solMaxRT)
	c.failures++
	c.main = exchange{}
	c.wait = time.Now().Add(d + random(d))
}

// inform asks for information besides addresses.
func (c *client) inform() {
	c.beginExchange(&c.info, dhcpv6.MessageTypeInformationRequest, time.Time{})
}

// request asks the best server.
func (c *client) request() {
	best := slices.MaxFunc(c.adverts, func(a, b reply) int { // the first of equals
		avoided := func(r reply) int {
			if bytes.Equal(r.server, c.avoid) {
				return 0
			}
			return 1
		}
		if d := avoided(a) - avoided(b); d != 0 {
			return d
		}
		if d := int(a.preference) - int(b.preference); d != 0 {
			return d
		}
		return len(a.ia.addrs) - len(b.ia.addrs)
	})
	c.adverts = nil
	c.chosen, c.subjects = best.server, best.ia.hosts()
	c.beginExchange(&c.main, dhcpv6.MessageTypeRequest, time.Time{})
}

// confirm asks whether the addresses of a lease can be used on this network.
func (c *client) confirm(l *lease, d time.Duration) {
	c.subjects, c.renewNext = l.hosts(), false
	c.beginExchange(&c.main, dhcpv6.MessageTypeConfirm, time.Now().Add(d))
}

// timeout is called when an answer has not come in time.
func (c *client) timeout() {
	if mrc := timings[c.main.typ].mrc; mrc > 0 && c.main.sent >= mrc {
		c.ended()
		return
	}
	if c.main.typ == dhcpv6.MessageTypeSolicit {
		if len(c.adverts) > 0 {
			c.request()
			return
		}
		c.unadvertised()
	}
	c.send(&c.main)
}

// unadvertised is called when no server has offered addresses for a while.
func (c *client) unadvertised() {
	if c.informed != nil {
		return
	}
	if !c.info.running() && (c.noAddrs || c.main.sent > 1) {
		c.inform()
	}
	if c.report.IsZero() {
		c.fail(c.why())
	}
}

// ended is called when an exchange is given up.
func (c *client) ended() {
	err := c.why()
	switch c.main.typ {
	case dhcpv6.MessageTypeRequest:
		c.avoid = c.chosen
		if c.held != nil {
			c.lose()
		}
		c.fail(err)
		c.begin(renewalReport)
	case dhcpv6.MessageTypeConfirm:
		if c.stored != nil {
			c.stored = nil
			break
		}
		c.fail(err)
	case dhcpv6.MessageTypeRenew:
		c.fail(err)
		c.begin(renewalReport)
	case dhcpv6.MessageTypeDecline:
		c.declined()
		return
	}
	c.proceed()
}

// advertised takes an ADVERTISE.
func (c *client) advertised(r reply) {
	if why := r.useless(); why != nil {
		c.noAddrs = true
		c.reason = why
		if c.main.sent > 1 && !c.info.running() && c.informed == nil {
			c.inform()
		}
		return
	}
	known := slices.IndexFunc(c.adverts, func(a reply) bool { return bytes.Equal(a.server, r.server) })
	switch {
	case known >= 0:
		c.adverts[known] = r
	case len(c.adverts) < source.MaxItems:
		c.adverts = append(c.adverts, r)
	}
	const atOnce = 255
	if c.main.sent > 1 || r.preference == atOnce {
		c.request()
	}
}

// answered takes a REPLY of the main exchange.
func (c *client) answered(r reply) {
	switch c.main.typ {
	case dhcpv6.MessageTypeSolicit:
		if !r.rapid {
			return
		}
		if why := r.useless(); why != nil {
			c.advertised(r)
			return
		}
		c.bind(r, true)
	case dhcpv6.MessageTypeRequest:
		c.requested(r)
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		c.renewed(r)
	case dhcpv6.MessageTypeConfirm:
		c.confirmed(r)
	case dhcpv6.MessageTypeDecline:
		c.declined()
	}
}

// requested takes the answer to REQUEST.
func (c *client) requested(r reply) {
	why := r.useless()
	if why == nil {
		c.bind(r, true)
		return
	}
	c.reason = why
	if r.failed() {
		return // it may be able to answer the next message
	}
	c.cfg.Log.Info("refused", "server", r.from, "error", why)
	c.hints, c.noAddrs = nil, true
	if c.held != nil { // after NoBinding
		c.lose()
		c.store()
		c.begin(source.ReportAfter)
		c.reason = why
	}
	if c.informed == nil {
		c.inform()
	}
	c.retry()
}

// renewed takes the answer to RENEW or REBIND, section 18.2.10.1.
func (c *client) renewed(r reply) {
	switch {
	case r.status == iana.StatusNoBinding, r.ia != nil && r.ia.status == iana.StatusNoBinding:
		c.chosen, c.subjects = r.server, c.held.hosts()
		c.beginExchange(&c.main, dhcpv6.MessageTypeRequest, time.Time{})
	case r.status != iana.StatusSuccess || r.ia == nil || r.ia.status != iana.StatusSuccess || len(r.ia.addrs)+len(r.ia.ended) == 0:
		c.reason = r.useless() // and the exchange goes on
	default:
		c.bind(r, false)
	}
}

// confirmed takes the answer to CONFIRM.
func (c *client) confirmed(r reply) {
	switch r.status {
	case iana.StatusSuccess:
		if c.stored == nil {
			c.main = exchange{}
			if c.renewNext && c.held != nil { // with the result
				c.held.renewNow()
			} else {
				c.set()
			}
			if !c.main.running() {
				c.proceed()
			}
			return
		}
		// What was stored may be old, and the clock wrong, so it is renewed at once.
		now := time.Now()
		c.held, c.stored = c.stored, nil
		c.held.options.Server = r.from
		c.held.schedule(0, 0, now)
		c.held.renew = now
		c.main = exchange{}
		c.set()
	case iana.StatusNotOnLink:
		c.cfg.Log.Info("another network", "server", r.from, "addresses", c.subjects)
		c.stored, c.hints = nil, nil
		if c.held != nil {
			c.lose()
			c.begin(source.ReportAfter)
		}
		c.store()
		c.solicit()
	}
}

// bind uses the addresses of a reply. A new lease replaces another; else those that the
// reply does not mention stay.
func (c *client) bind(r reply, fresh bool) {
	sent := c.main.last
	l := newLease(r, sent)
	if !fresh {
		l.keep(c.held, r.ia)
	}
	c.main = exchange{}
	c.reason = nil
	if len(l.addrs) == 0 {
		c.lost(fmt.Errorf("server %v takes %v away", r.from, c.held.hosts()))
		c.store()
		return
	}
	l.schedule(r.ia.t1, r.ia.t2, sent)
	c.held, c.informed, c.info = l, nil, exchange{}
	c.hints, c.avoid = l.hosts(), nil
	c.set()
	c.store()
	if !c.main.running() {
		c.failures = 0
	}
}

// informedBy takes a REPLY to INFORMATION-REQUEST.
func (c *client) informedBy(r reply) {
	o := r.options
	switch {
	case r.status != iana.StatusSuccess:
		c.reason = r.useless()
		return
	case len(o.DNS)+len(o.Search)+len(o.NTP) == 0 && o.CaptivePortal == "":
		c.reason = fmt.Errorf("server %v has no information", r.from)
		return
	}
	c.info = exchange{}
	c.informed = &lease{server: r.server, options: o}
	if r.refresh != infinite {
		c.informed.renew = time.Now().Add(r.refresh)
	}
	c.set()
	c.store()
}

// expire ends addresses whose lifetime is over.
func (c *client) expire(now time.Time) {
	if c.held == nil {
		return
	}
	ended := c.held.expire(now)
	switch {
	case len(ended) == 0:
	case len(c.held.addrs) > 0:
		c.cfg.Log.Info("expired", "addresses", ended)
		c.set()
	default:
		c.lost(fmt.Errorf("the lease of %v has expired", ended))
	}
}

// lost gives up a lease that has ended, says why, and looks for another.
func (c *client) lost(why error) {
	c.lose()
	c.fail(why)
	c.begin(source.ReportAfter)
	switch c.main.typ {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeDecline:
	default:
		c.solicit()
	}
}

// lose gives the lease up.
func (c *client) lose() {
	c.held, c.stale = nil, false
	c.sink.Set(source.Lease{})
}

// decline tells the server that addresses of the lease are in use by other hosts. The
// others are used, or others are looked for.
func (c *client) decline(conflict *source.ConflictError) {
	server := c.held.server
	taken := c.held.remove(conflict.Addrs)
	if len(taken) == 0 {
		return
	}
	c.cfg.Log.Info("declined", "error", conflict)
	if c.main.typ == dhcpv6.MessageTypeDecline {
		taken = slices.Concat(c.subjects, taken)
	}
	c.hints = c.held.hosts()
	if len(c.held.addrs) == 0 {
		c.lose()
		c.begin(source.ReportAfter)
		c.reason = conflict
	}
	c.store()
	c.chosen, c.subjects = server, taken
	c.beginExchange(&c.main, dhcpv6.MessageTypeDecline, time.Time{})
	if c.held != nil {
		c.set()
	}
}

// declined goes on after DECLINE.
func (c *client) declined() {
	if c.held == nil {
		c.retry()
		return
	}
	c.proceed()
}

// release gives the lease back if that is asked for.
func (c *client) release() {
	if !c.cfg.Release || c.held == nil {
		return
	}
	end := time.NewTimer(releaseTime)
	defer end.Stop()
	c.chosen, c.subjects = c.held.server, c.held.hosts()
	now := time.Now()
	for i := range c.held.addrs { // to be asked for again
		c.held.addrs[i].preferred, c.held.addrs[i].valid = now, now
	}
	c.store()
	c.lose()
	c.beginExchange(&c.main, dhcpv6.MessageTypeRelease, time.Time{})
	// It cannot be sent for a second or two after the interface was set up: the kernel looks
	// for duplicates of the link-local address, and there is no other.
	wait := func() time.Duration {
		if c.sendErr != nil {
			return releaseRetry
		}
		return time.Until(c.main.next)
	}
	again := time.NewTimer(wait())
	defer again.Stop()
	for {
		select {
		case p, ok := <-c.port.Packets():
			if !ok {
				return
			}
			if _, err := c.decode(p); err == nil {
				return
			}
		case <-again.C:
			failed := c.sendErr != nil
			c.send(&c.main)
			if failed {
				again.Reset(wait())
			}
		case <-end.C:
			c.cfg.Log.Info("no answer to RELEASE", "addresses", c.subjects, "error", c.sendErr)
			return
		}
	}
}
