package dhcp4

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// timeout ends the wait of the state.
func (c *client) timeout(now time.Time) error {
	switch c.state {
	case waiting:
		return c.discover()
	case selecting:
		if len(c.offers) > 0 {
			return c.request()
		}
		if c.report.IsZero() {
			c.fail(c.reason)
			c.exchange()
		}
		return c.sendDiscover()
	case requesting:
		if c.tries < requestTries {
			return c.sendRequest()
		}
		c.avoid = c.lease.server
		c.fail(nil)
		return c.discover()
	case rebooting:
		if c.tries < rebootTries {
			return c.sendReboot()
		}
		return c.discover()
	case probing:
		if c.tries < probes {
			c.sendProbe()
			return nil
		}
		return c.bind(c.lease)
	case bound:
		if source.Due(c.held.rebind, now) {
			c.renew(rebinding)
		} else {
			c.renew(renewing)
		}
	case renewing, rebinding:
		switch {
		case c.state == renewing && source.Due(c.held.rebind, now):
			c.renew(rebinding)
		case c.tries < askTries:
			c.sendRenew()
		default:
			c.notRenewed(c.sendErr)
		}
	}
	return nil
}

// discover asks all servers for an offer.
func (c *client) discover() error {
	c.enter(selecting)
	c.exchange()
	return c.sendDiscover()
}

func (c *client) sendDiscover() error {
	c.offers = nil
	c.secs = c.elapsedSeconds()
	m := c.question(dhcpv4.MessageTypeDiscover)
	if c.wanted.IsValid() {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.wanted.AsSlice()))
	}
	c.discovers++
	c.next = c.discoverAfter()
	return c.broadcast(m)
}

// offered takes an offer. The last one of each server counts.
func (c *client) offered(l lease) error {
	known := slices.IndexFunc(c.offers, func(o lease) bool { return o.server == l.server })
	switch {
	case known >= 0:
		c.offers[known] = l
	case len(c.offers) == source.MaxItems:
		return nil
	default:
		c.offers = append(c.offers, l)
	}
	if l.addr.Addr() == c.wanted && l.server != c.avoid {
		return c.request()
	}
	if len(c.offers) == 1 && known < 0 {
		c.next = time.Now().Add(collectTime)
	}
	return nil
}

// request asks for the best offer.
func (c *client) request() error {
	worth := func(l lease) (n int) {
		if l.server != c.avoid {
			n += 4
		}
		if l.addr.Addr() == c.wanted {
			n += 2
		}
		if slices.ContainsFunc(l.options.Routes, func(r source.Route) bool { return r.Dst.Bits() == 0 }) {
			n++
		}
		return n
	}
	best := c.offers[0]
	for _, l := range c.offers[1:] {
		if worth(l) > worth(best) {
			best = l
		}
	}
	c.lease, c.offers = best, nil
	c.enter(requesting)
	return c.sendRequest()
}

// sendRequest sends a REQUEST with the xid and secs of the DISCOVER.
func (c *client) sendRequest() error {
	c.next = after(requestWait << c.tries)
	c.tries++
	m := c.question(dhcpv4.MessageTypeRequest)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.lease.addr.Addr().AsSlice()))
	m.UpdateOption(dhcpv4.OptServerIdentifier(c.lease.server.AsSlice()))
	return c.broadcast(m)
}

// reboot asks whether the address that is wanted can be used on this network.
func (c *client) reboot() error {
	c.enter(rebooting)
	c.exchange()
	return c.sendReboot()
}

func (c *client) sendReboot() error {
	c.next = after(rebootWait)
	c.tries++
	c.secs = c.elapsedSeconds()
	m := c.question(dhcpv4.MessageTypeRequest)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.wanted.AsSlice()))
	return c.broadcast(m)
}

// renew begins an attempt to renew the lease, by unicast or by broadcast.
func (c *client) renew(s state) {
	c.enter(s)
	c.exchange()
	c.sendRenew()
}

func (c *client) sendRenew() {
	c.next = after(askWait << c.tries)
	if c.state == renewing && !c.held.rebind.IsZero() && c.held.rebind.Before(c.next) {
		c.next = c.held.rebind
	}
	c.tries++
	// Where the port cannot be opened, the next try may: a command that is just being started
	// has a copy of the socket of the last renewal for a moment.
	if c.sendErr = c.openUDP(); c.sendErr != nil {
		return
	}
	c.secs = c.elapsedSeconds()
	m := c.question(dhcpv4.MessageTypeRequest)
	m.ClientIPAddr = c.held.addr.Addr().AsSlice()
	to := c.held.server
	if c.state == rebinding {
		to = broadcastAddr
	}
	c.send(c.udp, m, to)
}

// notRenewed ends an attempt to renew. The next one is after half of the time that is left
// for such attempts.
func (c *client) notRenewed(err error) {
	if err == nil {
		err = c.unanswered()
	}
	c.enter(bound)
	c.schedule()
	c.report = time.Time{}
	c.fail(err)
}

