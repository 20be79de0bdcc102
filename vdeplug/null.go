package vdeplug

import (
	"context"
	"net"
	"sync"
)

func init() {
	Register("null", openNull)
	Describe("null", Usage{Form: "null://", About: "no network: all frames are dropped"})
}

// openNull connects to a network that drops, and counts, every frame. The body
// is ignored.
func openNull(context.Context, Locator, *Options) (Conn, error) {
	return &nullConn{closed: make(chan struct{})}, nil
}

type nullConn struct {
	dropCounter
	closing sync.Once
	closed  chan struct{}
}

var (
	_ Conn    = (*nullConn)(nil)
	_ Dropper = (*nullConn)(nil)
)

func (c *nullConn) Recv([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *nullConn) Send([]byte) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		c.droppedSend.Add(1)
		return nil
	}
}

func (c *nullConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return nil
}
