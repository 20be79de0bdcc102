package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

func init() {
	Register("udp", openUDP)
	Describe("udp", Usage{Form: "udp://[ADDRESS:]PORT->HOST:PORT", About: "a cable over UDP, a frame in each packet"})
}

// openUDP connects to one peer, a frame in each UDP packet without any header.
// The body is [saddr:]sport->daddr:dport: where packets are received, and
// where they are sent to.
func openUDP(ctx context.Context, l Locator, _ *Options) (Conn, error) {
	local, peer, err := parseUDP(l.Body())
	if err != nil {
		return nil, err
	}
	pairs, err := resolveUDP(ctx, local, peer)
	if err != nil {
		return nil, err
	}
	// The first pair that this host can use; its error tells the most.
	for _, pair := range pairs {
		c, dialErr := dialUDP(l.String(), pair.local, pair.peer)
		if dialErr == nil {
			return c, nil
		}
		err = errors.Join(err, dialErr)
	}
	return nil, err
}

// A udpEnd is an address as it is written.
type udpEnd struct{ host, port string }

// parseUDP splits a body. The port comes after the last colon, so that an IPv6
// address needs no brackets; it may have them. An empty source port is any.
func parseUDP(body string) (local, peer udpEnd, err error) {
	from, to, ok := strings.Cut(body, "->")
	if !ok {
		return local, peer, errors.New(`no "->" in the address (it is [saddr:]sport->daddr:dport)`)
	}
	local.port = from
	if i := strings.LastIndexByte(from, ':'); i >= 0 {
		local = udpEnd{from[:i], from[i+1:]}
	}
	if i := strings.LastIndexByte(to, ':'); i >= 0 {
		peer = udpEnd{to[:i], to[i+1:]}
	}
	if peer.host == "" || peer.port == "" {
		return local, peer, fmt.Errorf("destination %q has no address or no port (it is daddr:dport)", to)
	}
	local.host, peer.host = unbracket(local.host), unbracket(peer.host)
	return local, peer, nil
}

func unbracket(host string) string {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if inner, ok := strings.CutSuffix(inner, "]"); ok {
			return inner
		}
	}
	return host
}

// A udpPair is the resolved addresses of both ends, of one family.
type udpPair struct{ local, peer netip.AddrPort }

// resolveUDP finds the addresses that the names of both ends stand for, in the
// order in which they are to be tried.
func resolveUDP(ctx context.Context, local, peer udpEnd) ([]udpPair, error) {
	localPort, err := udpPort(ctx, local.port)
	if err != nil {
		return nil, fmt.Errorf("source port %q: %w", local.port, err)
	}
	peerPort, err := udpPort(ctx, peer.port)
	if err != nil {
		return nil, fmt.Errorf("destination port %q: %w", peer.port, err)
	}
	if peerPort == 0 {
		return nil, fmt.Errorf("destination port %q: nothing can be sent there", peer.port)
	}
	peers, err := udpHost(ctx, peer.host)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", peer.host, err)
	}
	locals := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if local.host != "" {
		if locals, err = udpHost(ctx, local.host); err != nil {
			return nil, fmt.Errorf("source %q: %w", local.host, err)
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
		return nil, fmt.Errorf("source %q and destination %q: one is IPv4, the other IPv6", local.host, peer.host)
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
