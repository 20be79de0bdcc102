//go:build !linux

package vdeplug

import (
	"errors"
	"fmt"
	"runtime"
)

func newVXVDE(l Locator, _ vxvdeConfig) (Conn, error) {
	return nil, fmt.Errorf("%s on %s: %w", l.Scheme(), runtime.GOOS, errors.ErrUnsupported)
}
