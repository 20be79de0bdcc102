//go:build !linux

package vdeplug

import (
	"errors"
	"fmt"
	"runtime"
)

func newVXVDE(Locator, vxvdeConfig) (Conn, error) {
	return nil, fmt.Errorf("vxvde on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
