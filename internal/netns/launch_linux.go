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

// A launch is the start of a command. A thread is made for it, the watcher, which
// has all that the calling thread has: credentials, Landlock, seccomp, nice value,
// directories. It clones the command, and stays until that has ended, for the
// kernel ends the command with the thread that is its parent. The watcher blocks
// all signals, and Go's runtime knows nothing of it.
//
// The assembly knows the layout. The memory lies outside the Go heap, with a page
// behind it for the stack of both, which is there for form only.
type launch struct {
	// done is the end of a pipe. Both have it: the watcher closes it when the command
	// has left the memory, and the kernel that of the command, when it has executed
	// the program and closed what is close-on-exec, or is dead.
	done uint32
	n    uint32
	ppid uintptr // the parent that the command expects
	// pid is the number of the command. The kernel writes it before the command runs.
	pid       atomic.Uint32
	released  atomic.Uint32 // not 0: nobody looks at the launch any more
	ret       uintptr       // of clone
	all       uint64        // a set of all signals
	mask      uint64        // the signals that the calling thread blocks
	cancelled atomic.Uint32 // not 0: the command ends before it does anything
	size      uintptr       // of the memory
	slot      *atomic.Int32 // in commands, for the pidfd
	signal    uintptr       // of prctl PR_SET_PDEATHSIG
	stopped   bool          // for too long, and cancelled therefore
	first     call
}

// commands are the pidfds of all commands of the process. The kernel writes each
// into its slot when it makes the command. The helpers live a moment longer than the
// program, and kill all that are there then: unlike the kernel's signal at the end of
// the parent, that needs no exec to leave it in force, and they have CAP_KILL over
// what the commands may become. Their assembly knows the layout.
var commands commandList

type commandList struct {
	used  atomic.Uint32 // how many slots were ever taken
	slots [1<<16 - 1]atomic.Int32
	mu    sync.Mutex // held by take
}

const (
	slotFree  = -1
	slotTaken = -2 // without a command yet, or without a pidfd
)

// take returns a free slot, which is taken then.
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
	page := os.Getpagesize()
	size := int(unsafe.Offsetof(launch{}.first)) + len(calls)*int(unsafe.Sizeof(call{}))
	size = (size+page-1)/page*page + page
	mem, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		slot.Store(slotFree)
		return nil, os.NewSyscallError("mmap", err)
	}
	l := (*launch)(mem)
	l.slot = slot
	l.done, l.n, l.ppid, l.all, l.size = uint32(done), uint32(len(calls)), uintptr(os.Getpid()), ^uint64(0), uintptr(size)
	copy(l.list(), calls)
	return l, nil
}

func (l *launch) addr() uintptr { return uintptr(unsafe.Pointer(l)) }

func (l *launch) list() []call { return unsafe.Slice(&l.first, l.n) }

// run makes the watcher, which makes the command. It takes the end of the pipe.
func (l *launch) run() error {
	if ret := watch(l.addr(), watcherFlags, l.addr()+l.size); ret > ^uintptr(4095) {
		unix.Close(int(l.done))
		l.slot.Store(slotFree)
		unix.MunmapPtr(unsafe.Pointer(l), l.size)
		return unix.Errno(-ret)
	}
	return nil
}

// cancel ends the command. It is called before that is waited for.
func (l *launch) cancel(group bool) {
	l.cancelled.Store(1)
	pid := int(l.pid.Load())
	if pid == 0 {
		return // it is not there yet, and will see that
	}
	unix.Kill(pid, unix.SIGKILL)
	if group {
		// The program may have run, and started others. It starts no more; the
		// other way round it could, if it had no group yet.
		unix.Kill(-pid, unix.SIGKILL)
	}
}

// donePipe makes the pipe that tells of the exec; the number of its end for the
// command is at least min.
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
	// stopStep is how long the exec has before that is looked for. It takes the
	// kernel as long as the file system does; that is not bounded.
	stopStep = 50 * time.Millisecond
)

// waitDone waits until nobody has the other end of the pipe any more. It calls
// stopped when the command was stopped for too long: the time counts in which the
// program itself is awake. A debugger's stops are not the command's.
func (l *launch) waitDone(r int, stopped func()) {
	fds := []unix.PollFd{{Fd: int32(r)}} // its end is always looked for
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

// isStopped reports that a signal has stopped the command.
func (l *launch) isStopped() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, int(l.pid.Load()), &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
	return err == nil && info.Signo != 0
}

// release gives the launch to the watcher, which frees it.
func (l *launch) release() {
	l.released.Store(1)
	unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&l.released)), futexWake, 1)
}

// watch makes the watcher of a launch.
//
//go:noescape
func watch(box, flags, stack uintptr) (tid uintptr)
