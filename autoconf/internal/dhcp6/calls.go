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
	c.begin(source.ReportAfter)
	soon := c.lastSent.Add(callWait)
	switch {
	case c.held != nil && call.Confirm:
		switch c.main.typ {
		case dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRequest:
		default:
			c.confirm(c.held, confirmTime)
		}
		c.renewNext = c.renewNext || call.Renew
	case c.held != nil:
		switch c.main.typ {
		case dhcpv6.MessageTypeConfirm:
			c.renewNext = true
		case 0:
			c.held.renewNow()
			c.proceed()
		case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
			c.main.again(soon)
		}
	case c.main.typ == dhcpv6.MessageTypeSolicit && c.main.sent == 1:
		if call.Confirm {
			c.adverts = nil // of another network, perhaps
		}
	case c.main.typ == dhcpv6.MessageTypeSolicit, c.main.typ == dhcpv6.MessageTypeRequest && call.Confirm:
		c.main = exchange{}
		c.wait = soon
		c.informSoon(soon)
	case !c.main.running():
		c.failures = 0
		if latest := now.Add(longestWait); latest.Before(c.wait) {
			c.wait = latest
		}
		c.informSoon(soon)
	}
}

// informSoon has information asked for again, if that was ever needed.
func (c *client) informSoon(at time.Time) {
	switch {
	case c.info.running():
		c.info.again(at)
	case c.informed != nil:
		c.informed.renew = at
	}
}

// slept corrects all instants that are kept.
func (c *client) slept(d time.Duration) {
	all := []*time.Time{&c.report, &c.wait, &c.lastSent}
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
	c.tokens.Slept(d)
	c.stale = c.held != nil || c.informed != nil
}
