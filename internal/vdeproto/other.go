//go:build !linux

package vdeproto

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
)

// Dial returns an error: clients are for Linux.
func Dial(context.Context, Config, []string) (packet.Transport, error) {
	return nil, unsupported("vde")
}

// OpenSwitch returns an error: switches are for Linux.
func OpenSwitch(_ context.Context, cfg SwitchConfig) (*fabric.LocalPort, error) {
	return nil, unsupported(string(cfg.Kind))
}

// Stats returns nothing.
func Stats() map[string]fabric.Stats { return nil }

func unsupported(scheme string) error {
	return fmt.Errorf("%s on %s: %w", scheme, runtime.GOOS, errors.ErrUnsupported)
}
