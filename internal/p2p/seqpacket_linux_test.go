package p2p

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestSeqpacketEmpty skips empty, short and long packets, and receives the frame before the
// end.
func TestSeqpacketEmpty(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := plugtest.OpenPair(t, unix.SOCK_SEQPACKET)
	c := end(t, testenv.Must(OpenSeqpacket(a))(t))
	want := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	for _, p := range [][]byte{{}, {1}, make([]byte, ether.MaxFrame+1), {}, want, {}} {
		testenv.Check(t, unix.Send(b, p, 0))
	}
	unix.Close(b)
	buf := make([]byte, ether.MaxFrame)
	if n, err := c.Recv(buf); err != nil || !bytes.Equal(buf[:n], want) {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if _, err := c.Recv(buf); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
	if got, _ := plugtest.Dropped(c); got < 2 {
		t.Errorf("%d drops, want those of the short and the long packet", got)
	}
}

// TestSeqpacketNumbers has goroutines that open and close plugs: the number of a
// descriptor is free for another plug as soon as the kernel gives it away again.
func TestSeqpacketNumbers(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Error(err)
					return
				}
				c, err := OpenSeqpacket(pair[0])
				unix.Close(pair[1])
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			}
		})
	}
	all.Wait()
}
