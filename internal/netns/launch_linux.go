//go:build amd64 || arm64

package netns

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A launch is the start of a command. A thread is made for it, the watcher, which has
// the credentials, Landlock, seccomp, nice value and directories of the calling thread.
// It clones the command, and stays until the command has ended, for the kernel ends the
// command with its parent thread. The watcher blocks all signals, and Go's runtime does
// not know it.
//
// The assembly knows the layout. The memory is that of mapCalls, with a stack for both.
type launch struct {
	// done is the end of a pipe, which both have. The watcher closes it when the command
	// has left the memory; the kernel closes the command's when it has executed the
	// program, or is dead.
	done uint32
	n    uint32
	ppid uintptr // the parent that the command expects
	// pid is the number of the command. The kernel writes it before the command runs.
	pid       atomic.Uint32
	released  atomic.Uint32 // not 0: the process does not use the launch any more
	ret       uintptr       // of clone
	all       uint64        // a set of all signals
	mask      uint64        // the signals that the calling thread blocks
	cancelled atomic.Uint32 // not 0: the command ends before it does anything
	size      uintptr       // of the memory
	slot      *atomic.Int32 // in commands, for the pidfd
	signal    uintptr       // of prctl PR_SET_PDEATHSIG
	stopped   bool          // for too long, and so cancelled
	first     call
}

// commands has the pidfds of all commands of the process. The kernel writes each into
// its slot when it makes the command. The helpers live a moment longer than the
// program, and kill the commands that are left: the parent-death signal does not
// survive each exec, and the helpers have CAP_KILL over the users that commands may
// become. Their assembly knows the layout.
var commands commandList

type commandList struct {
	used  atomic.Uint32 // how many slots were ever taken
	slots [1<<16 - 1]atomic.Int32
	mu    sync.Mutex // held by take
}

const (
	slotFree  = -1
	slotTaken = -2 // no command yet, or no pidfd
)

// take takes a free slot.
func (l *commandList) take() (*atomic.Int32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := int(l.used.Load())
	for i := range used {
		if l.slots[i].CompareAndSwap(slotFree, slotTaken) {
			return &l.slots[i], nil
		}
	}
	if used == len(l.slots) {
		return nil, fmt.Errorf("%d commands run already: %w", used, unix.EAGAIN)
	}
	l.slots[used].Store(slotTaken)
	l.used.Add(1)
	return &l.slots[used], nil
}

// watcherFlags make a thread of the process.
const watcherFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM

func newLaunch(calls []call, done int) (*launch, error) {
	slot, err := commands.take()
	if err != nil {
		return nil, err
	}
	mem, size, err := mapCalls(unsafe.Offsetof(launch{}.first), len(calls))
	if err != nil {
		slot.Store(slotFree)
		return nil, err
	}
	l := (*launch)(mem)
	l.slot, l.size = slot, size
	l.done, l.n, l.ppid, l.all = uint32(done), uint32(len(calls)), uintptr(os.Getpid()), ^uint64(0)
	copy(l.list(), calls)
	return l, nil
}

func (l *launch) addr() uintptr { return uintptr(unsafe.Pointer(l)) }

func (l *launch) list() []call { return unsafe.Slice(&l.first, l.n) }

// run makes the watcher, which makes the command. The end of the pipe belongs to them.
func (l *launch) run() error {
	if ret := watch(l.addr(), watcherFlags, l.addr()+l.size); ret > ^uintptr(4095) {
		unix.Close(int(l.done))
		l.slot.Store(slotFree)
		unix.MunmapPtr(unsafe.Pointer(l), l.size)
		return unix.Errno(-ret)
	}
	return nil
}

// cancel ends the command, which was not waited for yet.
func (l *launch) cancel(group bool) {
	l.cancelled.Store(1)
	pid := int(l.pid.Load())
	if pid == 0 {
		return // it will see cancelled
	}
	unix.Kill(pid, unix.SIGKILL)
	if group {
		// The program may have started others. It starts no more now; in the other
		// order it could, if it had no group yet.
		unix.Kill(-pid, unix.SIGKILL)
	}
}

// donePipe makes the pipe that reports the exec; the number of the command's end is at
// least min.
func donePipe(min int) (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	if p[1] < min {
		w, err := unix.FcntlInt(uintptr(p[1]), unix.F_DUPFD_CLOEXEC, min)
		unix.Close(p[1])
		if err != nil {
			unix.Close(p[0])
			return -1, -1, os.NewSyscallError("fcntl", err)
		}
		p[1] = w
	}
	return p[0], p[1], nil
}

const (
	// stopLimit bounds how long a command may be stopped before its exec, for
	// syscall.ForkLock is held meanwhile.
	stopLimit = 2 * time.Second
	// stopStep is how often that is checked. The exec itself, which depends on the file
	// system, has no bound.
	stopStep = 50 * time.Millisecond
)

// waitDone waits until the other end of the pipe is closed everywhere. It calls stopped
// when the command was stopped for too long, while the program itself ran. A debugger's
// stops do not count.
func (l *launch) waitDone(r int, stopped func()) {
	fds := []unix.PollFd{{Fd: int32(r)}} // POLLHUP is always reported
	for left := stopLimit; ; {
		switch n, err := unix.Poll(fds, int(stopStep.Milliseconds())); {
		case n > 0 || err != nil && err != unix.EINTR:
			return
		case n == 0 && left > 0 && l.isStopped():
			if left -= stopStep; left <= 0 {
				stopped()
			}
		}
	}
}

// isStopped reports whether a signal has stopped the command.
func (l *launch) isStopped() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, int(l.pid.Load()), &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
	return err == nil && info.Signo != 0
}

// release leaves the launch to the watcher, which frees it.
func (l *launch) release() {
	l.released.Store(1)
	unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&l.released)), futexWake, 1)
}

// watch makes the watcher of a launch.
//
//go:noescape
func watch(box, flags, stack uintptr) (tid uintptr)
