package vdeplug

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// udpHosts are the addresses between which the tests run.
var udpHosts = []string{"127.0.0.1", "::1"}

func udpVNL(from, to int, host string) string { return fmt.Sprintf("udp://%d->%s:%d", from, host, to) }

func TestUDP(t *testing.T) {
	for _, host := range udpHosts {
		t.Run(host, func(t *testing.T) {
			pairs(t, func(t *testing.T, first, second opener) {
				a, _, _ := first.open(t, udpVNL(7001, 7002, host))
				b, _, _ := second.open(t, fmt.Sprintf("udp://%s:7002->%[1]s:7001", host))
				for _, n := range frameSizes {
					plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), n))
					plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n))
				}
			})
		})
	}
}

// TestUDPRestart sends to nobody, which the host answers with ICMP errors.
func TestUDPRestart(t *testing.T) {
	pairs(t, func(t *testing.T, first, second opener) {
		a, _, _ := first.open(t, udpVNL(7001, 7002, "127.0.0.1"))
		for range 3 {
			for range 5 {
				if err := a.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)); err != nil {
					t.Fatal(err)
				}
			}
			b, _, kill := second.open(t, udpVNL(7002, 7001, "127.0.0.1"))
			plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
			plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60))
			kill(t)
		}
	})
}

func TestUDPStranger(t *testing.T) {
	testenv.NoLeaks(t)
	c := openPlug(t, udpVNL(7001, 7002, "127.0.0.1"))
	dial := func(local string) *net.UDPConn {
		t.Helper()
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)),
			&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7001})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for _, stranger := range []string{"127.0.0.1:7003", "127.0.0.2:7002"} {
		dial(stranger).Write(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)) // refused, but later
	}
	checkDatagrams(t, dial("127.0.0.1:7002"), c, 1)
}

// TestUDPReconnect takes the route away from a socket, as an address that is
// removed and comes back does.
func TestUDPReconnect(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := openPlug(t, udpVNL(7001, 7002, "127.0.0.1")), openInbox(t, udpVNL(7002, 7001, "127.0.0.1"))
	on[*udpConn](a).on.file.Raw.Control(func(fd uintptr) { sockio.Disconnect(int(fd)) })
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	if err := a.Send(frame); err != nil {
		t.Fatal(err)
	}
	b.Want(t, frame)
	if d := a.(Dropper).Drops(); d != (Drops{}) {
		t.Errorf("got %+v, want no drops", d)
	}
}

func TestUDPConn(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn { return openPlug(t, udpVNL(7001, 7002, "::1")) })
	})
	t.Run("peer reads", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			openInbox(t, udpVNL(7002, 7001, "127.0.0.1"))
			return openPlug(t, udpVNL(7001, 7002, "127.0.0.1"))
		})
	})
}

func TestUDPAllocs(t *testing.T) {
	for _, host := range udpHosts {
		checkAllocs(t, openPlug(t, udpVNL(7001, 7002, host)), openPlug(t, udpVNL(7002, 7001, host)))
	}
}

func TestUDPOpenErrors(t *testing.T) {
	testenv.NoLeaks(t)
	openPlug(t, udpVNL(7001, 7002, "127.0.0.1"))
	openPlug(t, udpVNL(7001, 7002, "::1")) // the families do not get into each other's way
	tests := []struct{ body, text string }{
		{"7001", `no "->" in the address (it is [saddr:]sport->daddr:dport)`},
		{"7001->7002", `destination "7002" has no address or no port`},
		{"7001->127.0.0.1:", `destination "127.0.0.1:" has no address or no port`},
		{"7001->:7002", `destination ":7002" has no address or no port`},
		{"x y->127.0.0.1:7002", `source port "x y": `},
		{"7001->127.0.0.1:70000", `destination port "70000": `},
		{"7001->127.0.0.1:0", `destination port "0": nothing can be sent there`},
		{"127.0.0.1:7001->::1:7002", `source "127.0.0.1" and destination "::1": one is IPv4, the other IPv6`},
		{"7001->127.0.0.1:7003", `source 0.0.0.0:7001 is used by another program`},
		{"10.1.2.3:7005->127.0.0.1:7003", `source 10.1.2.3:7005 is not an address of this host`},
		{"7005->10.1.2.3:7003", `destination 10.1.2.3:7003: connect: network is unreachable`},
		{"7005->fe80::1%nosuch0:7003", `zone "nosuch0" of fe80::1%nosuch0: `},
		{"7005->nosuch.invalid:7003", `destination "nosuch.invalid": `},
	}
	for _, tt := range tests {
		_, err := Open("udp://"+tt.body, nil)
		wantError(t, err, tt.text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	_, err := OpenContext(ctx, "udp://7001->nosuch.invalid:7002", nil)
	wantError(t, err, "deadline exceeded")
}

func TestParseUDP(t *testing.T) {
	tests := []struct {
		body        string
		local, peer udpEnd
	}{
		{"2000->host.example.org:3000", udpEnd{"", "2000"}, udpEnd{"host.example.org", "3000"}},
		{"7001->fd09::2:7002", udpEnd{"", "7001"}, udpEnd{"fd09::2", "7002"}},
		{"[fd09::1]:7001->[fe80::2%eth0]:ntp", udpEnd{"fd09::1", "7001"}, udpEnd{"fe80::2%eth0", "ntp"}},
		{":1->a:2", udpEnd{"", "1"}, udpEnd{"a", "2"}},
		{"->a:2", udpEnd{}, udpEnd{"a", "2"}},
		{"a:->b:2", udpEnd{"a", ""}, udpEnd{"b", "2"}},
		{"a->b:1->c:2", udpEnd{"", "a"}, udpEnd{"b:1->c", "2"}},
	}
	for _, tt := range tests {
		local, peer, err := parseUDP(tt.body)
		if err != nil || local != tt.local || peer != tt.peer {
			t.Errorf("%q: got %+v, %+v, %v, want %+v, %+v", tt.body, local, peer, err, tt.local, tt.peer)
		}
	}
}

func TestUDPNames(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := openInbox(t, "udp://localhost:7001->localhost:7002"), openInbox(t, "udp://localhost:7002->localhost:7001")
	plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60))
	plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60))
}

func BenchmarkUDP(b *testing.B) {
	benchPlugs(b, udpVNL(7001, 7002, "127.0.0.1"), udpVNL(7002, 7001, "127.0.0.1"))
}
