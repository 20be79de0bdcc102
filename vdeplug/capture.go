package vdeplug

import (
	"errors"
	"io"

	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/packet"
)

// Capture returns a plug that records all frames of c in the format pcapng, as an
// interface of this name.
//
//   - Frames that the plug sends are outbound. They are recorded as they were sent, whether
//     the network takes them or not.
//   - Plugs and interfaces of stacks that record to the same writer are interfaces of one
//     section, if writers can be compared.
//   - A frame never waits for w. When more than 16 MiB wait for w, frames are not recorded,
//     but counted in the file.
//   - An error or a panic of w ends the recording, and nothing else. [io.EOF] says that w has
//     enough, and is no error.
//
// The new plug takes over c. Its Close closes c, and waits until w has taken what was
// recorded, unless others record to w, or w takes nothing for five seconds. It returns
// the error of w, which stays open.
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
