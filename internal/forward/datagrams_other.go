//go:build !linux

package forward

import (
	"errors"
	"net"
)

// Datagrams needs Linux.
type Datagrams struct{}

func NewDatagrams(*net.UDPConn, Config) (*Datagrams, error) { return nil, errors.ErrUnsupported }

func (*Datagrams) Addr() net.Addr { return nil }
func (*Datagrams) Stats() Stats   { return Stats{} }
func (*Datagrams) Close() error   { return nil }
