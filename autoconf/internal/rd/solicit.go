package rd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

const (
	// solicitWait, tries and maxWait are RTR_SOLICITATION_INTERVAL and
	// MAX_RTR_SOLICITATIONS of RFC 4861, section 10, and MRT of RFC 7559, section 2.
	solicitWait = 4 * time.Second
	tries       = 3
	maxWait     = time.Hour
	// callWait is the shortest between solicitations that the client asks for.
	callWait = time.Second
	// restartWait is the shortest between the beginnings of a back-off that routers cause.
	restartWait = time.Minute
	// restartDelay is MAX_RTR_SOLICITATION_DELAY: a router that goes away is lost by all.
	restartDelay = time.Second
)

// allRouters is the group of the link's routers.
var allRouters = netip.AddrPortFrom(netip.MustParseAddr("ff02::2"), 0)

// A solicitor has the times of solicitations.
type solicitor struct {
	next    time.Time     // when one is sent; zero if no router is looked for
	wait    time.Duration // between the last two, before it was randomized
	count   int           // those of this back-off
	began   time.Time     // when it began
	sent    time.Time     // when the last one was sent
	sendErr error         // of the last one
}

// solicit begins a back-off at an instant, or soon after the last solicitation.
func (s *solicitor) solicit(at time.Time) {
	if soonest := s.sent.Add(callWait); soonest.After(at) {
		at = soonest
	}
	s.next, s.began, s.count = at, at, 0
}

// restart begins a back-off for a router that was lost, unless one is under way.
func (s *solicitor) restart(now time.Time) {
	if !s.next.IsZero() {
		return
	}
	at := now.Add(randomDelay(restartDelay))
	if soonest := s.began.Add(restartWait); soonest.After(at) {
		at = soonest
	}
	s.solicit(at)
}

// nextSolicitation returns when one is due, zero if never: of the back-off or, if there is
// none, before the last default router is lost.
func (c *client) nextSolicitation() time.Time {
	if !c.next.IsZero() {
		return c.next
	}
	at := c.refresh()
	if soonest := c.began.Add(restartWait); !at.IsZero() && soonest.After(at) {
		at = soonest
	}
	return at
}

// sendSolicitation sends one. It tells the hardware address, for it has a source: the kernel
// sends none without (RFC 4861, section 4.1). So it fails while the kernel looks for duplicates
// of the first address, and is tried again soon.
func (c *client) sendSolicitation(now time.Time) {
	if c.next.IsZero() { // before the router is lost
		c.solicit(now)
	}
	c.count++
	switch {
	case c.count < tries:
		c.wait = solicitWait
	default:
		c.wait = min(2*c.wait, maxWait)
	}
	c.sent, c.next = now, now.Add(c.wait-c.wait/10+randomDelay(c.wait/5))
	b, err := ndp.MarshalMessage(&ndp.RouterSolicitation{
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: c.mac}},
	})
	if err == nil {
		err = c.port.Send(source.Packet{Data: b, Peer: allRouters})
	}
	c.sendErr = err
	if err == nil {
		return
	}
	c.sendErr = fmt.Errorf("sending a solicitation: %w", err)
	if !c.report.IsZero() {
		c.count, c.next = c.count-1, now.Add(callWait)
	}
}

// randomDelay returns a time from 0 to d.
func randomDelay(d time.Duration) time.Duration { return rand.N(d + 1) }
