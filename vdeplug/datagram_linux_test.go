package vdeplug

import (
	"net"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// An opener opens an end of a network and returns how to end it: as a program
// that ends, and as one that is killed.
type opener struct {
	name string
	open func(t *testing.T, vnl string) (in *plugtest.Inbox, quit, kill func(t *testing.T))
}

var openers = []opener{
	{"go", func(t *testing.T, vnl string) (*plugtest.Inbox, func(*testing.T), func(*testing.T)) {
		in := openInbox(t, vnl)
		quit := func(t *testing.T) { in.Close() }
		kill := func(t *testing.T) {
			// What the kernel does for a killed process.
			if c, ok := isOn[*ptpConn](in.Conn); ok {
				c.kill()
			}
			in.Close()
		}
		return in, quit, kill
	}},
	{"C", func(t *testing.T, vnl string) (*plugtest.Inbox, func(*testing.T), func(*testing.T)) {
		c := plugtest.CPlug(t, vnl)
		return c.Inbox, c.Quit, c.Kill
	}},
}

// pairs runs a test for a plug of this package with one of its own, and with
// one of the C library, each as the first and as the second.
func pairs(t *testing.T, test func(t *testing.T, first, second opener)) {
	for _, first := range openers {
		for _, second := range openers {
			if first.name != "C" || second.name != "C" {
				t.Run(first.name+" "+second.name, func(t *testing.T) {
					testenv.NoLeaks(t)
					test(t, first, second)
				})
			}
		}
	}
}

var frameSizes = []int{ether.HeaderLen, 60, 1514, 4096, ether.MaxFrame}

// checkAllocs sends and receives without allocating.
func checkAllocs(t *testing.T, from, to Conn) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514), make([]byte, ether.MaxFrame)
	if n := testing.AllocsPerRun(1000, func() {
		if err := from.Send(frame); err != nil {
			t.Fatal(err)
		}
		if n, err := to.Recv(buf); err != nil || n != len(frame) {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}

// checkDatagrams sends what is no frame, from a socket that is the peer.
func checkDatagrams(t *testing.T, peer net.Conn, c Conn, empty uint64) {
	t.Helper()
	short, long := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 100), plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 101)
	for _, b := range [][]byte{make([]byte, ether.HeaderLen-1), make([]byte, ether.MaxFrame+1), make([]byte, 20000), long, {}, short} {
		if _, err := peer.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 100)
	if n, err := c.Recv(buf); err != nil || string(buf[:n]) != string(short) {
		t.Errorf("got %x, %v, want the only good frame", buf[:n], err)
	}
	if got, want := c.(Dropper).Drops().Recv, 4+empty; got != want {
		t.Errorf("%d drops, want %d", got, want)
	}
}
