//go:build amd64 || arm64

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack/internal/rlimit"
	"golang.org/x/sys/unix"
)

// commandCaps are the capabilities of commands, over their namespace only: with
// them, ip, ping and their like work for an ordinary user.
var commandCaps = []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_BROADCAST}

// An Exec says what Start executes.
type Exec struct {
	Path string
	Args []string
	Env  []string
	// Dir is the working directory; nil means the process's own.
	Dir *os.File
	// Files become the descriptors 0, 1, …; the command gets no other, but for
	// those of the process that are not close-on-exec. Nil leaves one closed.
	Files []*os.File
	// Setpgid puts the command in a process group of its own.
	Setpgid bool
	// Binds, if any, are made in this order in a mount namespace of the
	// command's own.
	Binds []Bind
}

// A Bind is a file or directory, From, that is mounted over another, To. Both
// paths are absolute; of symbolic links, what they lead to counts.
type Bind struct{ From, To string }

// Start executes a program in the namespace, as a child of the process: it can
// be waited for and signalled like any other. The child dies with the process.
// Start returns when the program runs, or could not be executed.
func (n *NS) Start(ctx context.Context, e *Exec) (pid int, err error) {
	p := plan{}
	defer p.close()
	if err := p.make(e, n.h); err != nil {
		return 0, err
	}
	b, err := newBox(len(p.calls))
	if err != nil {
		return 0, err
	}
	unused := true
	defer func() {
		if unused {
			b.free()
		}
	}()
	last := len(p.calls) - 1
	for i, c := range p.calls {
		if !p.optional[i] {
			c.skip = uintptr(last - i - 1)
		}
		b.add(c)
	}
	b.state.Store(stateRequest)

	n.mu.RLock()
	if n.fd < 0 {
		n.mu.RUnlock()
		return 0, net.ErrClosed
	}
	r := newRequest(n)
	r.calls = append(r.calls, call{
		nr:    unix.SYS_CLONE,
		args:  cloneArgs(unix.CLONE_VM|unix.CLONE_PARENT|unix.CLONE_PARENT_SETTID|unix.CLONE_CHILD_CLEARTID, b.stackTop(), b.childAddr(), b.addr()),
		child: b.addr(),
	})
	n.h.do(r)
	ret, err := r.result(0)
	r.free()
	if errors.Is(err, errHelper) {
		// It was killed, maybe after it made the child, which reads the box.
		if child := int(b.child.Load()); child != 0 {
			unix.Kill(child, unix.SIGKILL)
			reap(child)
		}
		unused = n.h.box.state.Load() == stateGone
	}
	n.mu.RUnlock()
	if err != nil {
		return 0, Limited(os.NewSyscallError("clone", err))
	}
	child := int(ret)

	// The task is our child and nobody waits for it yet: the pid stays its own.
	signalled := make(chan bool)
	stop := context.AfterFunc(ctx, func() {
		unix.Kill(child, unix.SIGKILL)
		if e.Setpgid {
			// The program may have run, and started others. It starts no more;
			// the other way round it could, if it had no group yet.
			unix.Kill(-child, unix.SIGKILL)
		}
		close(signalled)
	})
	for !b.wait(time.Minute) {
	}
	killed := !stop()
	if killed {
		<-signalled
	}
	runtime.KeepAlive(&p)
	for i, c := range b.list() {
		if errno := c.errno(); errno != 0 && !p.optional[i] {
			reap(child)
			return 0, p.explain(i, errno)
		}
	}
	// Until it executes the program, a clone of the helper is no ordinary child.
	if err := unix.Waitid(unix.P_PID, child, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); killed || err == unix.ECHILD {
		reap(child)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, &os.PathError{Op: "exec", Path: e.Path, Err: errors.New("killed before it started")}
	}
	return child, nil
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
	calls    []call
	optional map[int]bool   // calls whose error does not matter
	what     map[int]string // names of the others
	mounts   map[int]Bind   // the binds among them
	keep     []any
	files    []*os.File
	path     string
}

func (p *plan) add(what string, nr uintptr, args ...uintptr) {
	c := call{nr: nr}
	copy(c.args[:], args)
	if p.what == nil {
		p.what, p.optional = make(map[int]string), make(map[int]bool)
	}
	if what == "" {
		p.optional[len(p.calls)] = true
	}
	p.what[len(p.calls)] = what
	p.calls = append(p.calls, c)
}

func (p *plan) explain(i int, errno unix.Errno) error {
	if p.what[i] == "exec" {
		return explainExec(&os.PathError{Op: "exec", Path: p.path, Err: errno})
	}
	err := os.NewSyscallError(p.what[i], errno)
	switch p.what[i] {
	case "unshare":
		err = explainMount(err)
	case "mount":
		if _, ok := p.mounts[i]; !ok {
			err = Refused(err)
		}
	}
	if b, ok := p.mounts[i]; ok {
		err = fmt.Errorf("mounting %s over %s: %w", b.From, b.To, explainBind(err, b.From, b.To))
	}
	return Limited(fmt.Errorf("starting %s: %w", p.path, err))
}

