package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Cmd is a command to be run in a stack, made by Stack.Command. Its fields and
// methods mean the same as those of [exec.Cmd]; a Cmd runs once.
//
// The command sees the stack as its network, and the rest of the machine as the program
// does.
//
//   - As with exec.Cmd it has the credentials and the confinement of the goroutine's
//     thread at Start: user and groups, root and working directory, Landlock, seccomp,
//     no_new_privs, limits, schedule and session. What the program gives up later does
//     not change it.
//   - It has CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE and CAP_NET_BROADCAST
//     over its stack, so that ip, ping and tcpdump work for an ordinary user. Those
//     that the thread itself passes on, of which root has most, are over the stack too;
//     CAP_SYS_PTRACE is not among them.
//   - The stacks of a program are one trust domain: a command may list, make, move and
//     delete interfaces of the other stacks and of the networks mem:// and lan://
//     between them, and trace their commands. Where one of the two stacks is Isolated
//     it may not. It may send signals to all that the user's processes may, and what
//     /proc/PID/net shows of a network everybody may read. Commands of root have root's
//     rights over files in any case.
//   - Start fails in a program whose effective user is not the one that it had at its
//     first stack: become another user before that, or after the last command.
//   - It is killed when the program ends, however that happens and whatever user it has
//     become, and when the stack is closed; not when the thread that started it ends.
//     Its process group is killed with it (at the program's end: from Linux 6.9 on).
//   - It takes a thread and a descriptor of the program until Wait, three with Names.
//
// # Names
//
// Without Names, the command resolves names as the machine does: by its resolv.conf and
// hosts, and by services of the machine, whose sockets are in the file system and so in
// no network namespace. With it, the command has a mount namespace in which
//
//   - /etc/resolv.conf and /etc/hosts are those of the stack's [DNS]. A server with
//     another port than 53, an address in Hosts with a zone, and a name without an
//     address cannot be written there; the log says so once. A file that does not exist
//     cannot be replaced: Start returns an error if DNS needs it. Both are written again
//     in place by SetDNS, until the command has ended.
//   - These files can be written in place by the program's user, and mounted over, as
//     another stack's command with Names in this one does. They cannot be renamed or
//     removed: EBUSY.
//   - /etc/nsswitch.conf has "hosts: files dns", and is the machine's otherwise, for
//     users and groups. /etc/host.conf has "multi on".
//   - the directories of the sockets of nscd, systemd-resolved and avahi are empty.
//   - /sys is the sysfs of the stack, with /sys/class/net; what is mounted below, such
//     as cgroups, stays. Where parts of /sys are covered, as in containers, the kernel
//     refuses that; the log says so once, and the command has the machine's.
//
// Binds have precedence. If another mount is refused, Start returns an error: the
// command does not run with the names of the machine.
//
// Not hidden are
//
//   - D-Bus, through which programs can ask systemd-resolved and avahi;
//   - sssd, which also has users, and which glibc does not ask for hosts any more;
//   - services that make their directory later;
//   - files that a program of the machine replaces: the command sees a new
//     /etc/resolv.conf. If that is a link to /run/systemd/resolve, replacing the target
//     has no effect;
//   - anything from a command that looks for it, such as /proc/PID/root of another
//     process.
type Cmd struct {
	// Path is the program; relative paths are evaluated against Dir.
	Path string
	// Args are the arguments with the name first. Empty means {Path}.
	Args []string
	// Env is the environment; nil means the program's own.
	Env []string
	// Dir is the working directory; empty means the program's own.
	Dir string
	// Stdin, Stdout and Stderr: an *os.File is passed as it is, nil is the null
	// device, anything else is copied through a pipe by a goroutine.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// ExtraFiles become the descriptors 3, 4, …; a nil one stays closed.
	ExtraFiles []*os.File
	// KeepGroup leaves the command in the process group of the program, where signals
	// of the terminal reach it. Otherwise it has a group of its own, which is killed as
	// a whole.
	KeepGroup bool
	// Binds gives the command a mount namespace of its own and mounts these files and
	// directories in it, in this order. The kernel removes such a mount when a program
	// of the machine removes or replaces the file To.
	Binds []Bind
	// Names gives the command the names of the stack instead of the machine's, see
	// the section Names.
	Names bool
	// SysAdmin gives the command CAP_SYS_ADMIN too, so that it can mount, and a mount
	// namespace of its own. It is over the namespaces of all stacks of the program,
	// unless the stack is Isolated.
	SysAdmin bool
	// Hostname is the name of the machine that the command sees, in a UTS namespace of
	// its own; up to 64 bytes. Empty leaves it the machine's.
	Hostname string
	// WaitDelay bounds how long Wait waits for the end of the pipes after the command
	// has ended or ctx is done: other processes may have them open. 0 means no bound.
	WaitDelay time.Duration
	// Process is the process, once started.
	Process *os.Process
	// ProcessState says how the process ended, after Wait.
	ProcessState *os.ProcessState
	// Err is the error of the look-up of the name in PATH, if any. Start
	// returns it.
	Err error

	s       *Stack
	ctx     context.Context
	proc    *process
	closers []io.Closer // the child's ends, closed once it has them
	parent  []io.Closer // our ends, closed by Wait
	copiers []func() error
	copied  chan error
	done    chan struct{} // closed when Wait has the process's end
	watch   sync.WaitGroup
	waited  bool
}

