//go:build !linux

package vxlan

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vdestack/vdestack/internal/packet"
)

// openEndpoint reports that the system is not supported.
func Open(cfg Config) (packet.Transport, error) {
	return nil, fmt.Errorf("%s on %s: %w", cfg.scheme(), runtime.GOOS, errors.ErrUnsupported)
}
