//go:build !linux

package p2p

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/vdestack/vdestack/internal/packet"
)

func dialUDP(netip.AddrPort, netip.AddrPort) (packet.Transport, error) {
	return nil, fmt.Errorf("udp on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
