//go:build amd64 || arm64

package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/vdestack/vdestack/internal/rlimit"
	"golang.org/x/sys/unix"
)

// An Exec describes a program for Start.
type Exec struct {
	Path string
	Args []string
	Env  []string
	// Dir is the working directory; nil means the process's own.
	Dir *os.File
	// Files become the descriptors 0, 1, …; of the others, the command gets only those
	// that are not close-on-exec. Nil leaves one closed.
	Files []*os.File
	// Setpgid puts the command in a process group of its own.
	Setpgid bool
	// Mounts, if any, are made in this order in a mount namespace of the command.
	Mounts []Mount
	// SysAdmin gives the command CAP_SYS_ADMIN too, and a mount namespace.
	SysAdmin bool
	// Hostname, if not empty, is the command's, in a UTS namespace of its own.
	Hostname string
	// Sysfs gives the command the sysfs of the namespace at /sys, where that is possible.
	Sysfs bool
	// SysfsErr says, after Start, why it was not.
	SysfsErr error

	slot *atomic.Int32 // of commands, while it runs
}

// A Mount is a file or directory, From, that is mounted over another, To. Both paths are
// absolute; symbolic links are followed.
type Mount struct {
	// From may be empty: To is covered by File, or else by an empty directory.
	From, To string
	File     *File
	// Make makes the file To first.
	Make bool
}

// A File is one of the command's own, which everybody may read. It may be in several mounts.
type File struct {
	Text string
	// Keep has Start open the file for writing.
	Keep bool
	// Opened is the caller's to close, after a Start without an error.
	Opened *os.File
}

// Start executes a program in the namespace, as a child of the process, which can be
// waited for and signalled like any other. It returns when the program runs, or could
// not be executed. Without an error, Ended must be called when it has ended.
//
//   - The child has the credentials and the confinement of the calling thread, as with
//     os/exec, and commandCaps; CAP_SYS_ADMIN if SysAdmin asks for it.
//   - With its process group it dies with the process, whatever user either has become.
func (n *NS) Start(ctx context.Context, e *Exec) (pid int, err error) {
	p := plan{path: e.Path, passed: -1}
	defer p.close()
	if e.needsTemp() {
		remove, err := p.makeTemp()
		if err != nil {
			return 0, fmt.Errorf("starting %s: %w", e.Path, err)
		}
		defer remove()
	}
	n.Lend()
	l, err := n.launch(ctx, e, &p)
	if err != nil {
		return 0, err
	}
	defer l.release()
	e.slot = l.slot
	defer func() {
		if err != nil {
			e.Ended()
		}
	}()
	child := int(l.pid.Load())
	if child == 0 {
		l.slot.Store(slotTaken) // the kernel may have written there nevertheless
		return 0, Limited(os.NewSyscallError("clone", unix.Errno(-l.ret)))
	}
	for i, c := range l.list() {
		if errno := c.errno(); errno != 0 && p.what[i] != "" {
			reap(child)
			return 0, p.explain(i, errno)
		}
		if errno := c.errno(); errno != 0 && p.sysfs[i] != "" {
			e.SysfsErr = explainSysfs(fmt.Errorf("%s: %w", p.sysfs[i], errno))
		}
	}
	switch {
	case l.stopped:
		reap(child)
		return 0, &os.PathError{Op: "exec", Path: e.Path, Err: fmt.Errorf("another process stopped it (SIGSTOP) before it ran, and did not continue it for %v: it was killed", stopLimit)}
	case l.cancelled.Load() != 0:
		reap(child)
		return 0, context.Cause(ctx)
	case l.signal != 0:
		reap(child)
		return 0, fmt.Errorf("starting %s: having it end with the program: %w", e.Path, Refused(os.NewSyscallError("prctl PR_SET_PDEATHSIG", unix.Errno(-l.signal))))
	case l.list()[l.n-2].ret == notRun: // the call before the exec
		reap(child)
		return 0, &os.PathError{Op: "exec", Path: e.Path, Err: errors.New("killed before it started")}
	}
	if err := p.takeFiles(); err != nil {
		l.cancel(e.Setpgid)
		reap(child)
		return 0, fmt.Errorf("starting %s: the files of its own: %w", e.Path, Limited(err))
	}
	return child, nil
}

// Ended releases what Start keeps to end the command with the process.
func (e *Exec) Ended() {
	if e.slot == nil {
		return
	}
	if fd := e.slot.Swap(slotFree); fd >= 0 {
		unix.Close(int(fd))
	}
	e.slot = nil
}

