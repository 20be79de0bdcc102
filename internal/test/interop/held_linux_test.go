package interop

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A heldConn is a connection to an echo server, which is in use while networks end
// and return.
type heldConn struct {
	net.Conn
	parts   chan struct{} // to be sent
	pending int           // what has not come back of them
	failed  chan error
}

func hold(t *testing.T, s *vdestack.Stack, addr string) *heldConn {
	t.Helper()
	conn, err := dial(s, addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &heldConn{Conn: conn, parts: make(chan struct{}, 8), failed: make(chan error, 1)}
	go func() {
		for range c.parts {
			if _, err := c.Write(payload()); err != nil {
				c.failed <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(c.parts)
		c.Close()
	})
	return c
}

// begin sends a part, after those before, and waits for nothing.
func (c *heldConn) begin() {
	c.pending++
	c.parts <- struct{}{}
}

// complete wants all parts back.
func (c *heldConn) complete(t *testing.T) {
	t.Helper()
	want := bytes.Repeat(payload(), c.pending)
	got := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(2 * testenv.Timeout))
	n, err := io.ReadFull(c, got)
	select {
	case serr := <-c.failed:
		t.Fatalf("%v: not all was sent: %v", c.RemoteAddr(), serr)
	default:
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v: %d bytes of %d have come back, or not the same: %v", c.RemoteAddr(), n, len(want), err)
	}
	c.pending = 0
}
