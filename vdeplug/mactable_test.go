package vdeplug

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// station returns the address of a made-up station.
func station(n int) mac {
	var m mac
	m[0] = 0x02
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

func TestMACTable(t *testing.T) {
	const expire = 120 * time.Second
	table := newMACTable[int](16, expire)
	check := func(m mac, now time.Duration, where int, ok bool) {
		t.Helper()
		if w, o := table.lookup(m, now); w != where || o != ok {
			t.Errorf("lookup(%x, %v) = %d, %v, want %d, %v", m, now, w, o, where, ok)
		}
	}
	a, b := station(1), station(2)
	check(a, 0, 0, false)
	table.learn(a, 7, time.Second)
	table.learn(b, 8, time.Second)
	check(a, time.Second+expire, 7, true)
	check(a, time.Second+expire+1, 0, false)
	table.learn(a, 8, 2*time.Second)
	check(a, 2*time.Second+expire, 8, true)
	table.learn(mac{1, 2, 3}, 9, 0)
	check(mac{1, 2, 3}, 0, 0, false)
	table.forget(7)
	check(a, time.Second, 8, true)
	table.forget(8)
	check(a, time.Second, 0, false)
	check(b, time.Second, 0, false)
}

func TestMACTableBound(t *testing.T) {
	const max = 64
	table := newMACTable[int](max, time.Hour)
	// A flood of invented addresses, and one station that talks now and then.
	for i := range 100 * max {
		now := time.Duration(i) * time.Millisecond
		table.learn(station(i), 1, now)
		if i%8 == 0 {
			table.learn(mac{2, 0xff}, 2, now)
		}
		if len(table.entries) > max {
			t.Fatalf("%d entries, want at most %d", len(table.entries), max)
		}
		if _, ok := table.lookup(mac{2, 0xff}, now); !ok {
			t.Fatalf("the station that talks was forgotten after %d others", i)
		}
	}
	off := newMACTable[int](0, time.Hour)
	off.learn(station(1), 1, 0)
	if _, ok := off.lookup(station(1), 0); ok {
		t.Error("a table of size 0 learned")
	}
}

func TestMACTableAllocs(t *testing.T) {
	table := newMACTable[int](256, time.Hour)
	for i := range 10000 {
		table.learn(station(i), 1, 0)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		table.learn(station(i%500), i, time.Duration(i))
		table.lookup(station(i%500), time.Duration(i))
	}); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}

// TestMACTableForget compares with a table that is looked through whole.
func TestMACTableForget(t *testing.T) {
	const max, places = 32, 5
	table, r := newMACTable[int](max, time.Hour), rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		where := r.IntN(places)
		if r.IntN(20) == 0 {
			table.forget(where)
		} else {
			table.learn(station(r.IntN(2*max)), where, time.Duration(i))
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

// BenchmarkMACTableForget says good-bye for who has no station, in a full table.
func BenchmarkMACTableForget(b *testing.B) {
	table := newMACTable[int](1024, time.Hour)
	for i := range 1024 {
		table.learn(station(i), 1, 0)
	}
	for b.Loop() {
		table.forget(2)
	}
}
