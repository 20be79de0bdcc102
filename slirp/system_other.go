//go:build !linux

package slirp

import (
	"errors"
	"net"
	"net/netip"
)

const nonblock = 0

func descriptors() int { return 1024 }

func sendNow(c *net.UDPConn, data []byte, to netip.AddrPort) { c.WriteToUDPAddrPort(data, to) }

func listenPing(bool) (*net.UDPConn, error) { return nil, errors.ErrUnsupported }

func startCommand([]string) (stream, error) { return nil, errors.ErrUnsupported }
