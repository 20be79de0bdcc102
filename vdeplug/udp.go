package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name:  "udp",
		Open:  plugsOn(openUDP),
		Usage: Usage{Form: "udp://[ADDRESS:]PORT->HOST:PORT", About: "a cable over UDP, a frame in each packet"},
	})
}

// openUDP connects to one peer, with a frame in each UDP packet and no header. The body is
// [saddr:]sport->daddr:dport: where packets are received, and where they are sent.
func openUDP(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	local, peer, err := parseUDP(l.Body())
	if err != nil {
		return nil, err
	}
	return p2p.OpenUDP(ctx, local, peer)
}

// parseUDP splits a body. The port comes after the last colon, so that an IPv6
// address needs no brackets; it may have them. An empty source port is any.
func parseUDP(body string) (local, peer p2p.Endpoint, err error) {
	from, to, ok := strings.Cut(body, "->")
	if !ok {
		return local, peer, errors.New(`no "->" in the address (it is [saddr:]sport->daddr:dport)`)
	}
	local.Port = from
	if i := strings.LastIndexByte(from, ':'); i >= 0 {
		local = p2p.Endpoint{Host: from[:i], Port: from[i+1:]}
	}
	if i := strings.LastIndexByte(to, ':'); i >= 0 {
		peer = p2p.Endpoint{Host: to[:i], Port: to[i+1:]}
	}
	if peer.Host == "" || peer.Port == "" {
		return local, peer, fmt.Errorf("destination %q has no address or no port (it is daddr:dport)", to)
	}
	local.Host, peer.Host = unbracket(local.Host), unbracket(peer.Host)
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
