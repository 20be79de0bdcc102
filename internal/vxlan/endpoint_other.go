//go:build !linux

package vxlan

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vdestack/vdestack/internal/packet"
)

// Open returns an error: endpoints are for Linux.
func Open(cfg Config) (packet.Transport, error) {
	return nil, fmt.Errorf("%s on %s: %w", cfg.scheme(), runtime.GOOS, errors.ErrUnsupported)
}
