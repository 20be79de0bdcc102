//go:build !linux

package rtnl

import (
	"errors"
	"fmt"
	"runtime"
)

// openSocket reports that rtnetlink is a part of Linux.
func openSocket(SocketMaker, uint32) (transport, error) {
	return nil, fmt.Errorf("netlink needs Linux, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func linkEcho(transport) bool { return false }
