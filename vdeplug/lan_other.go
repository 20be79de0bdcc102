//go:build !linux || !(amd64 || arm64)

package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/vdestack/vdestack/internal/packet"
)

func openShared(context.Context, string) (packet.Transport, error) {
	return nil, fmt.Errorf("lan on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
