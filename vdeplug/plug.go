package vdeplug

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
)

// A plug is the [Conn] on a transport. It cuts packets into frames for Recv, names
// the network in errors, and closes the transport once.
type plug struct {
	vnl       string // empty: errors name it already
	transport packet.Transport
	reader    packet.FrameReader
	counters  packet.Counters // of frames that Recv does not return

	// The errors of receiving and of sending are final: later calls return the same.
	recvErr, sendErr atomic.Pointer[Error]

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

var (
	_ Conn             = (*plug)(nil)
	_ Dropper          = (*plug)(nil)
	_ packet.Transport = (*plug)(nil)
)

// newPlug takes over a transport. vnl names the network in errors.
func newPlug(vnl string, t packet.Transport) Conn {
	p := &plug{vnl: vnl, transport: t}
	if l, ok := packet.Find[Linker](t); ok {
		return &linkedPlug{p, l}
	}
	return p
}

// A linkedPlug is a plug whose transport knows whether its network is there.
type linkedPlug struct {
	*plug
	Linker
}

// final returns what calls report of an error of the transport.
func (p *plug) final(op string, first *atomic.Pointer[Error], err error) error {
	switch {
	case err == nil:
		return nil
	case err == net.ErrClosed, p.closing.Load():
		return net.ErrClosed
	}
	e, ok := err.(*Error)
	switch {
	case !ok:
		e = &Error{op, p.vnl, err}
	case p.vnl != "" && e.VNL != p.vnl: // the locator of an inner network is part of this one
		e = &Error{op, p.vnl, e.Err}
	}
	first.CompareAndSwap(nil, e)
	return first.Load()
}

// RecvPackets implements [packet.Transport].
func (p *plug) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	packets, err := p.transport.RecvPackets(b)
	if err != nil {
		return nil, p.final("recv", &p.recvErr, err)
	}
	return packets, nil
}

// SendPackets implements [packet.Transport].
func (p *plug) SendPackets(packets []packet.Packet, wait bool) error {
	if p.closing.Load() {
		return net.ErrClosed
	}
	return p.final("send", &p.sendErr, p.transport.SendPackets(packets, wait))
}

func (p *plug) Recv(frame []byte) (int, error) {
	return p.reader.Recv(p, &p.counters, &p.closing, frame)
}

func (p *plug) Send(frame []byte) error {
	single := singles.Get().(*[1]packet.Packet)
	single[0] = packet.Packet{Data: frame}
	err := p.SendPackets(single[:], false)
	single[0] = packet.Packet{}
	singles.Put(single)
	return err
}

// singles are the batches of Send.
var singles = sync.Pool{New: func() any { return new([1]packet.Packet) }}

// Drops returns the counts of the plug and of those below it.
func (p *plug) Drops() Drops {
	recv, send := p.Dropped()
	return Drops{Recv: recv, Send: send}
}

// Dropped returns the same to transports above.
func (p *plug) Dropped() (recv, send uint64) {
	recv, send = p.counters.Dropped()
	r, s := packet.Dropped(p.transport)
	return recv + r, send + s
}

// Below returns the transport, to [packet.Find].
func (p *plug) Below() packet.Transport { return p.transport }

func (p *plug) Close() error {
	p.closeOnce.Do(func() {
		p.closing.Store(true)
		p.closeErr = p.transport.Close()
	})
	return p.closeErr
}

// transportOf returns c as a transport: of a Conn from elsewhere, frame by frame.
func transportOf(c Conn) packet.Transport {
	if t, ok := c.(packet.Transport); ok {
		return t
	}
	return &foreignConn{packet.NewFrames(c, ether.MaxFrame), c}
}

// A foreignConn is a Conn that is not one of this package, as a transport.
type foreignConn struct {
	*packet.Frames
	conn Conn
}

// Dropped returns the counts of both.
func (f *foreignConn) Dropped() (recv, send uint64) {
	recv, send = f.Frames.Dropped()
	if d, ok := f.conn.(Dropper); ok {
		more := d.Drops()
		recv, send = recv+more.Recv, send+more.Send
	}
	return recv, send
}

// Link returns that of the Conn.
func (f *foreignConn) Link() (link Link) {
	if l, ok := f.conn.(Linker); ok {
		link = l.Link()
	}
	return link
}
