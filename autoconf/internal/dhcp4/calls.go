package dhcp4

import (
	"time"

	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// call does what the client asks for.
func (c *client) call(call source.Call) error {
	if call.Slept > 0 {
		c.slept(call.Slept)
		if source.Due(c.expires(), time.Now()) {
			if err := c.expire(); err != nil {
				return err
			}
		}
	}
	if !call.Confirm && !call.Renew {
		if c.stale && c.held != nil {
			c.set()
		}
		return nil
	}
	now := time.Now()
	recent := now.Sub(c.sent) < callWait
	running := !c.report.IsZero()
	switch c.state {
	case bound, renewing, rebinding:
		if call.Confirm {
			c.begin()
			c.wanted = c.held.addr.Addr()
			return c.reboot()
		}
		if c.state == bound {
			return c.timeout(now)
		}
		return nil
	case waiting:
		if soon := now.Add(declineWait); soon.Before(c.next) {
			c.next = soon
		}
	case selecting, requesting, rebooting, probing:
		if call.Confirm && recent && c.state == selecting && len(c.offers) == 0 {
			c.next, c.discovers = c.sent.Add(callWait), 0
		}
		if !recent && (call.Confirm || !running && c.state == selecting) {
			c.begin()
			c.discovers = 0
			if c.held != nil {
				c.wanted = c.held.addr.Addr()
				return c.reboot()
			}
			return c.discover()
		}
	}
	if !running {
		c.begin()
	}
	return nil
}

// slept corrects all instants that are kept.
func (c *client) slept(d time.Duration) {
	all := []*time.Time{&c.next, &c.report, &c.announce, &c.began, &c.asked, &c.sent, &c.defended, &c.givenUp}
	if c.held != nil {
		all = append(all, &c.held.renew, &c.held.rebind, &c.held.expires)
		c.stale = true
	}
	all = append(all, &c.lease.renew, &c.lease.rebind, &c.lease.expires)
	for _, at := range all {
		if !at.IsZero() {
			*at = at.Add(-d)
		}
	}
}