// launch clones the command, and returns when it has executed the program and closed
// other descriptors, or is dead.
func (n *NS) launch(ctx context.Context, e *Exec, p *plan) (*launch, error) {
	if err := n.alive(); err != nil {
		return nil, err
	}
	n.AllowPing()
	// The command has a copy of the descriptors, with those of the namespaces.
	net, err := n.File()
	if err != nil {
		return nil, err
	}
	p.files = append(p.files, net)
	user := -1
	if n.h.entered {
		if user, err = ownerOf(int(net.Fd())); err != nil {
			return nil, Limited(os.NewSyscallError("ioctl NS_GET_USERNS", err))
		}
		p.files = append(p.files, os.NewFile(uintptr(user), "userns"))
	}

	r, done, err := donePipe(max(1, len(e.Files))) // 0 is needed, see addOwnFiles
	if err != nil {
		return nil, Limited(err)
	}
	defer unix.Close(r)

	runtime.LockOSThread() // whose credentials count
	c := threadCreds()
	var l *launch
	if err = n.h.admit(&c); err != nil {
		err = fmt.Errorf("starting %s: %w", e.Path, err)
	} else if err = p.make(e, user, int(net.Fd()), done, &c); err == nil {
		l, err = newLaunch(p.calls, done)
	}
	if err != nil {
		runtime.UnlockOSThread()
		unix.Close(done)
		return nil, err
	}
	l.list()[l.n-2].args[1] = uintptr(unsafe.Pointer(&l.mask))

	forks.lock()
	defer forks.unlock()
	err = l.run()
	runtime.UnlockOSThread()
	if err != nil {
		return nil, explainThread(os.NewSyscallError("clone", err))
	}
	cancelled := make(chan bool)
	stop := context.AfterFunc(ctx, func() {
		l.cancel(e.Setpgid)
		close(cancelled)
	})
	l.waitDone(r, func() {
		l.stopped = true
		l.cancel(e.Setpgid)
	})
	if !stop() {
		<-cancelled
	}
	runtime.KeepAlive(p)
	return l, nil
}

// forks holds [syscall.ForkLock] while there are commands between clone and exec, for
// others hold it for reading while they have descriptors that no command may get.
// Unlike those of os/exec, the commands do not wait for each other.
var forks forkLock

// maxJoin is how many commands may join before readers have their turn.
const maxJoin = 16

type forkLock struct {
	mu     sync.Mutex // guards the rest
	n      int        // commands
	joined int        // commands since it was taken
}

func (f *forkLock) lock() {
	for {
		f.mu.Lock()
		if f.n == 0 {
			syscall.ForkLock.Lock()
			f.joined = 0
		}
		if f.joined < maxJoin {
			f.n++
			f.joined++
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		syscall.ForkLock.RLock()
		//lint:ignore SA2001 it waits for the commands
		syscall.ForkLock.RUnlock()
	}
}

func (f *forkLock) unlock() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 {
		syscall.ForkLock.Unlock()
	}
}

// Kill is kill(2), with the rights that the helper has over commands.
func (n *NS) Kill(pid int, sig unix.Signal) error {
	_, err := n.do(call{nr: unix.SYS_KILL, args: [6]uintptr{uintptr(pid), uintptr(sig)}})
	return os.NewSyscallError("kill", err)
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != unix.EINTR {
			return
		}
	}
}

// A plan is the list of calls of a child between clone and exec, and the memory
// and descriptors that it refers to.
type plan struct {
	calls  []call
	what   []string       // names of the calls; "" if one may fail
	mounts map[int]Mount  // the mounts among them
	sysfs  map[int]string // names of those for sysfs, which may fail
	keep   []any
	files  []*os.File
	path   string
	temp   string  // a directory to prepare mounts in, see makeTemp
	kept   []*File // those that the child passes on
	passed int     // the end of the socket that it passes them through, else -1
}

func (p *plan) add(what string, nr uintptr, args ...uintptr) {
	c := call{nr: nr, ret: notRun}
	copy(c.args[:], args)
	p.what = append(p.what, what)
	p.calls = append(p.calls, c)
}

func (p *plan) explain(i int, errno unix.Errno) error {
	what := p.what[i]
	if what == "exec" {
		return explainExec(&os.PathError{Op: what, Path: p.path, Err: errno})
	}
	err := os.NewSyscallError(what, errno)
	m, bind := p.mounts[i]
	switch {
	case bind && m.File != nil:
		err = fmt.Errorf("mounting a file over %s: %w", m.To, explainBind(err, "/", m.To))
	case bind && m.From == "":
		err = fmt.Errorf("mounting an empty directory over %s: %w", m.To, Refused(err))
	case bind:
		err = fmt.Errorf("mounting %s over %s: %w", m.From, m.To, explainBind(err, m.From, m.To))
	case what == "unshare" && p.calls[i].args[0] == unix.CLONE_NEWUTS:
		err = explainUTS(err)
	case what == "unshare", what == "mount":
		err = explainMount(err)
	case what == "setns", what == "sethostname", what == "capset", strings.HasPrefix(what, "prctl "):
		err = Refused(err)
	}
	return Limited(fmt.Errorf("starting %s: %w", p.path, err))
}

