//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchCalls is how many calls one round trip to the helper may carry.
	batchCalls = 64
	// roundTripLimit bounds a round trip. No call blocks; a helper that is stopped for
	// longer is given up.
	roundTripLimit = 10 * time.Second
)

// errHelper reports a helper that is gone. The next namespace gets another one.
var errHelper = errors.New("the helper task was killed: its stacks are lost, close them; new ones can be made")

// errStopped reports a helper that was given up.
var errStopped = fmt.Errorf("the helper task did not answer for %v, for somebody has stopped it (SIGSTOP), or the kernel holds it: it was killed, its stacks are lost, close them; new ones can be made", roundTripLimit)

// A helper is a task that shares memory and descriptors with the process and
// has namespaces of its own. It executes lists of system calls.
type helper struct {
	calls *sharedCalls
	pid   int
	base  int // descriptor of the network namespace where it rests
	// user is its user namespace.
	user nsID
	// origin says whether that is another one than the process's, and who may enter it.
	origin

	// users counts its namespaces, and those being made; guarded by helpers.mu.
	users int

	mu    sync.Mutex // guards the rest; not held across a round trip
	queue []*request
	busy  bool
	// cur is the namespace where the helper is; nil means the base. It belongs to the
	// leader of the current round trip, as do batch and nofile.
	cur    *NS
	batch  []*request
	nofile unix.Rlimit // the helper's limit of descriptors

	stopped atomic.Bool // it was given up

	roundTrips atomic.Uint64 // made so far
	gone       chan struct{} // closed when the task is dead

	waiting sync.Mutex // held while the process number is used, or given back
}

// unknown stands for a namespace that is not known.
var unknown = new(NS)

// A request is what one caller wants of the helper: calls to be made in the
// namespace ns. All calls after a failed one are skipped, unless each is set.
type request struct {
	ns     *NS
	enter  bool // enter ns first; without it, the calls make the namespace
	toBase bool // leave ns at the end
	each   bool
	calls  []call
	// meanwhile is called when the helper has begun, if it is not nil.
	meanwhile func()
	wake      chan bool // true: lead the next round trip; false: done

	// Places in the list: of the setns calls, if any, and of the first of calls.
	entry, exit, first int
	err                error // of the round trip, or of setns
	lost               error // why calls have no result
	// begun says that the first of calls was or may have been made: a helper that is
	// killed during a call leaves no result.
	begun bool
}

var requests = sync.Pool{New: func() any { return &request{wake: make(chan bool, 1)} }}

func newRequest(ns *NS) *request {
	r := requests.Get().(*request)
	r.ns, r.enter, r.toBase, r.each, r.err, r.lost, r.begun = ns, true, false, false, nil, errHelper, false
	return r
}

func (r *request) free() {
	r.ns, r.meanwhile = nil, nil
	clear(r.calls)
	r.calls = r.calls[:0]
	requests.Put(r)
}

// result returns what call i of the request returned.
func (r *request) result(i int) (uintptr, error) {
	if r.err != nil {
		return 0, r.err
	}
	c := &r.calls[i]
	if c.ret == notRun {
		return 0, r.lost
	}
	if errno := c.errno(); errno != 0 {
		return 0, errno
	}
	return c.ret, nil
}

// lost says why the helper is gone.
func (h *helper) lost() error {
	if h.stopped.Load() {
		return errStopped
	}
	return errHelper
}

// do executes the request. Requests that wait at the same time share one round trip:
// the first caller leads it, and then passes the lead to the first of those that came
// later.
func (h *helper) do(r *request) {
	h.mu.Lock()
	h.queue = append(h.queue, r)
	if h.busy {
		h.mu.Unlock()
		if lead := <-r.wake; !lead {
			return
		}
		h.mu.Lock()
	}
	h.busy = true
	batch, n := h.batch[:0], 0
	for _, q := range h.queue {
		if n += len(q.calls) + 2; n > batchCalls {
			break
		}
		batch = append(batch, q)
	}
	h.queue = slices.Delete(h.queue, 0, len(batch))
	h.mu.Unlock()

	h.roundTrip(batch)

	for _, q := range batch {
		if q != r {
			q.wake <- false
		}
	}
	h.mu.Lock()
	clear(batch)
	h.batch = batch
	if len(h.queue) > 0 {
		h.queue[0].wake <- true
	} else {
		h.busy = false
	}
	h.mu.Unlock()
}

