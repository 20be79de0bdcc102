package vdeplug

import "time"

// roomWait is how long a plug waits for room in a socket or a queue before it drops
// frames. What a peer that works needs is much less; one that hangs takes this
// from each batch, and what comes meanwhile is dropped by the interface.
const roomWait = 10 * time.Millisecond
