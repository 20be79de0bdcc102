//go:build !linux

package link

import (
	"net"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/source"
)

// New is not called: there are no stacks on this system.
func New(*vdestack.Stack, string, int, net.HardwareAddr) source.Link { return nil }
