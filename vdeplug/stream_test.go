package vdeplug

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestStreamErrors sees the errors of a stream name it.
func TestStreamErrors(t *testing.T) {
	testenv.NoLeaks(t)
	rw, peer := net.Pipe()
	peer.Close()
	c := NewStream(rw)
	_, err := c.Recv(make([]byte, MaxFrame))
	if e, ok := errors.AsType[*Error](err); !ok || e.Op != "recv" || !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want an Error of recv that wraps EOF", err)
	}
	testenv.Eventually(t, "an error of Send", func() bool {
		err = c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
		return err != nil
	})
	if e, ok := errors.AsType[*Error](err); !ok || e.Op != "send" {
		t.Errorf("got %v, want an Error of send", err)
	}
	c.Close()
	if err := c.Send(nil); err != net.ErrClosed {
		t.Errorf("after close: got %v, want net.ErrClosed", err)
	}
}

// BenchmarkStream sends to itself.
func BenchmarkStream(b *testing.B) {
	r, w, err := os.Pipe()
	testenv.Check(b, err)
	c := NewStream(plugtest.Pipe(r, w))
	b.Cleanup(func() { c.Close() })
	benchPlugs(b, c, c, plugtest.Broadcast)
}
