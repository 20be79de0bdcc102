package vdestack

import (
	"runtime"
	"testing"
)

// A closer counts how often it is closed.
type closer struct{ closed int }

func (c *closer) Close() error { c.closed++; return nil }

// TestHandles tracks many handles of which most are forgotten: no more than twice
// those that are held stay on the list, and these are closed.
func TestHandles(t *testing.T) {
	var h connTracker
	var kept []*closer
	for i := range 10000 {
		c := new(closer)
		if i%100 == 0 {
			kept = append(kept, c)
		}
		if !trackRef(&h, c) {
			t.Fatal("track refused a handle before the end")
		}
		if i%1000 == 0 {
			runtime.GC()
		}
	}
	// What was forgotten since the last collection is still there.
	if most := 2*len(kept) + 2*1000; len(h.all) > most {
		t.Errorf("%d handles on the list, %d of them held, want at most %d", len(h.all), len(kept), most)
	}
	h.closeAll()
	for i, c := range kept {
		if c.closed != 1 {
			t.Errorf("handle %d was closed %d times, want once", i, c.closed)
		}
	}
	if trackRef(&h, new(closer)) {
		t.Error("track took a handle after the end")
	}
}