func (p *plan) close() {
	for _, f := range p.files {
		f.Close()
	}
	p.files = nil
	if p.passed >= 0 {
		unix.Close(p.passed)
		p.passed = -1
	}
}

// pointer returns the address of what v points to, which is kept for the life
// of the plan. The memory is in the heap, where it does not move.
func pointer[T any](p *plan, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

func (p *plan) make(e *Exec, user, net, done int, c *creds) error {
	path, err := unix.BytePtrFromString(e.Path)
	if err != nil {
		return &os.PathError{Op: "exec", Path: e.Path, Err: err}
	}
	argv, err := syscall.SlicePtrFromStrings(e.Args)
	if err != nil {
		return &os.PathError{Op: "exec", Path: e.Path, Err: fmt.Errorf("argument with a zero byte: %w", err)}
	}
	env, err := syscall.SlicePtrFromStrings(e.Env)
	if err != nil {
		return &os.PathError{Op: "exec", Path: e.Path, Err: fmt.Errorf("environment with a zero byte: %w", err)}
	}

	if e.Setpgid {
		p.add("setpgid", unix.SYS_SETPGID, 0, 0)
	}
	if e.Dir != nil {
		p.add("fchdir", unix.SYS_FCHDIR, e.Dir.Fd())
		p.keep = append(p.keep, e.Dir)
	}
	more := commandCaps
	if e.SysAdmin {
		more |= capsOf(unix.CAP_SYS_ADMIN)
	}
	p.enter(user, net, c, more)
	if err := p.addMounts(e); err != nil {
		return fmt.Errorf("starting %s: %w", e.Path, err)
	}
	if e.Hostname != "" {
		p.add("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS)
		p.add("sethostname", unix.SYS_SETHOSTNAME, p.text(e.Hostname), uintptr(len(e.Hostname)))
	}
	p.confine(user >= 0, c, more)
	p.addFiles(e.Files, done)
	// Package syscall raised the limit when the program started. If the program has set
	// another since, commands get that, as with os/exec.
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); rlimit.Known && err == nil && now.Cur == rlimit.Nofile[1]-1 && now.Max == rlimit.Nofile[1] {
		p.add("", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, pointer(p, &rlimit.Nofile), 0)
	}
	p.addSignals()
	p.add("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, 0, 0, 8) // see launch
	p.add("exec", unix.SYS_EXECVE, pointer(p, path), pointer(p, &argv[0]), pointer(p, &env[0]))
	p.keep = append(p.keep, argv, env)
	for i := range p.calls {
		if p.what[i] != "" {
			p.calls[i].skip = uintptr(len(p.calls)) // to its end
		}
	}
	return nil
}

// mount adds a mount(2) of paths without a zero byte.
func (p *plan) mount(what, from, to, fstype string, flags uintptr, data string) {
	p.add(what, unix.SYS_MOUNT, p.text(from), p.text(to), p.text(fstype), flags, p.text(data))
}

// text returns the address of a text, 0 for "".
func (p *plan) text(s string) uintptr {
	if s == "" {
		return 0
	}
	b := append([]byte(s), 0)
	return pointer(p, &b[0])
}

// addFiles gives the child its descriptors. One that is in the place of another is
// moved first.
func (p *plan) addFiles(files []*os.File, done int) {
	fds := make([]int, len(files))
	next := max(len(files), done+1) // done stays open until the exec
	for i, f := range files {
		fds[i] = -1
		if f != nil {
			fds[i] = int(f.Fd())
			next = max(next, fds[i]+1)
		}
	}
	p.keep = append(p.keep, files)
	for i, fd := range fds {
		if fd >= 0 && fd < i {
			p.add("dup3", unix.SYS_DUP3, uintptr(fd), uintptr(next), unix.O_CLOEXEC)
			fds[i] = next
			next++
		}
	}
	for i, fd := range fds {
		switch {
		case fd < 0:
			p.add("", unix.SYS_CLOSE, uintptr(i))
		case fd == i:
			p.add("fcntl", unix.SYS_FCNTL, uintptr(i), unix.F_SETFD, 0)
		default:
			p.add("dup3", unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
		}
	}
}

// sigaction is the kernel's struct sigaction, as large as on any architecture
// and zero but for the handler.
type sigaction struct {
	handler uintptr
	_       [4]uintptr
}

const sigIgn = 1

var dispositions = [...]sigaction{0: {}, sigIgn: {handler: sigIgn}}

// addSignals has the command ignore the signals that the process ignores, and resets
// all others: Go's handlers must not run in it.
func (p *plan) addSignals() {
	for s := 1; s < 65; s++ {
		if s == int(unix.SIGKILL) || s == int(unix.SIGSTOP) {
			continue
		}
		var now sigaction
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&now)), 8, 0, 0)
		then := &dispositions[0]
		if now.handler == sigIgn {
			then = &dispositions[sigIgn]
		}
		p.add("", unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(then)), 0, 8)
	}
}
