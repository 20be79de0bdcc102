package dhcp4

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/autoconf/internal/source/sourcetest"
)

// asksToRenew returns the next message, which asks to renew the lease, and checks to whom.
func (l *lab) asksToRenew(to netip.Addr) *dhcpv4.DHCPv4 {
	l.Helper()
	m, s := l.message(dhcpv4.MessageTypeRequest)
	if s.Port != ours || s.Peer != netip.AddrPortFrom(to, serverPort) || !m.ClientIPAddr.Equal(mine.AsSlice()) ||
		m.Options.Has(dhcpv4.OptionRequestedIPAddress) || m.Options.Has(dhcpv4.OptionServerIdentifier) || m.Flags != 0 {
		l.Errorf("REQUEST by %s to %v: %v", s.Port, s.Peer, m.Summary())
	}
	return m
}

// reboots returns the next message, which asks to verify the lease, and checks to whom.
func (l *lab) reboots() *dhcpv4.DHCPv4 {
	l.Helper()
	r, s := l.message(dhcpv4.MessageTypeRequest)
	if s.Port != sourcetest.Unconfigured || s.Peer.Addr() != broadcastAddr || !r.ClientIPAddr.IsUnspecified() ||
		!r.RequestedIPAddress().Equal(mine.AsSlice()) || r.Options.Has(dhcpv4.OptionServerIdentifier) {
		l.Errorf("REQUEST by %s: %v", s.Port, r.Summary())
	}
	return r
}

// TestRenew renews a lease several times, with a message that is lost.
func TestRenew(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.get()
		l.Start = l.Start.Add(collectTime) // of the REQUEST
		for i := range 4 {
			r := l.asksToRenew(server1)
			asked := time.Now()
			l.At(29*time.Minute+32*time.Second, 29*time.Second)
			if i == 2 {
				again := l.asksToRenew(server1)
				if again.TransactionID != r.TransactionID || time.Since(asked) > 3*time.Second {
					t.Errorf("REQUEST again after %v: %v", time.Since(asked), again)
				}
			}
			l.ack(r, server2, mine) // was not asked
			l.ack(r, server1, mine)
			if got := l.Set(); !got.Expires.Equal(asked.Add(time.Hour)) || got.Addrs[0].Prefix.Addr() != mine {
				t.Errorf("got %+v", got)
			}
			synctest.Wait()
			if open := l.Link.Open(); !slices.Equal(open, []string{sourcetest.ARP}) {
				t.Errorf("ports are open: %q", open)
			}
			l.Start = asked
		}
	})
}

// TestServerGone has a lease that nobody renews.
func TestServerGone(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) {
		l.get()
		l.Start = l.Start.Add(collectTime)
		minutes := func(m float64) time.Duration { return time.Duration(m * float64(time.Minute)) }
		var attempts []time.Duration
		last, failed := "", 0
		all := l.events(59*time.Minute + 58*time.Second - announceWait)
		for _, e := range all {
			switch {
			case e.text == "server 10.0.0.1 does not renew the lease of 10.0.0.42", e.text == "no server renews the lease of 10.0.0.42":
				failed++
			case e.text == last: // again
			case e.text != "REQUEST to 10.0.0.1" && e.text != "REQUEST to 255.255.255.255":
				t.Errorf("after %v: %s", e.at, e.text)
			case strings.HasSuffix(e.text, "255") != (e.at >= minutes(52.5)):
				t.Errorf("after %v: %s", e.at, e.text)
			default:
				attempts = append(attempts, e.at)
			}
			last = e.text
		}
		for i, want := range []float64{29.5, 41, 46.8, 49.7, 51.2, 52.2, 52.5, 56.3, 58.2, 59.3} {
			if i >= len(attempts) || (attempts[i]-minutes(want)).Abs() > minutes(0.6) {
				t.Fatalf("attempts after %v, want number %d after %v minutes", attempts, i, want)
			}
		}
		if failed != len(attempts) {
			t.Errorf("%d of %d attempts are reported", failed, len(attempts))
		}
		l.Lost()
		l.At(time.Hour, 0)
		l.FailedWith("the lease of 10.0.0.42 has expired")
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.At(time.Hour, 0)
		if !d.RequestedIPAddress().Equal(mine.AsSlice()) || d.NumSeconds != 0 {
			t.Errorf("DISCOVER has %v", d.Summary())
		}
		l.answer(d)
	})
}

