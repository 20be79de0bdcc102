package vdeplug

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
)

// A plugOn is a plug with its transport.
type plugOn[T packet.Transport] struct {
	*plug
	on T
}

// isOn reports whether the transport of a plug is a T.
func isOn[T packet.Transport](c Conn) (p plugOn[T], ok bool) {
	switch c := c.(type) {
	case plugOn[T]:
		return c, true
	case *linkedPlug:
		p.plug = c.plug
	case *plug:
		p.plug = c
	default:
		return p, false
	}
	p.on, ok = p.transport.(T)
	return p, ok
}

// on is isOn for a plug of which that is known.
func on[T packet.Transport](c Conn) plugOn[T] {
	p, ok := isOn[T](c)
	if !ok {
		panic(fmt.Sprintf("%T is another plug", c))
	}
	return p
}

// openInbox opens a plug for the time of the test.
func openInbox(t *testing.T, vnl string) *plugtest.Inbox {
	t.Helper()
	c, err := Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plugtest.NewInbox(t, c)
}

// testConn checks what every plug promises. open returns a new plug on a network of
// its own.
func testConn(t *testing.T, open func(t *testing.T) Conn) {
	plugtest.Check(t, func(t *testing.T) plugtest.Conn {
		c := open(t)
		d, ok := c.(Dropper)
		if !ok {
			t.Fatalf("%T counts no drops", c)
		}
		return droppingConn{c, d}
	})
}

// A droppingConn says what it drops as transports do.
type droppingConn struct {
	Conn
	d Dropper
}

func (c droppingConn) Dropped() (recv, send uint64) {
	d := c.d.Drops()
	return d.Recv, d.Send
}

// benchPlugs sends frames from one plug to another.
func benchPlugs(b *testing.B, fromVNL, toVNL string) {
	open := func(vnl string) Conn {
		c, err := Open(vnl, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
	scheme, _, _ := strings.Cut(fromVNL, "://")
	from, to := open(fromVNL), open(toVNL)
	for _, size := range []int{60, 1514, ether.MaxFrame} {
		frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), size), make([]byte, ether.MaxFrame)
		b.Run(fmt.Sprint(scheme, " ", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := to.Recv(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
