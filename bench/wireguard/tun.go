//go:build linux

package main

import (
	"context"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack/wireguard"
)

// A tun is a tunnel of module wireguard.
type tun struct{ *wireguard.Tunnel }

func openTUN(c wireguard.Config) (tunnel, error) {
	t, err := wireguard.Open(context.Background(), c)
	if err != nil {
		return nil, err
	}
	return tun{t}, nil
}

func (t tun) Listen(a netip.AddrPort) (net.Listener, error) {
	return t.Stack().Listen("tcp4", a.String())
}

func (t tun) Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return t.Stack().DialContext(ctx, "tcp4", a.String())
}
