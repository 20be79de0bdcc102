package vdeplug

import (
	"sync/atomic"
	"time"
)

// roomWait is how long a plug waits for room in a socket or a queue before it drops
// frames. What a peer that works needs is much less; one that hangs takes this
// from each batch, and what comes meanwhile is dropped by the interface.
const roomWait = 10 * time.Millisecond

// sendable reports whether a frame has a length that plugs carry; others are
// dropped.
func sendable(frame []byte) bool { return HeaderLen <= len(frame) && len(frame) <= MaxFrame }

// A dropCounter makes the Conn that embeds it a Dropper.
type dropCounter struct {
	droppedRecv, droppedSend atomic.Uint64
}

// Drops returns the counts of the frames that were not carried so far.
func (d *dropCounter) Drops() Drops {
	return Drops{Recv: d.droppedRecv.Load(), Send: d.droppedSend.Load()}
}
