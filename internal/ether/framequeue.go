package ether

import (
	"encoding/binary"

	"github.com/vdestack/vdestack/internal/virtio"
)

// A Queue is a ring of bytes that holds packets of any length, each after its length in
// four bytes and its virtio header. So it bounds memory, and small frames need little. The
// ring grows from queueMin to QueueMax as needed, and then allocates no more.
type Queue struct {
	ring  []byte // its length is a power of two
	start int
	used  int
}

const (
	queueMin = 16 << 10
	// QueueMax holds about 2,700 frames of 1514 bytes, or 64 packets of the largest
	// size: as many as an interface of the kernel queues, some milliseconds of work.
	QueueMax = 4 << 20
	// QueueLenSize is the size of a packet's length and header.
	QueueLenSize = 4 + virtio.HeaderLen
)

// Push appends a packet, unless the queue is full.
func (q *Queue) Push(h virtio.Header, data []byte) bool {
	need := q.used + QueueLenSize + len(data)
	if need > QueueMax {
		return false
	}
	if need > len(q.ring) {
		size := max(len(q.ring), queueMin)
		for size < need {
			size *= 2
		}
		ring := make([]byte, size)
		q.read(0, ring[:q.used])
		q.ring, q.start = ring, 0
	}
	var head [QueueLenSize]byte
	binary.NativeEndian.PutUint32(head[:], uint32(len(data)))
	h.Encode(head[4:])
	q.write(head[:])
	q.write(data)
	return true
}

// Pop removes the first packet of a queue that is not empty. It copies the packet to data,
// unless it is too long, and returns its length.
func (q *Queue) Pop(data []byte) (h virtio.Header, n int) {
	var head [QueueLenSize]byte
	q.read(0, head[:])
	n = int(binary.NativeEndian.Uint32(head[:]))
	h.Decode(head[4:])
	if n <= len(data) {
		q.read(QueueLenSize, data[:n])
	}
	q.start = (q.start + QueueLenSize + n) & (len(q.ring) - 1)
	q.used -= QueueLenSize + n
	return h, n
}

func (q *Queue) Empty() bool { return q.used == 0 }

// write appends bytes, for which there is room.
func (q *Queue) write(b []byte) {
	end := (q.start + q.used) & (len(q.ring) - 1)
	copy(q.ring, b[copy(q.ring[end:], b):])
	q.used += len(b)
}

// read copies the bytes at offset off of the queue.
func (q *Queue) read(off int, b []byte) {
	if len(b) == 0 {
		return
	}
	begin := (q.start + off) & (len(q.ring) - 1)
	copy(b[copy(b, q.ring[begin:]):], q.ring)
}
