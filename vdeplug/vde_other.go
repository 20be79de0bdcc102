//go:build !linux

package vdeplug

import (
	"context"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
)

func dialVDE(context.Context, vdeConfig, []string) (packet.Transport, error) {
	return nil, unsupported("vde")
}

func openServer(_ context.Context, cfg switchConfig) (*fabric.LocalPort, error) {
	return nil, unsupported(string(cfg.kind))
}
