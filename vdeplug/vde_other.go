//go:build !linux

package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func dialVDE(context.Context, Locator, vdeConfig, *Options) (Conn, error) {
	return nil, fmt.Errorf("vde on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
