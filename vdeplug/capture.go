package vdeplug

import (
	"errors"
	"io"

	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/carrier"
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
	n := &captureConn{Conn: c, capture: capture.Open(w, name, "", nil)}
	n.packets, n.frames = packetsOf(c)
	return n
}

// A captureConn is a plug that is recorded.
type captureConn struct {
	Conn
	packets carrier.Conn
	frames  *carrier.Frames
	capture *capture.Interface
}

var (
	_ Conn         = (*captureConn)(nil)
	_ Dropper      = (*captureConn)(nil)
	_ carrier.Conn = (*captureConn)(nil)
)

func (c *captureConn) Recv(frame []byte) (int, error) {
	n, err := c.Conn.Recv(frame)
	if err == nil {
		c.capture.Frame(false, frame[:n])
	}
	return n, err
}

func (c *captureConn) Send(frame []byte) error {
	if sendable(frame) {
		c.capture.Frame(true, frame)
	}
	return c.Conn.Send(frame)
}

// RecvPackets is that of [carrier.Conn].
func (c *captureConn) RecvPackets(b *carrier.Buffer) ([]carrier.Packet, error) {
	packets, err := c.packets.RecvPackets(b)
	if err == nil {
		c.capture.Packets(false, packets)
	}
	return packets, err
}

// SendPackets is that of [carrier.Conn].
func (c *captureConn) SendPackets(packets []carrier.Packet) error {
	c.capture.Packets(true, packets)
	return c.packets.SendPackets(packets)
}

func (c *captureConn) unwrap() Conn { return c.Conn }

// Drops returns the counts of the plug.
func (c *captureConn) Drops() Drops { return innerDrops(Drops{}, c.Conn, c.frames) }

func (c *captureConn) Close() error { return errors.Join(c.Conn.Close(), c.capture.Close()) }
