//go:build !linux

package vdeplug

import (
	"errors"
	"fmt"
	"runtime"
)

func openTAP(Locator) (Conn, error) {
	return nil, fmt.Errorf("tap on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
