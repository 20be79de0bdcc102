//go:build !linux

package sockets

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
)

// There are no stacks on this system, and nothing calls the functions below, but Close.

func List(Maker) ([]Socket, error) { return nil, errors.ErrUnsupported }

func NewIP(Maker, string, int, netip.Addr, netip.Addr, ControlFunc) (*net.IPConn, error) {
	return nil, errors.ErrUnsupported
}

func JoinGroup(*net.UDPConn, netip.Addr, []int) error { return errors.ErrUnsupported }

func Close(c io.Closer) error { return c.Close() }

func Transparent(syscall.RawConn, bool) error { return errors.ErrUnsupported }
