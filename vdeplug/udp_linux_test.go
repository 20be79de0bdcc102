package vdeplug

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func udpVNL(from, to int, host string) string { return fmt.Sprintf("udp://%d->%s:%d", from, host, to) }

func TestUDP(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			pairs(t, func(t *testing.T, first, second opener) {
				a, b := first.open(t, udpVNL(7001, 7002, host)), second.open(t, fmt.Sprintf("udp://%s:7002->%[1]s:7001", host))
				plugtest.CarryBoth(t, a.Inbox, b.Inbox, frameSizes...)
			})
		})
	}
}

// TestUDPRestart sends to a port that is not open, which the host answers with ICMP errors.
func TestUDPRestart(t *testing.T) {
	pairs(t, func(t *testing.T, first, second opener) {
		a := first.open(t, udpVNL(7001, 7002, "127.0.0.1"))
		for range 3 {
			for range 5 {
				testenv.Check(t, a.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)))
			}
			b := second.open(t, udpVNL(7002, 7001, "127.0.0.1"))
			plugtest.CarryBoth(t, b.Inbox, a.Inbox, 60)
			b.kill(t)
		}
	})
}

func TestUDPOpenErrors(t *testing.T) {
	testenv.NoLeaks(t)
	openPlug(t, udpVNL(7001, 7002, "127.0.0.1"))
	openPlug(t, udpVNL(7001, 7002, "::1")) // the families have separate ports
	wantOpenError(t, "udp://7001->127.0.0.1:7003", "source 0.0.0.0:7001 is used by another program")
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	_, err := OpenContext(ctx, "udp://7001->nosuch.invalid:7002", nil)
	plugtest.WantError(t, err, "deadline exceeded")
}

func TestParseUDP(t *testing.T) {
	type ends struct{ local, peer p2p.Endpoint }
	end := func(host, port string) p2p.Endpoint { return p2p.Endpoint{Host: host, Port: port} }
	testParses(t, flat(func(l Locator) (e ends, err error) {
		e.local, e.peer, err = parseUDP(l.Body())
		return e, err
	}), ends{}, []parseTest[ends]{
		{in: "udp://2000->host.example.org:3000", set: is(ends{end("", "2000"), end("host.example.org", "3000")})},
		{in: "udp://7001->fd09::2:7002", set: is(ends{end("", "7001"), end("fd09::2", "7002")})},
		{in: "udp://[fd09::1]:7001->[fe80::2%eth0]:ntp", set: is(ends{end("fd09::1", "7001"), end("fe80::2%eth0", "ntp")})},
		{in: "udp://:1->a:2", set: is(ends{end("", "1"), end("a", "2")})},
		{in: "udp://->a:2", set: is(ends{p2p.Endpoint{}, end("a", "2")})},
		{in: "udp://a:->b:2", set: is(ends{end("a", ""), end("b", "2")})},
		{in: "udp://a->b:1->c:2", set: is(ends{end("", "a"), end("b:1->c", "2")})},
	})
}

func TestUDPNames(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := openInbox(t, "udp://localhost:7001->localhost:7002"), openInbox(t, "udp://localhost:7002->localhost:7001")
	plugtest.CarryBoth(t, a, b, 60)
}

func BenchmarkUDP(b *testing.B) {
	benchPlugs(b, openPlug(b, udpVNL(7001, 7002, "127.0.0.1")), openPlug(b, udpVNL(7002, 7001, "127.0.0.1")), plugtest.Broadcast)
}
