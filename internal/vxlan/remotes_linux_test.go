package vxlan

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVXLANSetRemotes changes the remotes of an endpoint, which have ports of their own.
func TestVXLANSetRemotes(t *testing.T) {
	for _, tt := range []struct{ name, own, a, b, outside string }{
		{"IPv4", "0.0.0.0:4789", "127.0.0.3:5000", "127.0.0.4:4789", "127.0.0.5:4789"},
		{"IPv6", "[::]:4789", "[::1]:5000", "[::1]:5001", "[fd09::1]:5000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			a, b, outside := netip.MustParseAddrPort(tt.a), netip.MustParseAddrPort(tt.b), netip.MustParseAddrPort(tt.outside)
			cfg := Config{
				VXLAN: true, VNI: 42, TTL: 1, Listen: netip.MustParseAddrPort(tt.own), Changing: true,
				Remotes: []netip.AddrPort{a, b}, Stations: 1024, Expire: 128 * time.Second,
			}
			if a.Addr().Is4() {
				cfg.Bind = netip.MustParseAddr("127.0.0.2")
			}
			e, c, _ := openTest(t, cfg)
			in := plugtest.NewInbox(t, c)
			to := netip.AddrPortFrom(a.Addr(), e.sockets.port)
			if cfg.Bind.IsValid() {
				to = netip.AddrPortFrom(cfg.Bind, e.sockets.port)
			}
			listen := func(addr netip.AddrPort) *net.UDPConn {
				t.Helper()
				c := testenv.Must(net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)))(t)
				t.Cleanup(func() { c.Close() })
				return c
			}
			header := makeHeader(42)
			hello := func(from *net.UDPConn, station int) {
				t.Helper()
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(station), 60)
				testenv.Must(from.WriteToUDPAddrPort(withHeader(header, frame), to))(t)
				in.WantNext(t, frame)
			}
			at := func(station int, want netip.AddrPort) {
				t.Helper()
				got, ok := e.Lookup(plugtest.Station(station))
				if ok != want.IsValid() || ok && got != sockio.MakeSockaddr(want, 0) {
					t.Errorf("station %d is at %v port %d, %v, want %v", station, got.Addr(), got.Port(), ok, want)
				}
			}
			connA, connB, connOutside := listen(a), listen(b), listen(outside)
			hello(connA, 1)
			hello(connB, 2)
			hello(listen(netip.AddrPortFrom(a.Addr(), 6000)), 3) // as the kernel's endpoints do
			hello(connOutside, 4)
			at(1, a)
			at(2, b)
			at(3, a)
			at(4, netip.AddrPort{})

			p := plugtest.Probe{Own: listen(netip.AddrPortFrom(a.Addr(), 0))}
			// want sends a frame to a station, and wants it there.
			want := func(station int, there ...*net.UDPConn) {
				t.Helper()
				frame := plugtest.TestFrame(plugtest.Station(station), plugtest.Station(9), 60)
				plugtest.Send(t, c, frame)
				for _, conn := range there {
					p.Want(t, conn, withHeader(header, frame))
				}
			}
			want(3, connA)
			want(2, connB)
			want(8, connA, connB)

			// One leaves, one comes. The one that has left teaches nothing.
			e.SetRemotes([]netip.AddrPort{outside, b})
			at(1, netip.AddrPort{})
			at(2, b)
			at(3, netip.AddrPort{})
			hello(connOutside, 4)
			at(4, outside)
			want(1, connOutside, connB)
			if !a.Addr().Is6() { // there, both have the same address
				hello(connA, 1)
				at(1, netip.AddrPort{})
			}

			// Alone, and not.
			e.SetRemotes(nil)
			at(2, netip.AddrPort{})
			plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(9), 60))
			wantDrops(t, e, 0, 0)
			e.SetRemotes([]netip.AddrPort{b})
			want(8, connB)
		})
	}
}
