package vdeplug

import (
	"encoding/binary"
	"math"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// An emuQueue holds packets with their times, in order. Its memory comes in chunks
// from a pool, and goes back there: a network on which nothing is on its way has
// none.
type emuQueue struct {
	head, tail *emuChunk
	read       int // offset of the first packet in head
	bytes      int // of packets, with what is kept of them
}

// An emuChunk holds two packets of the largest size, or about 80 frames of 1514
// bytes.
type emuChunk struct {
	next  *emuChunk
	used  int
	bytes [2 * (emuRecordLen + virtio.MaxPacket)]byte
}

var emuChunks = sync.Pool{New: func() any { return new(emuChunk) }}

func (c *emuChunk) free() {
	if c != nil {
		c.next, c.used = nil, 0
		emuChunks.Put(c)
	}
}

// An emuRecord is what is kept of a packet.
type emuRecord struct {
	left   time.Duration // when its last bit has left, after it waited for the rate
	due    time.Duration // when it arrives
	jitter float64       // its part of the jitter
	n      int
	header virtio.Header
}

// emuRecordLen is how long a record is in a queue, before its packet. It is room
// for who is handed the packet.
const emuRecordLen = 8 + 8 + 8 + 4 + virtio.HeaderLen

func (r *emuRecord) encode(b []byte) {
	b = b[:emuRecordLen]
	binary.NativeEndian.PutUint64(b, uint64(r.left))
	binary.NativeEndian.PutUint64(b[8:], uint64(r.due))
	binary.NativeEndian.PutUint64(b[16:], math.Float64bits(r.jitter))
	binary.NativeEndian.PutUint32(b[24:], uint32(r.n))
	r.header.Encode(b[28:])
}

func (r *emuRecord) decode(b []byte) {
	b = b[:emuRecordLen]
	r.left = time.Duration(binary.NativeEndian.Uint64(b))
	r.due = time.Duration(binary.NativeEndian.Uint64(b[8:]))
	r.jitter = math.Float64frombits(binary.NativeEndian.Uint64(b[16:]))
	r.n = int(binary.NativeEndian.Uint32(b[24:]))
	r.header.Decode(b[28:])
}

// Push appends a packet in two pieces, of virtio.MaxPacket bytes at most, and
// returns it as it is in the queue.
func (q *emuQueue) Push(r emuRecord, head, data []byte) []byte {
	r.n = len(head) + len(data)
	size := emuRecordLen + r.n
	if q.tail == nil || q.tail.used+size > len(q.tail.bytes) {
		c := emuChunks.Get().(*emuChunk)
		if q.tail == nil {
			q.head, q.read = c, 0
		} else {
			q.tail.next = c
		}
		q.tail = c
	}
	b := q.tail.bytes[q.tail.used:][:size:size]
	q.tail.used += size
	q.bytes += size
	r.encode(b)
	b = b[emuRecordLen:]
	copy(b[copy(b, head):], data)
	return b
}

// first returns the first packet.
func (q *emuQueue) first() (r emuRecord, p packet.Packet, ok bool) {
	if q.head == nil {
		return r, p, false
	}
	r.decode(q.head.bytes[q.read:])
	at := q.read + emuRecordLen
	return r, packet.Packet{Offload: r.header, Data: q.head.bytes[at : at+r.n : at+r.n], Room: emuRecordLen}, true
}

// Pop removes the first packet of a queue that is not empty. Its memory is left
// alone until the chunk that pop returns once all in it are removed is freed.
func (q *emuQueue) Pop() (drained *emuChunk) {
	c := q.head
	size := emuRecordLen + int(binary.NativeEndian.Uint32(c.bytes[q.read+24:]))
	q.read += size
	q.bytes -= size
	if q.read < c.used {
		return nil
	}
	q.head, q.read = c.next, 0
	if q.head == nil {
		q.tail = nil
	}
	return c
}

// change calls f with each record, to change its times.
func (q *emuQueue) change(f func(r *emuRecord)) {
	at := q.read
	for c := q.head; c != nil; c, at = c.next, 0 {
		for at < c.used {
			var r emuRecord
			r.decode(c.bytes[at:])
			f(&r)
			r.encode(c.bytes[at:])
			at += emuRecordLen + r.n
		}
	}
}

// clear removes all.
func (q *emuQueue) clear() {
	for c := q.head; c != nil; {
		next := c.next
		c.free()
		c = next
	}
	*q = emuQueue{}
}
