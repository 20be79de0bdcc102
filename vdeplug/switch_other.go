//go:build !linux

package vdeplug

import (
	"context"

	"github.com/vdestack/vdestack/internal/fabric"
)

func openServer(_ context.Context, cfg switchConfig) (*fabric.LocalPort, error) {
	return nil, unsupported(string(cfg.kind))
}
