package vdeplug

import (
	"encoding/binary"
	"time"
)

// A mac is the address of an Ethernet station.
type mac [6]byte

// macs returns the destination and the source of a frame of at least
// HeaderLen bytes.
func macs(frame []byte) (dst, src mac) {
	return mac(frame[0:6]), mac(frame[6:12])
}

// isMulticast reports whether a frame to m has many receivers.
func (m mac) isMulticast() bool { return m[0]&1 != 0 }

// A vlanMAC is an address within a VLAN. VLAN 0 are frames without a tag, or
// with a priority only.
type vlanMAC struct {
	mac
	vlan uint16
}

// vlanMACs returns the destination and the source of a frame of at least
// HeaderLen bytes, in the VLAN that its outer tag says.
func vlanMACs(frame []byte) (dst, src vlanMAC) {
	dst.mac, src.mac = macs(frame)
	if len(frame) >= HeaderLen+2 && binary.BigEndian.Uint16(frame[12:]) == 0x8100 {
		vlan := binary.BigEndian.Uint16(frame[14:]) & 0xfff
		dst.vlan, src.vlan = vlan, vlan
	}
	return dst, src
}

// A macTable remembers where stations were seen last. Its size is bounded: the
// addresses come from the network, and whoever sends there may invent them.
// Times are on any clock that does not go back. lookup only reads; the other
// methods must not run at once with any.
type macTable[V comparable] struct {
	max     int           // stations; 0 means that nothing is learned
	expire  time.Duration // life of an entry since it was seen last
	entries map[vlanMAC]macEntry[V]
	at      map[V]int // how many of them are there
}

type macEntry[V comparable] struct {
	where V
	seen  time.Duration
}

func newMACTable[V comparable](max int, expire time.Duration) *macTable[V] {
	return &macTable[V]{max: max, expire: expire, entries: make(map[vlanMAC]macEntry[V]), at: make(map[V]int)}
}

// lookup is lookupVLAN where VLANs do not matter.
func (t *macTable[V]) lookup(m mac, now time.Duration) (where V, ok bool) {
	return t.lookupVLAN(vlanMAC{mac: m}, now)
}

// lookupVLAN returns where a station was seen last, unless that is too long
// ago.
func (t *macTable[V]) lookupVLAN(s vlanMAC, now time.Duration) (where V, ok bool) {
	e, ok := t.entries[s]
	if !ok || now-e.seen > t.expire {
		return where, false
	}
	return e.where, true
}

// learn is learnVLAN where VLANs do not matter.
func (t *macTable[V]) learn(m mac, where V, now time.Duration) {
	t.learnVLAN(vlanMAC{mac: m}, where, now)
}

// learnVLAN notes that a frame of a station came from where. Multicast
// addresses are no stations.
func (t *macTable[V]) learnVLAN(s vlanMAC, where V, now time.Duration) {
	if s.isMulticast() || t.max <= 0 {
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

// less counts an entry that is no more at where.
func (t *macTable[V]) less(where V) {
	if t.at[where]--; t.at[where] == 0 {
		delete(t.at, where)
	}
}

// evict removes the entry seen longest ago among a few random ones. Stations
// that send survive a flood of invented addresses, and no frame waits for a
// search of the whole table.
func (t *macTable[V]) evict() {
	const sample = 8
	var (
		oldest vlanMAC
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

// forget removes the stations that were seen at where. It costs nothing if there
// are none: whoever sends to the network may say good-bye as often as it likes.
func (t *macTable[V]) forget(where V) {
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