// TestRenewOtherwise has answers to renewals that change something.
func TestRenewOtherwise(t *testing.T) {
	other := netip.MustParseAddr("10.0.0.77")
	inLab(t, source.Config{}, func(l *lab) { // another address
		l.get()
		l.ack(l.asksToRenew(server1), server1, other)
		if got := l.probed(other); got.Server != server1 {
			t.Errorf("got %+v", got)
		}
	})
	inLab(t, source.Config{}, func(l *lab) { // another server
		l.get()
		for {
			if m, s := l.message(dhcpv4.MessageTypeRequest); s.Peer.Addr() == broadcastAddr {
				l.ack(m, server2, mine)
				break
			}
		}
		for {
			if got := (<-l.Sink.Said); got != nil {
				if got, ok := got.(source.Lease); ok {
					if got.Server != server2 {
						t.Errorf("got %+v", got)
					}
					break
				}
			}
		}
	})
	inLab(t, source.Config{}, func(l *lab) { // the server refuses, and gives another one
		l.get()
		r := l.asksToRenew(server1)
		l.nak(r, server2) // was not asked
		l.nak(r, server1)
		l.Lost()
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		if d.Options.Has(dhcpv4.OptionRequestedIPAddress) || d.NumSeconds != 0 {
			t.Errorf("DISCOVER has %v", d.Summary())
		}
		l.offer(d, server1, other)
		r, _ = l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server1, other)
		l.probed(other)
	})
	inLab(t, source.Config{}, func(l *lab) { // the server refuses, and gives none
		l.get()
		r := l.asksToRenew(server1)
		l.Start = time.Now()
		l.nak(r, server1)
		l.Lost()
		l.FailedWith("server 10.0.0.1 refuses 10.0.0.42")
		l.At(source.FirstAttempt, time.Second)
	})
	inLab(t, source.Config{}, func(l *lab) { // by broadcast
		l.get()
		ack := reply(l.asksToRenew(server1), dhcpv4.MessageTypeAck, server1, mine)
		ack.ClientIPAddr = nil
		l.deliver(ack)
		l.Set()
	})
	inLab(t, source.Config{}, func(l *lab) { // the port is in use
		l.get()
		l.Link.RefuseOpen(inUse)
		l.FailedWith("in use")
		l.FailedWith("in use")
		l.At(41*time.Minute, time.Minute)
	})
	inLab(t, source.Config{}, func(l *lab) { // for a moment
		l.get()
		l.Link.RefuseOpen(inUseOnce())
		l.ack(l.asksToRenew(server1), server1, mine)
		l.At(29*time.Minute+32*time.Second+askWait, 30*time.Second)
		l.Set()
	})
}

