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
	queue *lockQueue
	dir   *os.File // locked; or nil
}

// A lockQueue makes the clients of a switch in this process wait for each other.
type lockQueue struct {
	dir  string
	head chan struct{} // full while a client has the lock
	size int           // clients that wait or have the lock; guarded by lockQueues
}

var lockQueues = struct {
	sync.Mutex
	of map[string]*lockQueue // by directory
}{of: make(map[string]*lockQueue)}

func enterLockQueue(dir string) *lockQueue {
	lockQueues.Lock()
	defer lockQueues.Unlock()
	q := lockQueues.of[dir]
	if q == nil {
		q = &lockQueue{dir: dir, head: make(chan struct{}, 1)}
		lockQueues.of[dir] = q
	}
	q.size++
	return q
}

func (q *lockQueue) exit() {
	lockQueues.Lock()
	defer lockQueues.Unlock()
	if q.size--; q.size == 0 {
		delete(lockQueues.of, q.dir)
	}
}

// lockHandshake waits for the lock of the switch in dir, until lockWait is over or ctx
// ends.
func lockHandshake(ctx context.Context, dir string) handshakeLock {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	q := enterLockQueue(dir)
	select {
	case q.head <- struct{}{}:
	case <-ctx.Done():
		q.exit()
		return handshakeLock{}
	}
	l := handshakeLock{queue: q}
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
	if l.queue != nil {
		<-l.queue.head
		l.queue.exit()
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
