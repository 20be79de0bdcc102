//go:build amd64 || arm64

package permissions

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// The environment of a child: which refusal, and which stage.
const (
	envName  = "PERMISSIONS_NAME"
	envStage = "PERMISSIONS_STAGE"
)

// id is the user and group in the namespaces of the children.
const id = 1000

func TestMain(m *testing.M) {
	name := os.Getenv(envName)
	if name == "" {
		testenv.Main(m)
	}
	all := slices.Concat(refusals, machines, []refusal{nested, ownersDevice, deviceGroup, bare, full, noUser, noNet, switchedOff})
	r := all[slices.IndexFunc(all, func(r refusal) bool { return r.name == name })]
	child := r.meet
	if os.Getenv(envStage) == "prepare" {
		child = r.become
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run provokes the refusal in a child, which checks the errors, and logs them.
func (r *refusal) run(t *testing.T) (out string) {
	t.Helper()
	return r.runAs(t, r.namespaces())
}

// runAs is run with the attributes of the child.
func (r *refusal) runAs(t *testing.T, attr *syscall.SysProcAttr) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = attr
	out, err := r.start(cmd, "prepare")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
	return out
}

// start runs a command as the child at the given stage.
func (r *refusal) start(cmd *exec.Cmd, stage string) (out string, err error) {
	cmd.Env = append(os.Environ(), envName+"="+r.name, envStage+"="+stage, "GOTRACEBACK=all", "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		return "", err
	}
	hung := time.AfterFunc(time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
	defer hung.Stop()
	err = cmd.Wait()
	return text.String(), err
}

// namespaces makes the child an ordinary user, even if root runs the test, with
// capabilities over a user namespace of its own.
func (r *refusal) namespaces() *syscall.SysProcAttr {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	as := id
	if r.uid0 {
		as = 0
	}
	a := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | r.flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: as, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: as, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{Uid: uint32(as), Gid: uint32(as), NoSetGroups: true},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_RESOURCE, unix.CAP_SETPCAP, unix.CAP_SETFCAP},
	}
	if r.unmapped {
		a.UidMappings, a.GidMappings, a.Credential, a.AmbientCaps = nil, nil, nil, nil
	}
	return a
}

// become prepares the child's environment, drops its capabilities, and executes the next
// stage.
func (r *refusal) become() error {
	runtime.LockOSThread() // exec uses the credentials of this thread
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if r.prepare != nil {
		if err := r.prepare(); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if !r.unmapped {
		if err := dropCapabilities(r.keep, r.uid0); err != nil {
			return err
		}
	}
	os.Setenv(envStage, "meet")
	argv, err1 := syscall.SlicePtrFromStrings(os.Args)
	envv, err2 := syscall.SlicePtrFromStrings(os.Environ())
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(self), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("exec: %w", errno)
}

// dropCapabilities leaves the next program only the given capabilities. With user id 0 it
// would get all that are inheritable or in the bounding set.
func dropCapabilities(keep []uintptr, bounding bool) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing capabilities: %w", err)
	}
	for c := uintptr(0); bounding && c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	for _, c := range keep {
		sets[c/32].Inheritable |= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for _, c := range keep {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("keeping capability %d: %w", c, err)
		}
	}
	return nil
}

// meet asks for a stack, prints the error, and checks that nothing is left of the attempt,
// that the next one ends in the same way, and that the remedy helps.
func (r *refusal) meet() error {
	// The first file that can wait creates the poller's own descriptors.
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	pr.SetDeadline(time.Time{})
	pr.Close()
	pw.Close()
	if r.refuse != nil {
		if err := r.refuse(); err != nil {
			return fmt.Errorf("refuse: %w", err)
		}
	}
	if r.check {
		return tell()
	}
	ask := r.ask
	if ask == nil {
		ask = openStack
	}
	before := taken()
	for range 2 {
		start := time.Now()
		err := ask()
		if !r.wants(err) {
			return fmt.Errorf("got\n\t%v\nwant\n\t%s", err, r.want)
		}
		if err == nil {
			return nil
		}
		fmt.Println(err)
		e, ok := errors.AsType[*vdestack.RefusedError](err)
		if ok != r.refused() && r.name != "another's namespace" || ok && !strings.HasSuffix(err.Error(), " ("+e.Reason+")") {
			return fmt.Errorf("a RefusedError: %v, %+v", ok, e)
		}
		if d := time.Since(start); d > 5*time.Second {
			return fmt.Errorf("it took %v", d)
		}
		if err := before.wait(r.helper); err != nil {
			return err
		}
	}
	if r.remedy == nil {
		return nil
	}
	if err := r.remedy(); err != nil {
		return fmt.Errorf("remedy: %w", err)
	}
	for end := time.Now().Add(10 * time.Second); ; { // the kernel frees namespaces late
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after the remedy: %w", err)
		}
	}
}

var pid = regexp.MustCompile(`/proc/\d+/`)

// refused reports whether the error is to be a RefusedError: limits that others may leave
// are not.
func (r *refusal) refused() bool {
	return !strings.Contains(r.want, "limit of ") && r.name != "proc missing, after a stack"
}

// wants reports whether an error is the wanted one.
func (r *refusal) wants(err error) bool {
	if err == nil {
		return r.want == ""
	}
	text := pid.ReplaceAllString(err.Error(), "/proc/PID/")
	pattern := strings.ReplaceAll(regexp.QuoteMeta(r.want), "…", ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(text)
}

// A count is what a process has.
type count struct{ files, goroutines, children int }

func taken() count {
	c := count{goroutines: runtime.NumGoroutine()}
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			c.files++
		}
	}
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil); err == nil {
		c.children = 1 // at least
	}
	return c
}

// wait waits until the process has no more than before, apart from the helper task with
// its descriptor and goroutine.
func (c count) wait(helper bool) error {
	if helper && c.children == 0 {
		c = count{c.files + 1, c.goroutines + 1, 1}
	}
	for end := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		now := taken()
		if now.files <= c.files && now.goroutines <= c.goroutines && now.children <= c.children {
			return nil
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			return fmt.Errorf("left behind: %+v, before %+v\n%s", now, c, buf[:runtime.Stack(buf, true)])
		}
	}
}
