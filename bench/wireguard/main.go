//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack/bench/internal/worker"
	"github.com/vdestack/vdestack/wireguard"
)

// A tunnel is a stack that has nothing but a tunnel.
type tunnel interface {
	Listen(a netip.AddrPort) (net.Listener, error)
	Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error)
	Close() error
}

// contestants make tunnels from the same configurations.
var contestants = map[string]func(wireguard.Config) (tunnel, error){
	"tun":      openTUN,
	"netstack": openNetstack,
}

func main() {
	var name string
	if len(os.Args) == 2 {
		name = os.Args[1]
	}
	open := contestants[name]
	if open == nil {
		fmt.Fprintln(os.Stderr, "usage: wireguard tun|netstack")
		os.Exit(2)
	}
	c := worker.Contestant{
		Pair: func(mtu int, _, _ string) (worker.Pair, error) { return openPair(open, mtu) },
		Open: func(string, int) (worker.Stack, error) { return openMember(open) },
	}
	if err := c.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "wireguard:", err)
		os.Exit(1)
	}
}

const (
	// overhead is what a tunnel adds to a packet: IPv6, UDP, and WireGuard's header and tag.
	overhead = 40 + 8 + 32
	// firstPort is where the first tunnel of a pair listens. The namespace is private: it is
	// free.
	firstPort = 51820
)

// The addresses of the two tunnels of a pair.
var (
	firstAddr  = netip.MustParsePrefix("10.77.0.1/32")
	secondAddr = netip.MustParsePrefix("10.77.0.2/32")
)

// endpoint is the first tunnel of a pair for the second.
var endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), firstPort)

// A pair is two tunnels to each other.
type pair struct{ first, second tunnel }

// openPair makes tunnels whose encrypted packets have at most mtu bytes.
func openPair(open func(wireguard.Config) (tunnel, error), mtu int) (worker.Pair, error) {
	near, far := wireguard.NewKey(), wireguard.NewKey()
	first, err := open(wireguard.Config{
		PrivateKey: near, ListenPort: firstPort, Addrs: []netip.Prefix{firstAddr}, MTU: mtu - overhead,
		Peers: []wireguard.Peer{{PublicKey: far.Public(), AllowedIPs: []netip.Prefix{secondAddr}}},
	})
	if err != nil {
		return nil, err
	}
	second, err := open(wireguard.Config{
		PrivateKey: far, Addrs: []netip.Prefix{secondAddr}, MTU: mtu - overhead,
		Peers: []wireguard.Peer{{PublicKey: near.Public(), AllowedIPs: []netip.Prefix{firstAddr}, Endpoint: endpoint.String()}},
	})
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return &pair{first, second}, nil
}

func (p *pair) Listen(port int) (net.Listener, error) {
	return p.first.Listen(netip.AddrPortFrom(firstAddr.Addr(), uint16(port)))
}

func (p *pair) Dial(ctx context.Context, port int) (net.Conn, error) {
	return p.second.Dial(ctx, netip.AddrPortFrom(firstAddr.Addr(), uint16(port)))
}

func (p *pair) Close() error { return errors.Join(p.second.Close(), p.first.Close()) }

// A member is a tunnel that is one of many.
type member struct{ tunnel }

func openMember(open func(wireguard.Config) (tunnel, error)) (worker.Stack, error) {
	t, err := open(wireguard.Config{
		PrivateKey: wireguard.NewKey(), Addrs: []netip.Prefix{secondAddr}, MTU: 1500 - overhead,
		Peers: []wireguard.Peer{{PublicKey: wireguard.NewKey().Public(), AllowedIPs: []netip.Prefix{firstAddr}, Endpoint: endpoint.String()}},
	})
	return &member{t}, err
}

func (m *member) Socket() (io.Closer, error) { return m.Listen() }

func (m *member) Listen() (net.Listener, error) {
	return m.tunnel.Listen(netip.AddrPortFrom(secondAddr.Addr(), 0))
}

func (m *member) Dial(ctx context.Context, address string) (net.Conn, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return m.tunnel.Dial(ctx, a)
}