// roundTrip sends the calls of all requests as one list, and distributes the results.
func (h *helper) roundTrip(batch []*request) {
	b := h.calls
	if b.state.Load() != stateIdle {
		for _, r := range batch {
			r.err = h.lost()
		}
		return
	}
	b.n = 0
	h.follow()
	cur, entry := h.cur, -1
	for i, r := range batch {
		if i == 0 || r.ns != batch[i-1].ns || batch[i-1].toBase || !r.enter {
			entry = -1
			if r.enter && cur != r.ns {
				fd := h.base
				if r.ns != nil {
					fd = r.ns.fd
				}
				entry = b.add(call{nr: unix.SYS_SETNS, args: [6]uintptr{uintptr(fd), unix.CLONE_NEWNET}})
			}
			cur = r.ns
		}
		if entry >= 0 {
			b.list()[entry].skip += uintptr(len(r.calls))
		}
		r.entry, r.first = entry, int(b.n)
		for j, c := range r.calls {
			if !r.each {
				c.skip = uintptr(len(r.calls) - j - 1)
			}
			b.add(c)
		}
		r.exit = -1
		if r.toBase {
			r.exit = b.add(call{nr: unix.SYS_SETNS, args: [6]uintptr{uintptr(h.base), unix.CLONE_NEWNET}})
			cur = nil
		}
	}
	if b.n == 0 {
		return
	}
	h.roundTrips.Add(1)
	posted := b.post()
	for _, r := range batch {
		if r.meanwhile != nil {
			r.meanwhile()
		}
	}
	if posted && !b.leaves(stateRequest, roundTripLimit) {
		h.stopped.Store(true)
		h.end()
		b.leaves(stateEnd, time.Second)
	}
	state := b.state.Load()
	h.cur = cur
	for _, r := range batch {
		r.lost = h.lost()
		if state == stateEnd { // and not dead yet
			r.err, r.begun = h.lost(), true
			continue
		}
		// A helper that died may have made some of the calls.
		list := b.list()
		if r.entry >= 0 {
			if errno := list[r.entry].errno(); errno != 0 {
				r.err = Refused(os.NewSyscallError("setns", errno))
			}
		}
		copy(r.calls, list[r.first:])
		if len(r.calls) > 0 {
			entered := r.err == nil && (r.entry < 0 || list[r.entry].ret != notRun)
			r.begun = r.calls[0].ret != notRun || posted && entered && state == stateGone
		}
		if r.err != nil || !r.enter && r.calls[0].errno() != 0 || r.exit >= 0 && list[r.exit].errno() != 0 {
			h.cur = unknown
		}
	}
}

// follow gives the helper the process's limit of descriptors: as a process of its own
// it would keep the limit with which it was made. If the process has become another
// user, the helper sets it itself, but cannot go above its own hard limit.
func (h *helper) follow() {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || now == h.nofile {
		return
	}
	h.nofile = now
	var err error
	h.byPID(func(pid int) { err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil) })
	if err == unix.EPERM {
		h.calls.add(call{nr: unix.SYS_PRLIMIT64, args: [6]uintptr{0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&h.nofile)), 0}})
	}
}

// leave makes sure that the helper does not rest in a namespace that is about to be
// closed, which would keep it alive.
func (h *helper) leave(ns *NS) {
	h.mu.Lock()
	away := !h.busy && h.cur != ns
	h.mu.Unlock()
	if away {
		return
	}
	r := newRequest(nil)
	h.do(r)
	r.free()
}

// startHelper makes a helper with a network namespace of its own. flags are those of
// clone: with CLONE_NEWUSER it also has a user namespace, which the process owns; that
// needs no privilege. The helper makes calls first.
func startHelper(flags uintptr, calls ...call) (_ *helper, err error) {
	b, err := newSharedCalls(batchCalls + 1) // and that of follow
	if err != nil {
		return nil, err
	}
	b.state.Store(stateIdle)
	h := &helper{calls: b, base: -1, gone: make(chan struct{})}
	h.origin = originNow(flags&unix.CLONE_NEWUSER != 0 || len(calls) > 0)
	ready := make(chan error)
	go h.keep(flags, ready)
	if err := <-ready; err != nil {
		b.free()
		return nil, err
	}
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	if flags&unix.CLONE_NEWUSER != 0 {
		if err := h.mapIDs(); err != nil {
			return nil, err
		}
	}
	r := newRequest(nil)
	defer r.free()
	r.enter = false
	r.calls = append(append(r.calls, calls...), socketCall(unix.AF_INET, unix.SOCK_DGRAM, 0))
	h.do(r)
	for i, c := range calls {
		if _, err := r.result(i); err != nil {
			return nil, os.NewSyscallError(callNames[c.nr], err)
		}
	}
	fd, err := r.result(len(calls))
	if err != nil {
		return nil, fmt.Errorf("first socket of the helper task: %w", err)
	}
	h.base, err = nsOfSocket(int(fd))
	unix.Close(int(fd))
	if err == nil {
		h.user, err = ownerID(h.base)
	}
	if err != nil {
		return nil, err // h is stopped
	}
	return h, nil
}

var callNames = map[uintptr]string{
	unix.SYS_SETNS: "setns", unix.SYS_UNSHARE: "unshare", unix.SYS_MOUNT: "mount", unix.SYS_SETHOSTNAME: "sethostname",
}

// end has the helper end by the state of its list. The signal is for a helper that is
// stopped; a process that has become another user may not send it.
func (h *helper) end() {
	h.calls.end()
	h.byPID(func(pid int) { unix.Kill(pid, unix.SIGKILL) })
}

// byPID calls f with the helper's process number, unless the helper is dead and another
// process may have the number.
func (h *helper) byPID(f func(pid int)) {
	h.waiting.Lock()
	defer h.waiting.Unlock()
	select {
	case <-h.gone:
	default:
		f(h.pid)
	}
}

