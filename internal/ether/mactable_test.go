package ether

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// station returns the address of a made-up station.
func station(n int) MAC { return MAC{2, 0, 0, 0, byte(n >> 8), byte(n)} }

func TestMACTable(t *testing.T) {
	const expire = 120 * time.Second
	table := NewMACTable[MAC, int](16, expire)
	check := func(m MAC, now time.Duration, where int, ok bool) {
		t.Helper()
		if w, o := table.Lookup(m, now); w != where || o != ok {
			t.Errorf("lookup(%x, %v) = %d, %v, want %d, %v", m, now, w, o, where, ok)
		}
	}
	a, b := station(1), station(2)
	check(a, 0, 0, false)
	table.Learn(a, 7, time.Second)
	table.Learn(b, 8, time.Second)
	check(a, time.Second+expire, 7, true)
	check(a, time.Second+expire+1, 0, false)
	table.Learn(a, 8, 2*time.Second)
	check(a, 2*time.Second+expire, 8, true)
	table.Learn(MAC{1, 2, 3}, 9, 0)
	check(MAC{1, 2, 3}, 0, 0, false)
	table.Forget(7)
	check(a, time.Second, 8, true)
	table.Forget(8)
	check(a, time.Second, 0, false)
	check(b, time.Second, 0, false)
}

func TestMACTableBound(t *testing.T) {
	const max = 64
	table := NewMACTable[MAC, int](max, time.Hour)
	// A flood of invented addresses, and one station that talks now and then.
	for i := range 100 * max {
		now := time.Duration(i) * time.Millisecond
		table.Learn(station(i), 1, now)
		if i%8 == 0 {
			table.Learn(MAC{2, 0xff}, 2, now)
		}
		if len(table.entries) > max {
			t.Fatalf("%d entries, want at most %d", len(table.entries), max)
		}
		if _, ok := table.Lookup(MAC{2, 0xff}, now); !ok {
			t.Fatalf("the station that talks was forgotten after %d others", i)
		}
	}
	off := NewMACTable[MAC, int](0, time.Hour)
	off.Learn(station(1), 1, 0)
	if _, ok := off.Lookup(station(1), 0); ok {
		t.Error("a table of size 0 learned")
	}
}

func TestMACTableAllocs(t *testing.T) {
	table := NewMACTable[MAC, int](256, time.Hour)
	for i := range 10000 {
		table.Learn(station(i), 1, 0)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		table.Learn(station(i%500), i, time.Duration(i))
		table.Lookup(station(i%500), time.Duration(i))
	}); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}

// TestMACTableForget compares with a table that is looked through whole.
func TestMACTableForget(t *testing.T) {
	const max, places = 32, 5
	table, r := NewMACTable[MAC, int](max, time.Hour), rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		where := r.IntN(places)
		switch r.IntN(40) {
		case 0, 1:
			table.Forget(where)
		case 2:
			table.Retain(func(w int) bool { return w != where && w != where+1 })
			if table.at[where]+table.at[where+1] != 0 {
				t.Fatalf("step %d: stations are still at %d or the next", i, where)
			}
		default:
			table.Learn(station(r.IntN(2*max)), where, time.Duration(i))
		}
		at := make(map[int]int)
		for _, e := range table.entries {
			at[e.where]++
		}
		if !maps.Equal(at, table.at) {
			t.Fatalf("step %d: stations are at %v, counted are %v", i, at, table.at)
		}
	}
}
