package vdestack

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestEmbedded sees that no method of net.Dialer or net.ListenConfig that makes a
// socket is reached through ours, which have them embedded: it would make the
// socket on the host.
func TestEmbedded(t *testing.T) {
	own := []string{"Dial", "DialContext", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Listen", "ListenPacket"}
	harmless := []string{"MultipathTCP", "SetMultipathTCP"}
	for _, typ := range []reflect.Type{reflect.TypeFor[*net.Dialer](), reflect.TypeFor[*net.ListenConfig]()} {
		for i := range typ.NumMethod() {
			if name := typ.Method(i).Name; !slices.Contains(own, name) && !slices.Contains(harmless, name) {
				t.Errorf("%v has the method %s, which is unknown here: if it makes a socket, ours must have it", typ, name)
			}
		}
	}
}

// TestDialTyped connects by the methods of a Dialer that return types of package
// net, and by their wrong use.
func TestDialTyped(t *testing.T) {
	a, b := pair(t)
	ctx := context.Background()
	testenv.Listen(t, a, "tcp", ":7000")
	testenv.ListenPacket(t, a, "udp", ":7000")
	path := filepath.Join(t.TempDir(), "unix")
	testenv.Listen(t, a, "unix", path)

	d := &Dialer{Stack: b, Dialer: net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(1, 2, 3, 4)}}} // which is not used
	remote, local := netip.MustParseAddrPort("10.0.0.1:7000"), netip.MustParseAddrPort("10.0.0.2:0")
	tests := []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"TCP", func() (net.Conn, error) { return d.DialTCP(ctx, "tcp", netip.AddrPort{}, remote) }},
		{"TCP from", func() (net.Conn, error) { return d.DialTCP(ctx, "tcp4", local, remote) }},
		{"UDP", func() (net.Conn, error) { return d.DialUDP(ctx, "udp", netip.AddrPort{}, remote) }},
		{"UDP from", func() (net.Conn, error) { return d.DialUDP(ctx, "udp4", local, remote) }},
		{"IP", func() (net.Conn, error) { return d.DialIP(ctx, "ip4:icmp", local.Addr(), remote.Addr()) }},
		{"unix", func() (net.Conn, error) { return d.DialUnix(ctx, "unix", nil, &net.UnixAddr{Name: path, Net: "unix"}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testenv.Opened(tt.dial())(t)
			checkIn(t, b, c)
		})
	}

	for _, network := range []string{"udp", "unix", ""} {
		if c, err := d.DialTCP(ctx, network, netip.AddrPort{}, remote); err == nil {
			t.Errorf("DialTCP on the network %q: got %v, want an error", network, c.LocalAddr())
		}
	}
	if _, err := d.DialUnix(ctx, "unix", nil, nil); err == nil {
		t.Error("DialUnix without an address: no error")
	}
	if _, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("DialTCP without an address: no error")
	}
}
