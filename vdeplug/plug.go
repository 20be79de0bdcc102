package vdeplug

import (
	"context"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/packet"
)

// A plug is the [Conn] on a transport. It names the network in errors.
type plug struct {
	*packet.Conn
	vnl string // empty: errors name it already

	// The errors of receiving and of sending are final: later calls return the same.
	recvErr, sendErr atomic.Pointer[Error]
}

var (
	_ Conn             = (*plug)(nil)
	_ Dropper          = (*plug)(nil)
	_ packet.Transport = (*plug)(nil)
)

// newPlug takes over a transport. vnl names the network in errors.
func newPlug(vnl string, t packet.Transport) Conn {
	p := &plug{vnl: vnl}
	p.Conn = packet.NewConn(t, p.explain)
	if l, ok := packet.Find[Linker](t); ok {
		return &linkedPlug{p, l}
	}
	return p
}

// plugsOn returns the Open of a scheme whose plugs are on transports that open returns.
func plugsOn(open func(context.Context, Locator, *Options) (packet.Transport, error)) OpenFunc {
	return func(ctx context.Context, l Locator, o *Options) (Conn, error) {
		t, err := open(ctx, l, o)
		if err != nil {
			return nil, err
		}
		return newPlug(l.String(), t), nil
	}
}

// A linkedPlug is a plug whose transport knows whether its network is there.
type linkedPlug struct {
	*plug
	Linker
}

// explain returns what calls report for an error of the transport.
func (p *plug) explain(op string, err error) error {
	e, ok := err.(*Error)
	switch {
	case !ok:
		e = &Error{op, p.vnl, err}
	case p.vnl != "" && e.VNL != p.vnl: // the locator of an inner network is part of this one
		e = &Error{op, p.vnl, e.Err}
	}
	first := &p.recvErr
	if op == "send" {
		first = &p.sendErr
	}
	first.CompareAndSwap(nil, e)
	return first.Load()
}

// Drops returns the counts of the plug and of those below it.
func (p *plug) Drops() Drops {
	recv, send := p.Dropped()
	return Drops{Recv: recv, Send: send}
}

// transportOf returns c as a transport.
func transportOf(c Conn) packet.Transport { return packet.Of[Drops](c, MaxFrame) }
