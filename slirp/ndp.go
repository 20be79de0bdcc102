package slirp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// routerAddr is the link-local address of the router.
var routerAddr = netip.MustParseAddr("fe80::2")

var allNodes = netip.IPv6LinkLocalAllNodes()

// Times in router advertisements, as in those of the C library.
const (
	routerLifetime    = 1800 * time.Second
	prefixValid       = 86400 * time.Second
	prefixPreferred   = 14400 * time.Second
	advertiseInterval = routerLifetime / 4
)

// advertiseAlways sends router advertisements until the plug is closed.
func (n *nat) advertiseAlways() {
	t := time.NewTicker(advertiseInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
			n.advertise()
		}
	}
}

// advertise sends a router advertisement to all (RFC 4861, 4.2).
func (n *nat) advertise() {
	msg := n.advertisement()
	n.writeICMP(routerAddr, allNodes, header.NDPHopLimit, [icmpHeaderLen]byte(msg), msg[icmpHeaderLen:])
}

// advertisement returns the message without its checksum.
func (n *nat) advertisement() []byte {
	cfg := n.cfg
	lifetime := uint16(routerLifetime / time.Second)
	if cfg.restricted {
		lifetime = 0 // an address, but no way out
	}
	b := []byte{byte(header.ICMPv6RouterAdvert), 0, 0, 0, 64, 0}
	b = binary.BigEndian.AppendUint16(b, lifetime)
	b = append(b, make([]byte, 8)...) // reachable and retransmission time: unspecified

	b = append(b, 1, 1) // the source's link-layer address
	b = append(b, n.mac...)

	const onLink, auto = 0x80, 0x40
	flags := byte(onLink)
	if cfg.host6.Bits() == 64 {
		flags |= auto // addresses are made only of such prefixes
	}
	b = append(b, 3, 4, byte(cfg.host6.Bits()), flags)
	b = binary.BigEndian.AppendUint32(b, uint32(prefixValid/time.Second))
	b = binary.BigEndian.AppendUint32(b, uint32(prefixPreferred/time.Second))
	b = append(b, 0, 0, 0, 0)
	b = append(b, cfg.host6.Masked().Addr().AsSlice()...)

	if cfg.restricted {
		return b
	}
	b = append(b, 25, 3, 0, 0) // RFC 8106
	b = binary.BigEndian.AppendUint32(b, uint32(routerLifetime/time.Second))
	return append(b, cfg.dns6.AsSlice()...)
}
