//go:build amd64 || arm64

package netns

import (
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A call is one system call in a list. The assembly knows its layout.
type call struct {
	nr   uintptr
	args [6]uintptr
	ret  uintptr // as the kernel returns it: an error is -errno
	skip uintptr // how many of the following calls an error skips
}

// notRun is the result of a call that was skipped; the kernel never returns it.
const notRun = ^uintptr(unix.ENOTRECOVERABLE - 1)

// errno returns the error of a call that was executed, else 0.
func (c *call) errno() unix.Errno {
	if c.ret > ^uintptr(4095) && c.ret != notRun {
		return unix.Errno(-c.ret)
	}
	return 0
}

// States of a list. The word is a futex: the task waits while it is idle, its client
// while a request is posted. The task ends when it finds anything else.
//
// The kernel itself writes stateGone and wakes one waiter, at the end of either side:
//
//   - The task leaves the memory, by exit or by exec (CLONE_CHILD_CLEARTID): its client
//     sees that.
//   - The keeper's thread ends, with the program (set_tid_address): the helper sees
//     that, and there is no client any more.
//
// It wakes the right one, for the two never wait at the same time.
const (
	stateGone    = 0
	stateIdle    = 1
	stateRequest = 2
	stateEnd     = 3 // the client wants the task to end
)

// Futex operations of linux/futex.h. They are not private, as the wake-up that the
// kernel sends when the task leaves is not.
const (
	futexWait = 0
	futexWake = 1
)

// mapCalls maps memory outside the Go heap, for a list of calls behind a header, followed
// by a page for a task's stack, which is hardly used.
func mapCalls(header uintptr, calls int) (mem unsafe.Pointer, size uintptr, err error) {
	page := uintptr(os.Getpagesize())
	size = (header+uintptr(calls)*unsafe.Sizeof(call{})+page-1)/page*page + page
	mem, err = unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	return mem, size, os.NewSyscallError("mmap", err)
}

// A callList is a list of calls for a task that shares the memory, see mapCalls. The
// assembly knows the layout.
type callList struct {
	state atomic.Uint32
	n     uint32
	_     [56]byte
	first call
}

// sharedCalls owns the memory of a list.
type sharedCalls struct {
	*callList
	size uintptr
	cap  int
}

func newSharedCalls(calls int) (*sharedCalls, error) {
	mem, size, err := mapCalls(unsafe.Offsetof(callList{}.first), calls)
	if err != nil {
		return nil, err
	}
	return &sharedCalls{(*callList)(mem), size, calls}, nil
}

func (b *sharedCalls) free() { unix.MunmapPtr(unsafe.Pointer(b.callList), b.size) }

func (b *sharedCalls) addr() uintptr { return uintptr(unsafe.Pointer(b.callList)) }

func (b *sharedCalls) stackTop() uintptr { return b.addr() + b.size }

func (b *sharedCalls) list() []call { return unsafe.Slice(&b.first, b.cap)[:b.n:b.cap] }

// add appends a call, and returns its place.
func (b *sharedCalls) add(c call) int {
	b.n++
	l := b.list()
	c.ret = notRun
	l[len(l)-1] = c
	return len(l) - 1
}

// waitStep is the most that one sleep takes from a limit.
const waitStep = 100 * time.Millisecond

// leaves waits until the state has changed. It reports false after the limit, which
// counts only while the process runs: if both were stopped, the task still has its time
// to answer.
func (b *sharedCalls) leaves(state uint32, limit time.Duration) bool {
	for b.state.Load() == state {
		if limit <= 0 {
			return false
		}
		start, step := time.Now(), min(limit, waitStep)
		ts := unix.NsecToTimespec(step.Nanoseconds())
		unix.Syscall6(unix.SYS_FUTEX, b.addr(), futexWait, uintptr(state), uintptr(unsafe.Pointer(&ts)), 0, 0)
		runtime.KeepAlive(&ts)
		limit -= min(time.Since(start), step)
	}
	return true
}

// post passes the list to the task. It reports false if the task is gone.
func (b *sharedCalls) post() bool {
	if !b.state.CompareAndSwap(stateIdle, stateRequest) {
		return false
	}
	unix.RawSyscall(unix.SYS_FUTEX, b.addr(), futexWake, 1)
	return true
}

// end has the task end after its current call, whatever its credentials are. A stopped
// task ends when it is continued.
func (b *sharedCalls) end() {
	for s := b.state.Load(); s != stateGone && !b.state.CompareAndSwap(s, stateEnd); s = b.state.Load() {
	}
	unix.RawSyscall(unix.SYS_FUTEX, b.addr(), futexWake, 1)
}

// lost reports whether the task is dead or about to end.
func (b *sharedCalls) lost() bool {
	s := b.state.Load()
	return s != stateIdle && s != stateRequest
}

// spawn clones a task that shares memory and executes the list.
//
//go:noescape
func spawn(flags, stack, ctid, box uintptr) (pid uintptr)