// A Bind makes a file or directory appear in the place of another, for one
// command.
type Bind struct {
	// From is the absolute path of the file that the command sees. It may be removed when
	// Start has returned, but then nothing can be mounted over To: ENOENT.
	From string
	// To is the absolute path where the command sees it. It must exist; the target of a
	// symbolic link is replaced.
	To string
}

// Command returns a command to run in the stack. A name without a slash is looked up in
// PATH. The command is killed, with its process group, if ctx ends first.
func (s *Stack) Command(ctx context.Context, name string, arg ...string) *Cmd {
	if ctx == nil {
		panic("nil Context") // as exec.CommandContext
	}
	c := &Cmd{s: s.orNone(), ctx: ctx, Path: name, Args: append([]string{name}, arg...)}
	if !strings.Contains(name, "/") {
		path, err := exec.LookPath(name)
		if path != "" {
			c.Path = path
		}
		c.Err = err
	}
	return c
}

// String returns the command as it was given.
func (c *Cmd) String() string {
	return strings.Join(append([]string{c.Path}, c.argv()[1:]...), " ")
}

func (c *Cmd) argv() []string {
	if len(c.Args) == 0 {
		return []string{c.Path}
	}
	return c.Args
}

// environ completes the environment as exec.Cmd does: the last of several
// entries counts, and PWD follows Dir.
func (c *Cmd) environ() []string {
	return (&exec.Cmd{Env: c.Env, Dir: c.Dir}).Environ()
}

// Start starts the command and returns when the program runs or could not be
// executed. After a Start without error, Wait must be called.
func (c *Cmd) Start() (err error) {
	defer func() {
		closeAll(c.closers)
		if err != nil {
			closeAll(c.parent)
		}
		c.closers = nil
	}()
	switch {
	case c.Err != nil:
		return c.Err
	case c.s == nil:
		return errors.New("stack: a Cmd is made by Stack.Command")
	case c.Process != nil:
		return errors.New("stack: command was started already")
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	if err := c.check(); err != nil {
		return err
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	for i, f := range files {
		if f != nil && f.Fd() == ^uintptr(0) {
			return fmt.Errorf("stack: the file for descriptor %d of the command: %w", i, os.ErrClosed)
		}
	}
	if c.proc, err = c.s.start(c.ctx, c, files); err != nil {
		return err
	}
	if c.Process, err = os.FindProcess(c.proc.pid); err != nil {
		c.proc.kill()
		return err
	}
	c.copied = make(chan error, len(c.copiers))
	for _, f := range c.copiers {
		go func() { c.copied <- f() }()
	}
	c.done = make(chan struct{})
	if c.ctx.Done() != nil {
		c.watch.Go(func() {
			select {
			case <-c.ctx.Done():
				c.proc.kill()
			case <-c.done:
			}
		})
	}
	return nil
}

// maxHostname is __NEW_UTS_LEN of linux/utsname.h.
const maxHostname = 64

// check refuses paths and texts that no program can be executed with.
func (c *Cmd) check() error {
	if c.Path == "" {
		return errors.New("stack: Path of the command is empty")
	}
	for what, texts := range map[string][]string{"path": {c.Path}, "directory": {c.Dir}, "argument": c.Args, "environment variable": c.Env} {
		for _, text := range texts {
			if strings.ContainsRune(text, 0) {
				return fmt.Errorf("stack: %s %q has a zero byte", what, text)
			}
		}
	}
	if len(c.Hostname) > maxHostname || strings.ContainsRune(c.Hostname, 0) {
		return fmt.Errorf("stack: host name %q of the command is longer than %d bytes, or has a zero byte", c.Hostname, maxHostname)
	}
	for _, b := range c.Binds {
		for _, path := range []string{b.From, b.To} {
			if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
				return fmt.Errorf("stack: bind of %q over %q: path %q is not absolute, or has a zero byte", b.From, b.To, path)
			}
		}
	}
	return nil
}

// files returns the descriptors of the command.
func (c *Cmd) files() ([]*os.File, error) {
	stdin, err := c.stdin()
	if err != nil {
		return nil, err
	}
	stdout, err := c.output(c.Stdout)
	if err != nil {
		return nil, err
	}
	stderr := stdout
	if !same(c.Stdout, c.Stderr) {
		if stderr, err = c.output(c.Stderr); err != nil {
			return nil, err
		}
	}
	return append([]*os.File{stdin, stdout, stderr}, c.ExtraFiles...), nil
}

// same reports whether both outputs are one, which is then written by one goroutine only.
// Values that cannot be compared are different.
func same(a, b io.Writer) bool {
	defer func() { recover() }()
	return a != nil && a == b
}

func (c *Cmd) stdin() (*os.File, error) {
	switch r := c.Stdin.(type) {
	case nil:
		return c.null(os.O_RDONLY)
	case *os.File:
		return r, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.closers, c.parent = append(c.closers, pr), append(c.parent, pw)
	c.copiers = append(c.copiers, func() error {
		_, err := io.Copy(pw, c.Stdin)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
			err = nil // the command did not read all of it
		}
		return errors.Join(err, ignoreClosed(pw.Close()))
	})
	return pr, nil
}

func (c *Cmd) output(w io.Writer) (*os.File, error) {
	switch w := w.(type) {
	case nil:
		return c.null(os.O_WRONLY)
	case *os.File:
		return w, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.closers, c.parent = append(c.closers, pw), append(c.parent, pr)
	c.copiers = append(c.copiers, func() error {
		_, err := io.Copy(w, pr)
		pr.Close() // in case io.Copy stopped before the end of the output
		return ignoreClosed(err)
	})
	return pw, nil
}

func (c *Cmd) null(flag int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, f)
	return f, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func closeAll(cs []io.Closer) {
	for _, c := range cs {
		c.Close()
	}
}

// Wait waits for the end of the command and of its output. An exit status other
// than 0, or death by a signal, is an [*exec.ExitError]; a command that was
// killed because ctx was done gives ctx's error.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("stack: command was not started")
	}
	if c.waited {
		return errors.New("stack: Wait was called already")
	}
	c.waited = true
	err := c.proc.wait(func() (err error) {
		c.ProcessState, err = c.Process.Wait()
		return err
	})
	ctxErr := c.ctx.Err()
	close(c.done)
	c.watch.Wait()
	copyErr := c.waitCopies()
	closeAll(c.parent)
	switch {
	case err != nil:
		return err
	case !c.ProcessState.Success() && ctxErr != nil:
		return ctxErr
	case !c.ProcessState.Success():
		return &exec.ExitError{ProcessState: c.ProcessState}
	}
	return copyErr
}

