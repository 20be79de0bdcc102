package netem

import (
	"encoding/binary"
	"math"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

// A queue holds packets with their times, in order. Its memory comes in chunks from a pool;
// an empty queue has no memory.
type queue struct {
	head, tail *chunk
	read       int // offset of the first packet in head
	bytes      int // of packets and records
}

// A chunk holds two packets of the largest size, or about 80 frames of 1514
// bytes.
type chunk struct {
	next  *chunk
	used  int
	bytes [2 * (recordLen + virtio.MaxPacket)]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func (c *chunk) free() {
	if c != nil {
		c.next, c.used = nil, 0
		chunks.Put(c)
	}
}

// A record precedes its packet in a chunk.
type record struct {
	left   time.Duration // when the last bit has passed at the rate
	due    time.Duration // when the packet arrives
	jitter float64       // from 0 to 1, times the setting
	n      int           // bytes of the packet
	header virtio.Header
}

// recordLen is the length of an encoded record, and the headroom of the packet after it.
const recordLen = 8 + 8 + 8 + 4 + virtio.HeaderLen

func (r *record) encode(b []byte) {
	b = b[:recordLen]
	binary.NativeEndian.PutUint64(b, uint64(r.left))
	binary.NativeEndian.PutUint64(b[8:], uint64(r.due))
	binary.NativeEndian.PutUint64(b[16:], math.Float64bits(r.jitter))
	binary.NativeEndian.PutUint32(b[24:], uint32(r.n))
	r.header.Encode(b[28:])
}

func (r *record) decode(b []byte) {
	b = b[:recordLen]
	r.left = time.Duration(binary.NativeEndian.Uint64(b))
	r.due = time.Duration(binary.NativeEndian.Uint64(b[8:]))
	r.jitter = math.Float64frombits(binary.NativeEndian.Uint64(b[16:]))
	r.n = int(binary.NativeEndian.Uint32(b[24:]))
	r.header.Decode(b[28:])
}

// push appends a packet in two pieces, of up to virtio.MaxPacket bytes, and returns its bytes
// in the queue.
func (q *queue) push(r record, head, data []byte) []byte {
	r.n = len(head) + len(data)
	size := recordLen + r.n
	if q.tail == nil || q.tail.used+size > len(q.tail.bytes) {
		c := chunks.Get().(*chunk)
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
	b = b[recordLen:]
	copy(b[copy(b, head):], data)
	return b
}

// peek returns the first packet.
func (q *queue) peek() (r record, p packet.Packet, ok bool) {
	if q.head == nil {
		return r, p, false
	}
	r.decode(q.head.bytes[q.read:])
	at := q.read + recordLen
	return r, packet.Packet{Offload: r.header, Data: q.head.bytes[at : at+r.n : at+r.n], Room: recordLen}, true
}

// pop removes the first packet of a queue that is not empty. Its memory stays valid. With the
// last packet of a chunk, pop returns the chunk, which the caller frees when its packets are
// no longer used.
func (q *queue) pop() (drained *chunk) {
	c := q.head
	size := recordLen + int(binary.NativeEndian.Uint32(c.bytes[q.read+24:]))
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

// update calls f with each record; f may change the times.
func (q *queue) update(f func(r *record)) {
	at := q.read
	for c := q.head; c != nil; c, at = c.next, 0 {
		for at < c.used {
			var r record
			r.decode(c.bytes[at:])
			f(&r)
			r.encode(c.bytes[at:])
			at += recordLen + r.n
		}
	}
}

// clear removes all packets.
func (q *queue) clear() {
	for c := q.head; c != nil; {
		next := c.next
		c.free()
		c = next
	}
	*q = queue{}
}
