//go:build !linux

package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func init() {
	for _, scheme := range []string{"cmd"} {
		Register(scheme, func(context.Context, Locator, *Options) (Conn, error) {
			return nil, fmt.Errorf("%s networks need Linux, this is %s: %w", scheme, runtime.GOOS, errors.ErrUnsupported)
		})
	}
}