// stop ends a helper that nobody uses.
func (h *helper) stop() {
	h.end()
	select {
	case <-h.gone:
	case <-time.After(time.Second):
		return // it is stopped, or hangs in the kernel
	}
	if h.base >= 0 {
		unix.Close(h.base)
	}
	h.calls.free()
}

// keep makes the task on a thread that stays, for the helper ends with the thread that
// made it. The thread then waits for the helper, so that its death leaves no zombie.
//
// When the thread ends, with the process, by exit, a signal or exec of another program,
// the kernel writes stateGone into the list and wakes the helper, whatever its
// credentials are. The parent-death signal is for a helper that is stopped and does not
// look at the list; it is not sent if the process has become another user.
func (h *helper) keep(flags uintptr, ready chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := clearAtExit(h.calls.addr())
	if err == nil {
		// It is no child of its own: another error means that no thread may wait.
		if err = unix.Waitid(unix.P_PID, os.Getpid(), nil, unix.WEXITED|unix.WNOHANG, nil); err == unix.ECHILD {
			err = nil
		}
		err = os.NewSyscallError("waitid", err)
	}
	if err != nil { // the helper would outlive the program
		restore()
		ready <- err
		return
	}
	flags |= unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_CHILD_CLEARTID
	// The helper inherits the mask, so that no handler ever runs in it.
	all, old := ^uint64(0), uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	pid := spawn(flags, h.calls.stackTop(), h.calls.addr(), h.calls.addr())
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	if pid > ^uintptr(4095) {
		restore()
		ready <- unix.Errno(-pid)
		return
	}
	h.pid = int(pid)
	ready <- nil
	for unix.Waitid(unix.P_PID, h.pid, nil, unix.WEXITED|unix.WALL|unix.WNOWAIT, nil) == unix.EINTR {
	}
	restore() // before the list is freed
	h.waiting.Lock()
	reap(h.pid)
	close(h.gone)
	h.waiting.Unlock()
}

// clearAtExit has the kernel write 0 to an address, and wake a waiter there, when the
// calling thread ends and another task has the memory. restore undoes that.
//
// Go's own threads have no such address. A thread of glibc, in a program with cgo, has
// one, which tells pthread_join and the cache of stacks that the thread has ended;
// restore gives it back. A kernel without CONFIG_CHECKPOINT_RESTORE does not say what
// it was, and the program keeps one unused stack.
func clearAtExit(addr uintptr) (restore func(), err error) {
	var old uintptr
	if unix.Prctl(unix.PR_GET_TID_ADDRESS, uintptr(unsafe.Pointer(&old)), 0, 0, 0) != nil {
		old = 0
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_TID_ADDRESS, addr, 0, 0); errno != 0 {
		err = os.NewSyscallError("set_tid_address", errno)
	}
	return func() { unix.RawSyscall(unix.SYS_SET_TID_ADDRESS, old, 0, 0) }, err
}

// mapIDs maps user and group ids into the helper's user namespace, each to itself: all
// that the process can see if that is allowed, otherwise its own.
func (h *helper) mapIDs() error {
	dir := fmt.Sprintf("/proc/%d/", h.pid)
	write := func(name, text string) error {
		f, err := os.OpenFile(dir+name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	ids := []struct {
		name string
		own  int
	}{{"uid_map", os.Geteuid()}, {"gid_map", os.Getegid()}}
	for _, id := range ids {
		whole, err := identity(id.name)
		if err == nil && write(id.name, whole) == nil {
			continue
		}
		if id.name == "gid_map" {
			// An unprivileged process may map its group only after this.
			if err := write("setgroups", "deny"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("mapping groups into the user namespace: %w", err)
			}
		}
		if err := write(id.name, fmt.Sprintf("%d %d 1\n", id.own, id.own)); err != nil {
			return fmt.Errorf("mapping ids into the user namespace: %w", err)
		}
	}
	return nil
}

// identity returns a map of all ids of the process's own namespace to themselves.
func identity(name string) (string, error) {
	text, err := os.ReadFile("/proc/self/" + name)
	if err != nil {
		return "", err
	}
	return identityOf(string(text))
}

// identityOf returns such a map for a namespace below one with the given map, in the
// format of user_namespaces(7).
func identityOf(ids string) (string, error) {
	var out strings.Builder
	for line := range strings.Lines(ids) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return "", fmt.Errorf("line %q of a map of ids has not three numbers", line)
		}
		fmt.Fprintf(&out, "%s %s %s\n", f[0], f[0], f[2])
	}
	return out.String(), nil
}

func socketCall(domain, typ, proto int) call {
	return call{nr: unix.SYS_SOCKET, args: [6]uintptr{uintptr(domain), uintptr(typ | unix.SOCK_CLOEXEC), uintptr(proto)}}
}

// nsOfSocket returns a descriptor of the network namespace of a socket.
func nsOfSocket(fd int) (int, error) {
	ns, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("ioctl SIOCGSKNS", errno)
	}
	return int(ns), nil
}