// schedule sets the time of the next attempt to renew.
func (c *client) schedule() {
	l, now := c.held, time.Now()
	until := l.rebind
	switch {
	case l.expires.IsZero():
		c.next = time.Time{}
		return
	case now.Before(l.renew):
		c.next = l.renew
		return
	case !now.Before(l.rebind):
		until = l.expires
	}
	c.next = now.Add(max(renewWait, until.Sub(now)/2))
	if until.Before(c.next) {
		c.next = until
	}
}

// acknowledged takes a lease.
func (c *client) acknowledged(l lease) error {
	l.start(c.asked)
	if (c.state == renewing || c.state == rebinding) && l.addr.Addr() == c.held.addr.Addr() {
		return c.use(l)
	}
	return c.probe(l)
}

// refused takes a NAK.
func (c *client) refused(server netip.Addr, why string) error {
	err := fmt.Errorf("server %v refuses %v", server, c.address())
	if why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	c.cfg.Log.Info("refused", "error", err)
	if c.state == requesting {
		c.avoid = server
		c.enter(waiting)
		c.next = c.discoverAfter()
		c.fail(err)
		return nil
	}
	c.wanted, c.discovers, c.began = netip.Addr{}, 0, time.Time{}
	if c.held != nil {
		c.lose()
	}
	if c.report.IsZero() {
		c.begin()
	}
	c.reason = err
	return c.discover()
}

// address returns the address that the present exchange is about.
func (c *client) address() netip.Addr {
	switch c.state {
	case requesting, probing:
		return c.lease.addr.Addr()
	case rebooting:
		return c.wanted
	}
	return c.held.addr.Addr()
}

// bind uses a new lease, and announces it.
func (c *client) bind(l lease) error {
	if err := c.use(l); err != nil || c.state != bound {
		return err
	}
	c.announcements, c.defended = announcements, time.Time{}
	c.sendAnnouncement()
	return nil
}

// use configures a lease.
func (c *client) use(l lease) error {
	c.held, c.wanted, c.avoid = &l, l.addr.Addr(), netip.Addr{}
	if conflict, ok := errors.AsType[*source.ConflictError](c.set()); ok && slices.Contains(conflict.Addrs, l.addr.Addr()) {
		c.lease = l
		return c.decline()
	}
	c.sink.Store(l.stored(c.mac, time.Until(l.expires)))
	c.enter(bound)
	c.schedule()
	c.report, c.reason, c.began, c.discovers = time.Time{}, nil, time.Time{}, 0
	return nil
}

func (c *client) set() error {
	c.stale = false
	return c.sink.Set(c.held.source())
}

// lose gives the lease up.
func (c *client) lose() {
	c.held, c.stale = nil, false
	c.announcements, c.announce, c.defended = 0, time.Time{}, time.Time{}
	if c.state != probing {
		closePort(&c.arp)
	}
	c.sink.Set(source.Lease{})
}

// expire ends a lease that was not renewed.
func (c *client) expire() error {
	addr := c.held.addr.Addr()
	c.lose()
	c.report, c.reason = time.Time{}, nil
	c.sink.Failed(fmt.Errorf("the lease of %v has expired", addr))
	switch c.state {
	case bound, renewing, rebinding:
		c.began = time.Time{}
		c.begin()
		return c.discover()
	}
	return nil
}

// decline tells the server that the address of a lease is in use by another host.
func (c *client) decline() error {
	addr, server := c.lease.addr.Addr(), c.lease.server
	c.enter(waiting)
	c.exchange()
	m := c.message(dhcpv4.MessageTypeDecline)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(addr.AsSlice()))
	m.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	m.UpdateOption(dhcpv4.OptMessage("in use by another host"))
	err := c.broadcast(m)
	closePort(&c.raw)
	if err != nil {
		return err
	}
	if c.held != nil && c.held.addr.Addr() == addr {
		c.lose()
	}
	c.wanted = netip.Addr{}
	c.next = c.discoverAfter()
	if earliest := time.Now().Add(declineWait); c.next.Before(earliest) {
		c.next = earliest
	}
	c.fail(&source.ConflictError{Addrs: []netip.Addr{addr}})
	return nil
}

// release gives the lease back if that is asked for.
func (c *client) release() {
	if !c.cfg.Release || c.held == nil {
		return
	}
	addr, server := c.held.addr.Addr(), c.held.server
	err := c.openUDP()
	for i := 0; err != nil && i < releaseTries; i++ { // see sendRenew
		time.Sleep(releaseRetry)
		err = c.openUDP()
	}
	if err != nil {
		c.cfg.Log.Info("not released", "address", addr, "error", err)
		return
	}
	c.exchange()
	m := c.message(dhcpv4.MessageTypeRelease)
	m.ClientIPAddr = addr.AsSlice()
	m.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	c.send(c.udp, m, server)
	c.sink.Store(c.held.stored(c.mac, 0))
	time.Sleep(releaseWait)
}
