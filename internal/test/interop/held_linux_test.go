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

// A heldConn is a connection to an echo server that is in use while networks end and
// return.
type heldConn struct {
	net.Conn
	parts   chan struct{} // to be sent
	pending int           // how many have not come back
	failed  chan error
}

func hold(t *testing.T, s *vdestack.Stack, addr string) *heldConn {
	t.Helper()
	conn := testenv.Must(dial(s, addr))(t)
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

// begin sends another part, and does not wait.
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
		t.Fatalf("%v: a part was not sent: %v", c.RemoteAddr(), serr)
	default:
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v: %d bytes of %d have come back, or not the same: %v", c.RemoteAddr(), n, len(want), err)
	}
	c.pending = 0
}
