//go:build !linux

package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func init() {
	for _, scheme := range []string{"cmd", "macvtap", "pcap", "ptp", "seqpacket", "tap", "vdesl"} {
		Register(Scheme{
			Name: scheme,
			Open: func(context.Context, Locator, *Options) (Conn, error) {
				return nil, fmt.Errorf("%s on %s: %w", scheme, runtime.GOOS, errors.ErrUnsupported)
			},
		})
	}
}
