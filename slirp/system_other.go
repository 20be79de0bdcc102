//go:build !linux

package slirp

import (
	"errors"
	"net"
	"net/netip"
)

const nonblock = 0

func descriptors() int { return 1024 }

func sendNow(c *net.UDPConn, data []byte, to netip.AddrPort) error {
	_, err := c.WriteToUDPAddrPort(data, to)
	return err
}

func listenPing(bool) (*net.UDPConn, error) { return nil, errors.ErrUnsupported }

func refuseRights(uintptr) {}

func isReset(stream) bool { return false }

func untilReset(stream) bool { return false }

func startCommand([]string) (stream, error) { return nil, errors.ErrUnsupported }
