package ether

import (
	"encoding/binary"
	"time"
)

// A MAC is the address of an Ethernet station.
type MAC [6]byte

// MACs returns the destination and the source of a frame of at least
// HeaderLen bytes.
func MACs(frame []byte) (dst, src MAC) {
	return MAC(frame[0:6]), MAC(frame[6:12])
}

// IsMulticast reports whether m is a multicast or the broadcast address.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// A VLANMAC is an address within a VLAN. VLAN 0 is for frames without a tag, or with a
// priority only.
type VLANMAC struct {
	MAC
	vlan uint16
}

// VLANMACs returns the destination and the source of a frame of at least HeaderLen bytes,
// in the VLAN of its outer tag.
func VLANMACs(frame []byte) (dst, src VLANMAC) {
	dst.MAC, src.MAC = MACs(frame)
	if len(frame) >= HeaderLen+2 && binary.BigEndian.Uint16(frame[12:]) == 0x8100 {
		vlan := binary.BigEndian.Uint16(frame[14:]) & 0xfff
		dst.vlan, src.vlan = vlan, vlan
	}
	return dst, src
}

// A Station is a MAC, or a VLANMAC in networks with VLANs.
type Station interface {
	comparable
	IsMulticast() bool
}

// A MACTable remembers where stations were seen last. Its size is bounded, as senders can
// invent addresses. Times are on any clock that does not go back. Lookups may run at the
// same time; all other calls need a lock.
type MACTable[S Station, V comparable] struct {
	max     int           // stations; 0: nothing is learned
	expire  time.Duration // life of an entry since it was seen last
	entries map[S]macEntry[V]
	at      map[V]int // number of entries at each place
}

type macEntry[V comparable] struct {
	where V
	seen  time.Duration
}

func NewMACTable[S Station, V comparable](max int, expire time.Duration) *MACTable[S, V] {
	return &MACTable[S, V]{max: max, expire: expire, entries: make(map[S]macEntry[V]), at: make(map[V]int)}
}

// Len returns how many stations are remembered, silent ones included.
func (t *MACTable[S, V]) Len() int { return len(t.entries) }

// Lookup returns where a station was seen last, unless that is too long ago.
func (t *MACTable[S, V]) Lookup(s S, now time.Duration) (where V, ok bool) {
	e, ok := t.entries[s]
	if !ok || now-e.seen > t.expire {
		return where, false
	}
	return e.where, true
}

// Learn notes that a frame of a station came from where. It ignores multicast addresses.
func (t *MACTable[S, V]) Learn(s S, where V, now time.Duration) {
	if s.IsMulticast() || t.max <= 0 {
		return
	}
	old, ok := t.entries[s]
	if !ok && len(t.entries) >= t.max {
		t.evict()
	}
	t.entries[s] = macEntry[V]{where, now}
	if ok && old.where == where {
		return
	}
	if ok {
		t.less(old.where)
	}
	t.at[where]++
}

// less counts one entry less at where.
func (t *MACTable[S, V]) less(where V) {
	if t.at[where]--; t.at[where] == 0 {
		delete(t.at, where)
	}
}

// evict removes the oldest of a few random entries. Stations that send survive a flood of
// invented addresses, and no frame waits for a search of the whole table.
func (t *MACTable[S, V]) evict() {
	const sample = 8
	var (
		oldest S
		seen   time.Duration
		n      int
	)
	for s, e := range t.entries {
		if n == 0 || e.seen < seen {
			oldest, seen = s, e.seen
		}
		if n++; n == sample {
			break
		}
	}
	t.less(t.entries[oldest].where)
	delete(t.entries, oldest)
}

// Retain removes the stations at the places that keep does not report. keep is called
// once for each place.
func (t *MACTable[S, V]) Retain(keep func(where V) bool) {
	left, gone := 0, make(map[V]bool)
	for where, n := range t.at {
		if !keep(where) {
			left += n
			gone[where] = true
			delete(t.at, where)
		}
	}
	for s, e := range t.entries {
		if left == 0 {
			return
		}
		if gone[e.where] {
			delete(t.entries, s)
			left--
		}
	}
}

// Forget removes the stations at where. It is cheap if there are none: senders can say
// goodbye as often as they like.
func (t *MACTable[S, V]) Forget(where V) {
	left := t.at[where]
	if left == 0 {
		return
	}
	delete(t.at, where)
	for s, e := range t.entries {
		if e.where != where {
			continue
		}
		delete(t.entries, s)
		if left--; left == 0 {
			return
		}
	}
}
