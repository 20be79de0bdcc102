package memnet

import (
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func open(t *testing.T, name string) *plugtest.Inbox {
	t.Helper()
	p := testenv.Must(Open(name))(t)
	return plugtest.NewInbox(t, plugtest.NewConn(p))
}

// TestNames has two networks. The last plug takes its network with it, and the
// stations that it has learned.
func TestNames(t *testing.T) {
	testenv.NoLeaks(t)
	a := open(t, "")
	open(t, "b")
	open(t, "b")
	networks.mu.Lock()
	first := networks.byName[""]
	networks.mu.Unlock()
	a.Close()
	open(t, "")
	networks.mu.Lock()
	defer networks.mu.Unlock()
	if networks.byName[""] == first {
		t.Error("the network outlived its last plug")
	}
	if n := len(networks.byName); n != 2 {
		t.Errorf("%d networks, want 2", n)
	}
}

// TestRace joins, sends and leaves from many goroutines.
func TestRace(t *testing.T) {
	testenv.NoLeaks(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				p, err := Open("race")
				if err != nil {
					t.Error(err)
					return
				}
				c := plugtest.NewConn(p)
				wg.Go(func() { plugtest.Drain(c) })
				for j := range 8 {
					c.Send(plugtest.TestFrame(plugtest.Station(j), plugtest.Station(i), 60))
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	networks.mu.Lock()
	defer networks.mu.Unlock()
	if n := len(networks.byName); n != 0 {
		t.Errorf("%d networks are left", n)
	}
}
