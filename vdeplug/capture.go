package vdeplug

import (
	"errors"
	"io"

	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/packet"
)

// Capture returns a plug that records all frames of c in the format pcapng, as an
// interface of this name. Those that were sent are outbound; they are recorded as
// they were handed over, whether the network takes them or not. Plugs, and
// interfaces of stacks, that have the same writer, if it can be compared, are
// interfaces of one section.
//
// A frame never waits for w. What w does not take in time, while 16 MiB wait, is not
// recorded, but counted in the file. An error of w, as which a panic
// counts, ends the recording, and nothing else.
//
// The new plug takes c over. Its Close closes c, and waits until w has taken what
// was recorded, unless others record to w, or w takes nothing for five seconds. It
// returns the error of w, which stays open.
func Capture(c Conn, w io.Writer, name string) Conn {
	return newPlug("", &captureConn{packet.Layer{Inner: transportOf(c)}, capture.Open(w, name, "", nil)})
}

// A captureConn is a transport that is recorded.
type captureConn struct {
	packet.Layer
	capture *capture.Interface
}

var _ packet.Transport = (*captureConn)(nil)

// RecvPackets implements [packet.Transport].
func (c *captureConn) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	packets, err := c.Inner.RecvPackets(b)
	if err == nil {
		c.capture.Packets(false, packets)
	}
	return packets, err
}

// SendPackets implements [packet.Transport].
func (c *captureConn) SendPackets(packets []packet.Packet, wait bool) error {
	c.capture.Packets(true, packets)
	return c.Inner.SendPackets(packets, wait)
}

func (c *captureConn) Close() error { return errors.Join(c.Inner.Close(), c.capture.Close()) }