func (p *plan) close() {
	for _, f := range p.files {
		f.Close()
	}
}

// pointer returns the address of what v points to, which is kept for the life
// of the plan. The memory is in the heap, where it does not move.
func pointer[T any](p *plan, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

func (p *plan) make(e *Exec, h *helper) error {
	p.path = e.Path
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

	p.addCaps()
	if e.Setpgid {
		p.add("setpgid", unix.SYS_SETPGID, 0, 0)
	}
	dir := e.Dir
	if dir == nil {
		// The helper's directory is the one in which it was made.
		if dir, err = os.OpenFile(".", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return fmt.Errorf("starting %s: working directory: %w", e.Path, err)
		}
		p.files = append(p.files, dir)
	}
	p.add("fchdir", unix.SYS_FCHDIR, dir.Fd())
	p.keep = append(p.keep, dir)
	if err := p.addBinds(e.Binds); err != nil {
		return fmt.Errorf("starting %s: %w", e.Path, err)
	}
	if mask, err := strconv.ParseUint(field("/proc/thread-self/status", "Umask:"), 8, 32); err == nil {
		p.add("", unix.SYS_UMASK, uintptr(mask))
	}
	p.addFiles(e.Files)
	// Package syscall raised the limit when the program started. The program may
	// have set another since: commands get that, as with os/exec.
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); rlimit.Known && err == nil && now.Cur == rlimit.Nofile[1] && now.Max == rlimit.Nofile[1] {
		p.add("", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, pointer(p, &rlimit.Nofile), 0)
	}
	p.addSignals(h)
	p.add("exec", unix.SYS_EXECVE, pointer(p, path), pointer(p, &argv[0]), pointer(p, &env[0]))
	p.keep = append(p.keep, argv, env)
	p.add("", unix.SYS_EXIT_GROUP, 127)
	return nil
}

// addCaps raises the ambient capabilities. Errors do not matter: root without a
// user namespace has them anyway. The permitted set stays whole, the kernel
// takes from it only what is there: were it smaller, root's exec would enlarge
// it again, and a task whose capabilities grow loses its parent-death signal,
// which it has set before anything else.
func (p *plan) addCaps() {
	data := new([2]unix.CapUserData)
	for i := range data {
		data[i] = unix.CapUserData{Effective: ^uint32(0), Permitted: ^uint32(0)}
	}
	for _, c := range commandCaps {
		data[c/32].Inheritable |= 1 << (c % 32)
	}
	p.add("", unix.SYS_CAPSET, pointer(p, &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}), pointer(p, &data[0]))
	for _, c := range commandCaps {
		p.add("", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c))
	}
}

// addBinds gives the child a mount namespace with files of its own. It comes
// after the working directory, which moves to the new namespace with the child:
// one that is entered later would still be that of the old.
func (p *plan) addBinds(binds []Bind) error {
	if len(binds) == 0 {
		return nil
	}
	p.add("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	// Nothing may propagate to where the child comes from.
	root, none := []byte("/\x00"), []byte("none\x00")
	p.add("mount", unix.SYS_MOUNT, pointer(p, &none[0]), pointer(p, &root[0]), 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	p.mounts = make(map[int]Bind)
	for _, b := range binds {
		var paths [2]*byte
		for i, path := range []string{b.From, b.To} {
			if !filepath.IsAbs(path) {
				return fmt.Errorf("bind %s over %s: path %q is not absolute", b.From, b.To, path)
			}
			var err error
			if paths[i], err = unix.BytePtrFromString(path); err != nil {
				return fmt.Errorf("bind: path %q: %w", path, err)
			}
		}
		p.mounts[len(p.calls)] = b
		p.add("mount", unix.SYS_MOUNT, pointer(p, paths[0]), pointer(p, paths[1]), 0, unix.MS_BIND|unix.MS_REC, 0)
	}
	return nil
}

// addFiles gives the child its descriptors. One that stands where another is to
// go is moved out of the way first.
func (p *plan) addFiles(files []*os.File) {
	fds := make([]int, len(files))
	next := len(files)
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

// addSignals ignores the signals that the process ignores now, and only those,
// and blocks none.
func (p *plan) addSignals(h *helper) {
	for s := syscall.Signal(1); s < 65; s++ {
		now, then := signal.Ignored(s), slices.Contains(h.ignored, s)
		if now == then {
			continue
		}
		act := &sigaction{}
		if now {
			act.handler = sigIgn
		}
		p.add("", unix.SYS_RT_SIGACTION, uintptr(s), pointer(p, act), 0, 8)
	}
	p.add("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, pointer(p, new(uint64)), 0, 8)
}