// TestCalls has what the client asks for.
func TestCalls(t *testing.T) {
	renew, confirm := source.Call{Renew: true}, source.Call{Confirm: true}
	inLab(t, source.Config{}, func(l *lab) { // renew long before T1, also what does not end
		l.get(dhcpv4.OptIPAddressLeaseTime(math.MaxUint32 * time.Second))
		for range 2 {
			l.Calls <- renew
			l.Calls <- renew
			l.ack(l.asksToRenew(server1), server1, mine, dhcpv4.OptIPAddressLeaseTime(math.MaxUint32*time.Second))
			if got := l.Set(); !got.Expires.IsZero() || !got.Renew.IsZero() || !got.Addrs[0].Valid.IsZero() {
				t.Errorf("got %+v", got)
			}
			l.Stored()
			l.Quiet(10000 * time.Hour)
		}
		l.Calls <- renew // in vain
		l.Start = time.Now()
		l.asksToRenew(server1)
		l.asksToRenew(server1)
		l.FailedWith("server 10.0.0.1 does not renew")
		l.At(source.FirstAttempt, 4*time.Second)
		l.Quiet(10000 * time.Hour)
	})
	inLab(t, source.Config{}, func(l *lab) { // renew when there is nothing
		l.events(10 * time.Minute)
		l.Start = time.Now()
		l.Calls <- renew
		l.Calls <- renew
		l.message(dhcpv4.MessageTypeDiscover)
		l.At(0, 0)
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.At(discoverWait, time.Second)
		l.FailedWith("no server")
		l.At(source.FirstAttempt, time.Second)
		l.answer(d)
	})
	inLab(t, source.Config{}, func(l *lab) { // confirm, on the same network
		l.get()
		l.Stored()
		l.Quiet(time.Minute)
		l.Calls <- confirm
		l.Calls <- confirm
		l.ack(l.reboots(), server1, mine)
		l.probed(mine)
	})
	inLab(t, source.Config{}, func(l *lab) { // on another network, whose server refuses
		l.get()
		l.Calls <- confirm
		l.nak(l.reboots(), server2)
		l.Lost()
		l.get()
	})
	inLab(t, source.Config{}, func(l *lab) { // on another network, whose server is silent
		l.get()
		l.Calls <- confirm
		l.reboots()
		l.reboots()
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		other := netip.MustParseAddr("192.168.0.9")
		l.offer(d, server2, other)
		r, _ := l.message(dhcpv4.MessageTypeRequest)
		l.ack(r, server2, other)
		l.probed(other)
	})
	inLab(t, source.Config{}, func(l *lab) { // nobody is there: it is kept to its end
		l.get()
		l.Start = time.Now()
		l.Calls <- confirm
		l.reboots()
		l.reboots()
		l.FailedWith("no server")
		l.At(source.FirstAttempt, time.Second)
		l.Start = l.Start.Add(-time.Hour)
		all := l.events(time.Hour + 2*time.Minute)
		i := slices.IndexFunc(all, func(e event) bool { return e.text == "lost" })
		if i < 0 || all[i+1].text != "the lease of 10.0.0.42 has expired" {
			t.Fatalf("what has happened: %v", all)
		}
		for _, e := range all {
			if e.at > all[i].at && strings.HasPrefix(e.text, "DISCOVER") {
				return
			}
		}
		t.Errorf("no DISCOVER after the end: %v", all)
	})
	inLab(t, source.Config{}, func(l *lab) { // the carrier comes soon after the start
		l.message(dhcpv4.MessageTypeDiscover)
		time.Sleep(callWait / 2)
		for range 100 {
			l.Calls <- confirm
		}
		l.message(dhcpv4.MessageTypeDiscover)
		l.At(callWait, 0)
		for range 100 {
			l.Calls <- confirm
			time.Sleep(callWait / 100)
		}
		l.At(2*callWait, 0)
		l.get()
	})
}

// TestSlept has a machine that was asleep: the clock has stood still.
func TestSlept(t *testing.T) {
	inLab(t, source.Config{}, func(l *lab) { // for a while
		before := l.get()
		l.Stored()
		l.Calls <- source.Call{Slept: 20 * time.Minute}
		after := l.Set()
		if d := before.Expires.Sub(after.Expires); d != 20*time.Minute || before.Renew.Sub(after.Renew) != d ||
			before.Rebind.Sub(after.Rebind) != d || before.Addrs[0].Valid.Sub(after.Addrs[0].Valid) != d {
			t.Errorf("before %+v, after %+v", before, after)
		}
		l.asksToRenew(server1)
		l.At(9*time.Minute+32*time.Second, 30*time.Second)
	})
	inLab(t, source.Config{}, func(l *lab) { // beyond the end
		l.get()
		l.Stored()
		l.Calls <- source.Call{Slept: 2 * time.Hour, Confirm: true}
		l.Lost()
		l.FailedWith("the lease of 10.0.0.42 has expired")
		d, _ := l.message(dhcpv4.MessageTypeDiscover)
		l.answer(d)
	})
	inLab(t, source.Config{}, func(l *lab) { // for a while, and nobody is there
		before := l.get()
		l.Stored()
		l.Calls <- source.Call{Slept: 20 * time.Minute, Confirm: true}
		l.FailedWith("no server has offered")
		if after := l.Set(); before.Expires.Sub(after.Expires) != 20*time.Minute {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})
	inLab(t, source.Config{}, func(l *lab) { // while it waits for an offer
		l.message(dhcpv4.MessageTypeDiscover)
		l.message(dhcpv4.MessageTypeDiscover)
		l.Calls <- source.Call{Slept: time.Hour, Confirm: true}
		now := time.Now()
		l.get()
		if d := time.Since(now); d > 4*time.Second {
			t.Errorf("a lease after %v", d)
		}
	})
}
