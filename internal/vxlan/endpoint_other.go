//go:build !linux

package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/vdestack/vdestack/internal/packet"
)

// An Endpoint is a member of a network, on Linux.
type Endpoint struct{ packet.Transport }

// SetRemotes does nothing.
func (e *Endpoint) SetRemotes([]netip.AddrPort) {}

// Open returns an error: endpoints are for Linux.
func Open(cfg Config) (*Endpoint, error) {
	return nil, fmt.Errorf("%s on %s: %w", cfg.scheme(), runtime.GOOS, errors.ErrUnsupported)
}