func (c *Cmd) waitCopies() (err error) {
	var late <-chan time.Time
	if c.WaitDelay > 0 {
		t := time.NewTimer(c.WaitDelay)
		defer t.Stop()
		late = t.C
	}
	var delayed error
	for range c.copiers {
		select {
		case e := <-c.copied:
			err = errors.Join(err, e)
		case <-late:
			closeAll(c.parent) // which ends the copying
			late, delayed = nil, exec.ErrWaitDelay
			err = errors.Join(err, <-c.copied)
		}
	}
	if err == nil {
		err = delayed
	}
	return err
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it wrote to its standard output.
// What it wrote to an unset Stderr is in the [*exec.ExitError].
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("stack: Stdout is set already")
	}
	var out, errs bytes.Buffer
	c.Stdout = &out
	capture := c.Stderr == nil
	if capture {
		c.Stderr = &errs
	}
	err := c.Run()
	var exit *exec.ExitError
	if capture && errors.As(err, &exit) {
		exit.Stderr = errs.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to its standard
// output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("stack: Stdout or Stderr is set already")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// StdinPipe returns a pipe to the command's standard input. Wait closes it;
// close it earlier to let the command see the end.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("stack: Stdin is set already")
	}
	pr, pw, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stdin = pr
	c.closers, c.parent = append(c.closers, pr), append(c.parent, pw)
	return pw, nil
}

// StdoutPipe returns a pipe from the command's standard output. Wait closes it:
// read it to its end first.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stdout, "Stdout") }

// StderrPipe returns a pipe from the command's standard error. Wait closes it:
// read it to its end first.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stderr, "Stderr") }

func (c *Cmd) outPipe(w *io.Writer, name string) (io.ReadCloser, error) {
	if *w != nil {
		return nil, fmt.Errorf("stack: %s is set already", name)
	}
	pr, pw, err := c.pipe()
	if err != nil {
		return nil, err
	}
	*w = pw
	c.closers, c.parent = append(c.closers, pw), append(c.parent, pr)
	return pr, nil
}

func (c *Cmd) pipe() (r, w *os.File, err error) {
	if c.Process != nil {
		return nil, nil, errors.New("stack: command was started already")
	}
	return os.Pipe()
}
