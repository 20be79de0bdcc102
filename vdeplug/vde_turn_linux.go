package vdeplug

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

const (
	// turnWait bounds the wait for a turn: after it, the client goes without.
	turnWait = time.Second
	// leaveWait is how long a turn is held for a switch that does not see that
	// its client has left, because it does not run.
	leaveWait = time.Second
	// closeWait is how much of these waits Close waits for.
	closeWait = 10 * time.Millisecond
)

// A turn is held by a client that comes to a switch, and by one that leaves it
// until the switch has seen that. When several do at once, vde_switch 2.3.2
// takes one for another, whatever programs they are: it closes the wrong
// socket, and from then on may do so to all who come.
//
// Within the process it is the place of a queue, and between processes a lock of
// the directory of the switch, the same as that of [switchDir]. Nothing depends
// on it: who has waited long goes without, as does who may not read the
// directory. The zero turn is none.
type turn struct {
	queue *turnQueue
	dir   *os.File // locked; or nil
}

// A turnQueue is where clients of a switch wait for each other.
type turnQueue struct {
	dir  string
	head chan struct{} // full while there is a turn
	size int           // of those who wait or have a turn; guarded by turnQueues
}

var turnQueues = struct {
	sync.Mutex
	of map[string]*turnQueue // by directory
}{of: make(map[string]*turnQueue)}

func enterTurnQueue(dir string) *turnQueue {
	turnQueues.Lock()
	defer turnQueues.Unlock()
	q := turnQueues.of[dir]
	if q == nil {
		q = &turnQueue{dir: dir, head: make(chan struct{}, 1)}
		turnQueues.of[dir] = q
	}
	q.size++
	return q
}

func (q *turnQueue) exit() {
	turnQueues.Lock()
	defer turnQueues.Unlock()
	if q.size--; q.size == 0 {
		delete(turnQueues.of, q.dir)
	}
}

// takeTurn waits for a turn at the switch in dir, no longer than ctx.
func takeTurn(ctx context.Context, dir string) turn {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	q := enterTurnQueue(dir)
	select {
	case q.head <- struct{}{}:
	case <-ctx.Done():
		q.exit()
		return turn{}
	}
	t := turn{queue: q}
	if f, err := os.Open(dir); err == nil {
		if sockio.Flock(ctx, f) == nil {
			t.dir = f
		} else {
			f.Close()
		}
	}
	return t
}

func (t turn) end() {
	if t.dir != nil {
		// A child that has not yet executed its program has a copy of the
		// descriptor.
		unix.Flock(int(t.dir.Fd()), unix.LOCK_UN)
		t.dir.Close()
	}
	if t.queue != nil {
		<-t.queue.head
		t.queue.exit()
	}
}

// leave ends a control connection, waits until the switch does so too, and ends
// the turn.
func (t turn) leave(ctl *os.File) {
	defer t.end()
	defer ctl.Close()
	if raw, err := ctl.SyscallConn(); err == nil {
		// The switch is to see it at once, whatever child has a copy.
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	if ctl.SetReadDeadline(time.Now().Add(leaveWait)) == nil {
		io.Copy(io.Discard, ctl)
	}
}
