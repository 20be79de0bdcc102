package vdeplug

import "encoding/binary"

// A frameQueue is a ring of bytes that holds frames of any length, each after
// its length in four bytes. So its bound is one of memory, and small frames
// do not pay for the largest. The ring grows from queueMin to queueMax as it
// is needed, and never again allocates.
type frameQueue struct {
	ring  []byte // its length is a power of two
	start int
	used  int
}

const (
	queueMin = 16 << 10
	// queueMax is about 690 frames of 1514 bytes, or 113 of MaxFrame: as
	// much as an interface of the kernel queues, some milliseconds of work.
	queueMax     = 1 << 20
	queueLenSize = 4
)

// push appends a frame, unless the queue is full.
func (q *frameQueue) push(frame []byte) bool {
	need := q.used + queueLenSize + len(frame)
	if need > queueMax {
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
	var length [queueLenSize]byte
	binary.NativeEndian.PutUint32(length[:], uint32(len(frame)))
	q.write(length[:])
	q.write(frame)
	return true
}

// pop removes the first frame of a queue that is not empty, and copies it to
// frame. It returns its length; if that is more than frame holds, nothing was
// copied.
func (q *frameQueue) pop(frame []byte) int {
	var length [queueLenSize]byte
	q.read(0, length[:])
	n := int(binary.NativeEndian.Uint32(length[:]))
	if n <= len(frame) {
		q.read(queueLenSize, frame[:n])
	}
	q.start = (q.start + queueLenSize + n) & (len(q.ring) - 1)
	q.used -= queueLenSize + n
	return n
}

func (q *frameQueue) empty() bool { return q.used == 0 }

// write appends bytes, for which there is room.
func (q *frameQueue) write(b []byte) {
	end := (q.start + q.used) & (len(q.ring) - 1)
	copy(q.ring, b[copy(q.ring[end:], b):])
	q.used += len(b)
}

// read copies bytes that are in the queue at offset off.
func (q *frameQueue) read(off int, b []byte) {
	if len(b) == 0 {
		return
	}
	begin := (q.start + off) & (len(q.ring) - 1)
	copy(b[copy(b, q.ring[begin:]):], q.ring)
}
