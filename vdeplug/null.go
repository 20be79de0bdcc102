package vdeplug

import (
	"context"
	"net"

	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name:  "null",
		Open:  plugsOn(openNull),
		Usage: Usage{Form: "null://", About: "no network: all frames are dropped"},
	})
}

// openNull connects to a network that drops and counts every frame. The body is ignored.
func openNull(context.Context, Locator, *Options) (packet.Transport, error) {
	return &nullConn{closed: make(chan struct{})}, nil
}

type nullConn struct {
	packet.Counters
	closed chan struct{}
}

var _ packet.Transport = (*nullConn)(nil)

// RecvPackets implements [packet.Transport].
func (c *nullConn) RecvPackets(*packet.Buffer) ([]packet.Packet, error) {
	<-c.closed
	return nil, net.ErrClosed
}

// SendPackets implements [packet.Transport].
func (c *nullConn) SendPackets(packets []packet.Packet, _ bool) error {
	c.DropPackets(packets)
	return nil
}

func (c *nullConn) Close() error {
	close(c.closed)
	return nil
}
