package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestMemNames opens networks whose names are the whole body, which may be empty.
func TestMemNames(t *testing.T) {
	testenv.NoLeaks(t)
	a, b, c := openInbox(t, "mem://"), openInbox(t, "mem://[x]{'"), openInbox(t, "mem://[x]{'")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	plugtest.Deliver(t, b, c, frame)
	select {
	case f := <-a.Frames:
		t.Errorf("another network got %x", f)
	default:
	}
}

func TestMemAllocs(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector empties pools")
	}
	ports := make([]Conn, 3)
	for i := range ports {
		ports[i] = openPlug(t, "mem://"+t.Name())
		t.Cleanup(func() { ports[i].Close() })
	}
	toAll, toOne := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), ether.MaxFrame)
	buf := make([]byte, ether.MaxFrame)
	if n := testing.AllocsPerRun(1000, func() {
		ports[0].Send(toAll)
		ports[1].Send(toOne)
		for _, p := range ports {
			if _, err := p.Recv(buf); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for two frames, want 0", n)
	}
}

func BenchmarkMem(b *testing.B) {
	benchPlugs(b, openPlug(b, "mem://bench"), openPlug(b, "mem://bench"), plugtest.Broadcast)
}
