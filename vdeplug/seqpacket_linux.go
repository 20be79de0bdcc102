package vdeplug

import (
	"context"
	"fmt"
	"strconv"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name:  "seqpacket",
		Open:  plugsOn(openSeqpacket),
		Usage: Usage{Form: "seqpacket://FD", About: "a connected SEQPACKET socket that the process has"},
	})
}

// openSeqpacket takes over a connected SEQPACKET socket, a frame in each packet, such as
// one end of a pair that the process was started with. The network ends when the other end
// is closed.
func openSeqpacket(_ context.Context, l Locator, _ *Options) (packet.Transport, error) {
	fd, err := strconv.Atoi(l.Body())
	if err != nil || fd < 0 {
		return nil, fmt.Errorf("%q: must be the number of a descriptor", l.Body())
	}
	c, err := p2p.OpenSeqpacket(fd)
	if err != nil {
		return nil, err
	}
	return onceSeqpacket{c}, nil
}

// A onceSeqpacket is a connection that cannot be opened again: its descriptor may be
// another file by then. Its errors say so, also through plugs of other packages.
type onceSeqpacket struct{ *p2p.Seqpacket }

// RecvPackets implements [packet.Transport].
func (c onceSeqpacket) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	packets, err := c.Seqpacket.RecvPackets(b)
	return packets, final(err)
}

// SendPackets implements [packet.Transport].
func (c onceSeqpacket) SendPackets(packets []packet.Packet, wait bool) error {
	return final(c.Seqpacket.SendPackets(packets, wait))
}
