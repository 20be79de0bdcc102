package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vdestack/vdestack/internal/packet"
)

// OpenUDP opens a cable over UDP from local to peer.
func OpenUDP(ctx context.Context, local, peer Endpoint) (packet.Transport, error) {
	pairs, err := resolveUDP(ctx, local, peer)
	if err != nil {
		return nil, err
	}
	// Use the first pair that works on this host.
	for _, pair := range pairs {
		c, dialErr := dialUDP(pair.local, pair.peer)
		if dialErr == nil {
			return c, nil
		}
		err = errors.Join(err, dialErr)
	}
	return nil, err
}

// An Endpoint is an address as the user writes it. An empty host means any address, an empty
// port any port. Both may be names.
type Endpoint struct{ Host, Port string }

// A udpPair has the addresses of both ends, of one family.
type udpPair struct{ local, peer netip.AddrPort }

// resolveUDP resolves both ends, and returns the pairs of addresses in the order in which
// to try them.
func resolveUDP(ctx context.Context, local, peer Endpoint) ([]udpPair, error) {
	localPort, err := udpPort(ctx, local.Port)
	if err != nil {
		return nil, fmt.Errorf("source port %q: %w", local.Port, err)
	}
	peerPort, err := udpPort(ctx, peer.Port)
	if err != nil {
		return nil, fmt.Errorf("destination port %q: %w", peer.Port, err)
	}
	if peerPort == 0 {
		return nil, fmt.Errorf("destination port %q: nothing can be sent there", peer.Port)
	}
	peers, err := udpHost(ctx, peer.Host)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", peer.Host, err)
	}
	locals := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if local.Host != "" {
		if locals, err = udpHost(ctx, local.Host); err != nil {
			return nil, fmt.Errorf("source %q: %w", local.Host, err)
		}
	}
	var pairs []udpPair
	for _, to := range peers {
		for _, from := range locals {
			if to.Unmap().Is4() == from.Unmap().Is4() {
				pairs = append(pairs, udpPair{netip.AddrPortFrom(from.Unmap(), localPort), netip.AddrPortFrom(to.Unmap(), peerPort)})
				break
			}
		}
	}
	if pairs == nil {
		return nil, fmt.Errorf("source %q and destination %q: one is IPv4, the other IPv6", local.Host, peer.Host)
	}
	return pairs, nil
}

func udpHost(ctx context.Context, host string) ([]netip.Addr, error) {
	// The resolver would lose the zone.
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func udpPort(ctx context.Context, port string) (uint16, error) {
	if port == "" {
		return 0, nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	return uint16(n), err
}
