//go:build !linux

package vdeplug

import "context"

func openServer(_ context.Context, cfg switchConfig) (*memPort, error) {
	return nil, unsupported(string(cfg.kind))
}
