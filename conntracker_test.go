package vdestack

import (
	"runtime"
	"testing"
)

// A closer counts how often it is closed.
type closer struct{ closed int }

func (c *closer) Close() error { c.closed++; return nil }

// TestConnTracker tracks many connections, most of which are forgotten: the list is at
// most twice as long as those in use, and these are closed.
func TestConnTracker(t *testing.T) {
	var h connTracker
	var kept []*closer
	for i := range 10000 {
		c := new(closer)
		if i%100 == 0 {
			kept = append(kept, c)
		}
		if !trackRef(&h, c) {
			t.Fatal("refused before the end")
		}
		if i%1000 == 0 {
			runtime.GC()
		}
	}
	// What was forgotten since the last collection is still there.
	if most := 2*len(kept) + 2*1000; len(h.all) > most {
		t.Errorf("%d connections on the list, %d of them in use, want at most %d", len(h.all), len(kept), most)
	}
	h.closeAll()
	for i, c := range kept {
		if c.closed != 1 {
			t.Errorf("connection %d was closed %d times, want once", i, c.closed)
		}
	}
	if trackRef(&h, new(closer)) {
		t.Error("tracked one after the end")
	}
}
