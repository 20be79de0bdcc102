//go:build !linux

package wireguard

import (
	"errors"
	"syscall"
)

func socketMTU(syscall.Conn, bool) (int, error) { return 0, errors.ErrUnsupported }
