package vdeproto

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
	// lockWait bounds the wait for the lock: after it, the client goes on without it.
	lockWait = time.Second
	// leaveWait is how long the lock is held for a stopped switch, which does not notice
	// that its client has left.
	leaveWait = time.Second
	// closeWait is how long Close waits for these.
	closeWait = 10 * time.Millisecond
)

// A handshakeLock is held by a client while it connects to a switch, and while it leaves,
// until the switch has noticed. If several clients do so at once, vde_switch 2.3.2 confuses
// them: it closes the wrong socket, and may do so to all later clients.
//
// Within the process it is a queue; between processes, a lock of the directory of the
// switch, the same that [switchDir] takes. A client goes on without it after lockWait, or
// if it may not read the directory. The zero handshakeLock holds nothing.
type handshakeLock struct {
	exit func()   // from the queue; or nil
	dir  *os.File // locked; or nil
}

// handshakes are the queues of clients.
var handshakes lockQueues

// lockQueues are locks of directories for this process.
type lockQueues struct {
	mu sync.Mutex            // guards the rest, and the sizes
	of map[string]*lockQueue // by directory
}

type lockQueue struct {
	head chan struct{} // full while somebody has the lock
	size int           // how many wait or have the lock
}

// enter waits for the lock of a directory, until ctx ends. exit releases it.
func (qs *lockQueues) enter(ctx context.Context, dir string) (exit func(), err error) {
	qs.mu.Lock()
	q := qs.of[dir]
	if q == nil {
		if qs.of == nil {
			qs.of = make(map[string]*lockQueue)
		}
		q = &lockQueue{head: make(chan struct{}, 1)}
		qs.of[dir] = q
	}
	q.size++
	qs.mu.Unlock()
	leave := func() {
		qs.mu.Lock()
		defer qs.mu.Unlock()
		if q.size--; q.size == 0 {
			delete(qs.of, dir)
		}
	}
	select {
	case q.head <- struct{}{}:
		return func() { <-q.head; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// lockHandshake waits for the lock of the switch in dir, until lockWait is over or ctx
// ends.
func lockHandshake(ctx context.Context, dir string) (l handshakeLock) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	var err error
	if l.exit, err = handshakes.enter(ctx, dir); err != nil {
		return l
	}
	if f, err := os.Open(dir); err == nil {
		if sockio.Flock(ctx, f) == nil {
			l.dir = f
		} else {
			f.Close()
		}
	}
	return l
}

// unlock releases the lock.
func (l handshakeLock) unlock() {
	if l.dir != nil {
		// Unlock explicitly: a child process that is about to start may have a copy of
		// the descriptor.
		unix.Flock(int(l.dir.Fd()), unix.LOCK_UN)
		l.dir.Close()
	}
	if l.exit != nil {
		l.exit()
	}
}

// leave closes a control connection, waits until the switch does so too, and unlocks.
func (l handshakeLock) leave(ctl *os.File) {
	defer l.unlock()
	defer ctl.Close()
	if raw, err := ctl.SyscallConn(); err == nil {
		// The switch notices this at once, even if a child process has a copy.
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	if ctl.SetReadDeadline(time.Now().Add(leaveWait)) == nil {
		io.Copy(io.Discard, ctl)
	}
}
