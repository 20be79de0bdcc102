package dhcp6

import (
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// call does what the client asks for.
func (c *client) call(call source.Call) {
	now := time.Now()
	if call.Slept > 0 {
		c.slept(call.Slept)
		c.expire(now)
	}
	if !call.Confirm && !call.Renew {
		return
	}
	c.begin(reportAfter)
	switch {
	case c.held != nil && call.Confirm:
		switch c.main.typ {
		case dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRequest:
		default:
			c.confirm(c.held, confirmTime)
		}
	case c.held != nil:
		if !c.main.running() {
			if now.Before(c.held.renew) || c.held.renew.IsZero() {
				c.held.renew = now
			}
			c.proceed()
		}
	case c.main.typ == dhcpv6.MessageTypeSolicit && c.main.sent > 1:
		// Again, from the first wait on.
		c.main = exchange{}
		c.wait = c.lastSent.Add(callWait)
		c.informSoon(c.wait)
	case !c.main.running():
		c.failures = 0
		if soon := now.Add(declineWait); soon.Before(c.wait) {
			c.wait = soon
		}
		c.informSoon(c.lastSent.Add(callWait))
	}
}

// informSoon has information asked for again, if that was ever needed.
func (c *client) informSoon(at time.Time) {
	switch {
	case c.info.running():
		c.info.next, c.info.sent = at, 0
	case c.informed != nil:
		c.informed.renew = at
	}
}

// slept corrects all instants that are kept.
func (c *client) slept(d time.Duration) {
	all := []*time.Time{&c.report, &c.wait, &c.lastSent, &c.tokens.at}
	for _, e := range []*exchange{&c.main, &c.info} {
		all = append(all, &e.began, &e.last, &e.next, &e.end)
	}
	for _, l := range []*lease{c.stored, c.held, c.informed} {
		if l != nil {
			all = append(all, l.instants()...)
		}
	}
	for _, at := range all {
		if !at.IsZero() {
			*at = at.Add(-d)
		}
	}
	c.stale = c.held != nil || c.informed != nil
}
