//go:build !linux

package sockets

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// There are no stacks on this system, and nothing calls the functions below, but Close.

func List(Maker) ([]Socket, error) { return nil, errors.ErrUnsupported }

func NewIP(Maker, string, int, netip.Addr, netip.Addr, ControlFunc) (*net.IPConn, error) {
	return nil, errors.ErrUnsupported
}

func Begin(context.Context, Stack, string) (*net.TCPConn, *os.File) { return nil, nil }

func JoinGroup(*net.UDPConn, netip.Addr, []int) error { return errors.ErrUnsupported }

func Close(c io.Closer) error { return c.Close() }

func Transparent(syscall.RawConn, bool) error { return errors.ErrUnsupported }
