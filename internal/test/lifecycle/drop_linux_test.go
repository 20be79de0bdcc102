//go:build amd64 || arm64

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() { register(drop, outlive, become, hide) }

// stranger is a user and a group that are neither root's nor the tests'.
const stranger = 12345

// A dropping is a change that a program makes to itself after its first stack.
type dropping struct {
	name string
	root bool // only root can do it
	do   func()
	// refused is the text of the error of commands, if there are none after that.
	refused string
}

var droppings = []dropping{
	{name: "nothing", do: func() {}},
	{name: "user", root: true, do: func() {
		check(syscall.Setgroups([]int{stranger}))
		check(syscall.Setgid(stranger))
		check(syscall.Setuid(stranger))
	}, refused: "the user namespace of the stack belongs to user 0, and the program has become user 12345"},
	{name: "effective user", root: true, do: func() { check(syscall.Setresuid(-1, stranger, -1)) },
		refused: "the program has become user 12345"},
	{name: "real user", root: true, do: func() {
		if cat, err := os.Readlink("/bin/cat"); err == nil && strings.Contains(cat, "busybox") {
			fmt.Println("busybox itself gives up the rights of an effective user")
			return
		}
		check(syscall.Setresuid(stranger, -1, -1))
	}},
	{name: "groups", root: true, do: func() {
		check(syscall.Setgroups([]int{stranger, stranger + 1}))
		check(syscall.Setgid(stranger))
	}},
	{name: "root directory", root: true, do: func() {
		if _, err := os.Stat("/usr/bin/sleep"); err != nil {
			fmt.Println("there are no programs in /usr as root directory")
			return
		}
		check(os.Chdir("/usr"))
		check(syscall.Chroot("."))
	}},
	{name: "no_new_privs", do: func() { check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) }},
	{name: "capabilities", root: true, do: func() { keep(unix.CAP_KILL) }},
	{name: "capabilities and no_new_privs", root: true, do: func() {
		keep(unix.CAP_KILL)
		check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	}},
	{name: "bounding set", root: true, do: func() { bound(unix.CAP_SETPCAP, unix.CAP_CHOWN) }},
	{name: "bounding set and capabilities", root: true, do: func() {
		bound()
		keep()
	}},
	{name: "securebits", root: true, do: func() {
		check(unix.Prctl(unix.PR_SET_SECUREBITS, noroot|norootLocked, 0, 0, 0))
	}},
	{name: "no ambient capabilities", root: true, do: func() {
		check(unix.Prctl(unix.PR_SET_SECUREBITS, noAmbientRaise|noAmbientRaiseLocked, 0, 0, 0))
	}},
	{name: "ambient capabilities", root: true, do: func() {
		set := capabilities()
		set[0].Inheritable |= 1<<unix.CAP_CHOWN | 1<<unix.CAP_SYS_PTRACE
		setCapabilities(set)
		check(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_CHOWN, 0, 0))
		check(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_PTRACE, 0, 0))
	}},
	{name: "Landlock", do: landlock},
	{name: "seccomp", do: func() {
		check(testenv.Refuse(testenv.Rule{Call: unix.SYS_MKNODAT, Err: unix.EPERM}))
	}},
	{name: "limits", do: func() {
		for _, limit := range []int{unix.RLIMIT_FSIZE, unix.RLIMIT_STACK, unix.RLIMIT_CORE, unix.RLIMIT_NOFILE, unix.RLIMIT_CPU, unix.RLIMIT_MEMLOCK} {
			var l unix.Rlimit
			check(unix.Getrlimit(limit, &l))
			l.Max = min(l.Max, 1<<20)
			l.Cur = min(l.Cur, 1<<18)
			check(unix.Setrlimit(limit, &l))
		}
	}},
	{name: "schedule", do: func() {
		var cpus, one unix.CPUSet
		check(unix.SchedGetaffinity(0, &cpus))
		for i := range 1024 {
			if cpus.IsSet(i) {
				one.Set(i)
				break
			}
		}
		check(unix.SchedSetaffinity(0, &one))
		check(unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 7}, 0))
		check(unix.Prctl(unix.PR_SET_TIMERSLACK, 123456, 0, 0, 0))
		check(os.WriteFile("/proc/self/oom_score_adj", []byte("321"), 0))
	}},
	{name: "session", do: func() {
		if _, err := unix.Setsid(); err != nil {
			check(unix.Setpgid(0, 0))
		}
	}},
	{name: "umask and directory", do: func() {
		syscall.Umask(0o271)
		check(os.Chdir("/proc"))
	}},
	{name: "signals", do: func() {
		blockHere(unix.SIGUSR1)
		signal.Ignore(unix.SIGUSR2, unix.SIGHUP)
	}},
}

// Of linux/securebits.h.
const (
	noroot, norootLocked                 = 1 << 0, 1 << 1
	noAmbientRaise, noAmbientRaiseLocked = 1 << 6, 1 << 7
)

// capabilities returns the capabilities of the thread.
func capabilities() (set [2]unix.CapUserData) {
	check(unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &set[0]))
	return set
}

func setCapabilities(set [2]unix.CapUserData) {
	check(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &set[0]))
}

// keep leaves the thread no other capabilities.
func keep(caps ...int) {
	var mask uint32
	for _, c := range caps {
		mask |= 1 << c
	}
	set := capabilities()
	for i := range set {
		set[i].Permitted &= mask
		set[i].Effective &= mask
		mask = 0
	}
	setCapabilities(set)
}

// bound leaves the bounding set of the thread no other capabilities.
func bound(caps ...int) {
	for c := range 64 {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && v == 1 && !slices.Contains(caps, c) {
			check(unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0))
		}
	}
}

// blockHere blocks a signal in the thread.
func blockHere(sig unix.Signal) {
	set := uint64(1) << (sig - 1)
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0); errno != 0 {
		fail("rt_sigprocmask: %v", errno)
	}
}

// landlock lets the thread read programs and /proc only.
func landlock() {
	const read = unix.LANDLOCK_ACCESS_FS_READ_FILE
	attr := unix.LandlockRulesetAttr{Handled_access_fs: read}
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		fmt.Println("the kernel has no Landlock")
		return
	}
	if errno != 0 {
		fail("landlock_create_ruleset: %v", errno)
	}
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64", "/proc", "/etc/ld.so.cache"} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		check(err)
		rule := unix.LandlockPathBeneathAttr{Allowed_access: read, Parent_fd: int32(fd)}
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, set, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
			fail("landlock_add_rule: %v", errno)
		}
	}
	check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0); errno != 0 {
		fail("landlock_restrict_self: %v", errno)
	}
}

// A hiding is a system call that a seccomp filter refuses, so that a command could not
// get the same credentials as its starter.
type hiding struct {
	name   string
	option uint32 // of prctl; 0 means all
	text   string // of the error
}

var hidings = []hiding{
	{name: "prctl", text: "reading the credentials that the command is to have: prctl: "},
	{name: "PR_CAPBSET_READ", option: unix.PR_CAPBSET_READ, text: "reading the credentials that the command is to have: prctl: "},
	{name: "PR_GET_SECUREBITS", option: unix.PR_GET_SECUREBITS, text: "reading the credentials that the command is to have: prctl: "},
	{name: "PR_GET_NO_NEW_PRIVS", option: unix.PR_GET_NO_NEW_PRIVS, text: "reading the credentials that the command is to have: prctl: "},
	{name: "PR_SET_PDEATHSIG", option: unix.PR_SET_PDEATHSIG, text: "prctl PR_SET_PDEATHSIG: "},
	{name: "PR_SET_SECUREBITS", option: unix.PR_SET_SECUREBITS, text: "prctl PR_SET_SECUREBITS: "},
	{name: "PR_CAP_AMBIENT", option: unix.PR_CAP_AMBIENT, text: "prctl PR_CAP_AMBIENT_RAISE: "},
	{name: "PR_CAPBSET_DROP", option: unix.PR_CAPBSET_DROP, text: "prctl PR_CAPBSET_DROP: "},
}

// hide has a filter refuse a call, after the first stack, and starts a command.
func hide() {
	h := hidings[slices.IndexFunc(hidings, func(h hiding) bool { return h.name == os.Args[1] })]
	errno := unix.EPERM
	if os.Args[2] == "ENOSYS" {
		errno = unix.ENOSYS
	}
	s := must(vdestack.Open("mem://hide", "10.0.0.1/24"))
	start := func() ([]byte, error) { return s.Command(contextOf(time.Minute), "echo", "it runs").Output() }
	must(start())
	before := descriptors()
	check(testenv.Refuse(testenv.Rule{Call: unix.SYS_PRCTL, Mask: h.option, Equal: h.option != 0, Err: errno}))
	out, err := start()
	if !errors.Is(err, errno) || len(out) > 0 {
		fail("a command: %q, %v, want %v", out, err, errno)
	}
	wantText("a command", err, h.text, "seccomp filter")
	fmt.Println(err)
	wantNoChild()
	if after := descriptors(); len(after) != len(before) {
		fail("descriptors: %v, %v before", after, before)
	}
}

// TestHidden starts commands where a seccomp filter hides the credentials that they must
// have, or would leave them more: they do not run, and the error says why.
func TestHidden(t *testing.T) {
	testenv.Long(t)
	for _, h := range hidings {
		for _, errno := range []string{"EPERM", "ENOSYS"} {
			t.Run(h.name+" "+errno, func(t *testing.T) { run(t, program(t, "hide", h.name, errno)) })
		}
	}
}

// inherited returns what a process inherits from the thread that starts it.
func inherited(t *testing.T, pid string) map[string]string {
	t.Helper()
	proc := "/proc/" + pid + "/"
	all := make(map[string]string)
	for _, name := range []string{"root", "cwd", "ns/mnt"} {
		all[name] = testenv.Must(os.Readlink(proc + name))(t)
	}
	read := func(name string) string {
		text, err := os.ReadFile(proc + name)
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			return errno.Error() // the kernel has no such file, or does not show it
		}
		return string(text)
	}
	for _, name := range []string{"cgroup", "limits", "oom_score_adj", "timerslack_ns", "personality", "attr/current"} {
		all[name] = read(name)
	}
	for line := range strings.Lines(read("status")) {
		label, value, _ := strings.Cut(line, ":")
		switch label {
		case "Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed", "SigBlk", "SigIgn", "SigCgt",
			"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			all[label] = strings.TrimSpace(value)
		}
	}
	stat := read("stat")
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 39 {
		t.Fatalf("process %s: %q", pid, stat)
	}
	// Numbers of proc_pid_stat(5); the first of these is 3.
	for name, n := range map[string]int{"parent": 4, "group": 5, "session": 6, "terminal": 7, "priority": 18, "nice": 19, "real time": 40, "policy": 41} {
		all[name] = f[n-3]
	}
	return all
}

// drop makes a change after its first stack, and compares a command with one of os/exec.
func drop() {
	d := droppings[slices.IndexFunc(droppings, func(d dropping) bool { return d.name == os.Args[1] })]
	secret, refused := os.Args[2], os.Args[3]
	runtime.LockOSThread()
	if len(os.Args) > 4 { // plain
		check(testenv.Refuse(testenv.Rule{Call: unix.SYS_CLONE, Mask: unix.CLONE_NEWUSER, Err: unix.EPERM}))
	}
	null := must(os.OpenFile(os.DevNull, os.O_RDWR, 0))
	s := must(vdestack.Open("mem://drop", "10.0.0.1/24"))
	check(s.Command(contextOf(time.Minute), "true").Run())
	d.do()
	before := must(unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0))

	if refused != "" {
		err := s.Command(context.Background(), "/bin/cat", secret).Run()
		if !errors.Is(err, unix.EPERM) {
			fail("a command: %v", err)
		}
		wantText("a command", err, refused)
		fmt.Println(err)
		return
	}

	child := func(name string, arg ...string) *exec.Cmd {
		c := exec.Command(name, arg...)
		c.Stdin, c.Stdout, c.Stderr = null, null, null
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	command := func(name string, arg ...string) *vdestack.Cmd {
		c := s.Command(context.Background(), name, arg...)
		c.Stdin, c.Stdout, c.Stderr, c.KeepGroup = null, null, null, true
		return c
	}
	want, got := child("/bin/cat"), command("/bin/cat")
	want.Stdin, want.Stdout, got.Stdin, got.Stdout = nil, nil, nil, nil
	for _, c := range []interface {
		StdinPipe() (io.WriteCloser, error)
		StdoutPipe() (io.ReadCloser, error)
		Start() error
	}{want, got} {
		in, out := must(c.StdinPipe()), must(c.StdoutPipe())
		check(c.Start())
		// When it answers, the exec is complete: the kernel sets credentials a little
		// after it has replaced the memory.
		must(io.WriteString(in, "x"))
		must(io.ReadFull(out, make([]byte, 1)))
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || now != before {
		fail("dumpable is %d, %v, and was %d before the command", now, err, before)
	}
	fmt.Println(want.Process.Pid, got.Process.Pid)
	os.Stdin.Read(make([]byte, 1)) // until the test has looked at them
	// A file of another user: it is read, and executed.
	for _, args := range [][]string{{"/bin/cat", secret}, {secret}} {
		want, got := child(args[0], args[1:]...).Run(), command(args[0], args[1:]...).Run()
		if (want == nil) != (got == nil) || errors.Is(want, unix.EACCES) != errors.Is(got, unix.EACCES) {
			fail("%q: %v, want %v", args, got, want)
		}
		fmt.Printf("%q: %v\n", args, got)
	}
	fmt.Println("done")
}

// TestDrop compares the commands of programs after each change.
func TestDrop(t *testing.T) {
	testenv.Long(t)
	for _, d := range droppings {
		t.Run(d.name, func(t *testing.T) {
			if d.root && os.Geteuid() != 0 {
				t.Skip("for root")
			}
			d.compare(t, network)
		})
	}
}

// TestDropPlain does so without user namespaces. There commands have the capabilities
// over the network only if the program may pass them on.
func TestDropPlain(t *testing.T) {
	testenv.Long(t)
	if os.Geteuid() != 0 {
		t.Skip("for root")
	}
	for _, d := range droppings {
		switch d.name {
		case "user", "effective user", "capabilities", "bounding set and capabilities":
			d.refused = "the program has given up CAP_SYS_ADMIN"
		case "nothing", "groups", "root directory", "bounding set", "securebits", "Landlock", "schedule":
		default:
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			more := uint64(network)
			if d.name == "bounding set" {
				more = 0
			}
			d.compare(t, more, "plain")
		})
	}
}

// compare runs the program. Its commands have the same as its children, and more
// capabilities.
func (d *dropping) compare(t *testing.T, more uint64, plain ...string) {
	secret := t.TempDir() + "/secret"
	testenv.Check(t, os.WriteFile(secret, []byte("#!/bin/true\n"), 0o100))
	if os.Geteuid() == 0 {
		testenv.Check(t, os.Chown(secret, stranger+7, stranger+7))
	}
	cmd := program(t, "drop", append([]string{d.name, secret, d.refused}, plain...)...)
	cmd.WaitDelay = 5 * time.Second // for a process of it that lives on
	if d.refused != "" {
		run(t, cmd)
		return
	}
	out, in := launch(t, cmd)
	var pids []string
	for len(pids) != 2 {
		line := readLine(t, out)
		t.Log(line)
		pids = strings.Fields(line)
	}
	want, got := inherited(t, pids[0]), inherited(t, pids[1])
	for name, w := range want {
		if strings.HasPrefix(name, "Cap") {
			set := testenv.Must(strconv.ParseUint(w, 16, 64))(t)
			w = fmt.Sprintf("%016x", (set|more)&^(1<<unix.CAP_SYS_PTRACE))
		}
		if got[name] != w && w != unix.EPERM.Error() { // the slack is shown to root
			t.Errorf("%s of a command: %q, want %q", name, got[name], w)
		}
	}
	in.Close()
	for line := ""; line != "done"; {
		line = readLine(t, out)
		t.Log(line)
	}
}

// network has the capabilities that all commands have over their stacks.
const network = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_BROADCAST

// outlive starts a command, and makes a change that could let it survive the program. It
// prints the number of the process that must end, and ends itself or is killed.
func outlive() {
	how := os.Args[1]
	if how == "ids" {
		check(syscall.Setresuid(stranger, 0, 0))
	}
	s := must(vdestack.Open("mem://outlive", "10.0.0.1/24"))
	helper := theHelper()
	c := s.Command(context.Background(), "sleep", "1000")
	switch how {
	case "change", "set-user-ID", "stopped":
		c = s.Command(context.Background(), "/proc/self/exe")
		if how == "set-user-ID" {
			c.Path = os.Args[3]
		}
		c.Env = append(os.Environ(), testenv.ProgramVariable+"=become")
	case "background":
		c = s.Command(context.Background(), "sh", "-c", "sleep 1000 & echo $!; wait")
	}
	out := must(c.StdoutPipe())
	tid := make(chan int)
	var start func()
	start = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			go start() // the first thread of a program does not end
			select {}
		}
		if how == "capabilities" {
			keep()
		}
		check(c.Start())
		tid <- unix.Gettid()
		if how != "thread" {
			select {}
		}
		// The thread ends with the goroutine.
	}
	go start()
	thread := <-tid
	pid := c.Process.Pid
	switch how {
	case "thread":
		await(10*time.Second, "the end of a thread", func() error { return unix.Tgkill(os.Getpid(), thread, 0) },
			func(err error) bool { return err == unix.ESRCH })
		if state := status(strconv.Itoa(pid), "State"); state == "" || strings.HasPrefix(state, "Z") {
			fail("the command ended with the thread that had started it: %q", state)
		}
	case "user", "close":
		check(syscall.Setuid(stranger))
	case "background":
		must(fmt.Fscan(out, &pid))
	case "change", "set-user-ID", "stopped":
		var user int
		must(fmt.Fscan(out, &user))
		if user != stranger {
			fmt.Println("skip: the command does not change its user here")
			return
		}
	}
	if how == "stopped" {
		check(unix.Kill(helper, unix.SIGSTOP))
		await(10*time.Second, "a stopped helper", func() string { return status(strconv.Itoa(helper), "State") },
			func(state string) bool { return strings.HasPrefix(state, "T") })
	}
	fmt.Println(pid)
	os.Stdin.Read(make([]byte, 1))
	if how == "close" {
		s.Close()
		c.Wait()
		fmt.Println("closed")
		select {}
	}
	ends[os.Args[2]]()
}

// become is a command that is, or becomes, another user.
func become() {
	if os.Geteuid() != stranger {
		check(syscall.Setresuid(stranger, stranger, stranger))
	}
	fmt.Println(os.Geteuid())
	select {}
}

// TestOutlive checks that commands end with their programs, whatever the program, the
// thread that started them and the commands themselves have become.
func TestOutlive(t *testing.T) {
	testenv.Long(t)
	for _, tt := range []struct {
		how  string
		root bool
		ends []string
	}{
		{how: "nothing"}, {how: "thread"}, {how: "capabilities"}, {how: "background"},
		{how: "user", root: true}, {how: "close", root: true},
		{how: "ids", root: true}, {how: "set-user-ID", root: true}, {how: "stopped", root: true},
		{how: "change", root: true, ends: []string{"exit", "kill", "abort", "exec"}},
	} {
		if tt.ends == nil {
			tt.ends = []string{"kill"}
		}
		for _, end := range tt.ends {
			t.Run(tt.how+", "+end, func(t *testing.T) {
				if tt.root && os.Geteuid() != 0 {
					t.Skip("for root")
				}
				args := []string{tt.how, end}
				switch tt.how {
				case "background":
					if !signalsGroups(t) {
						t.Skip("needs PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9)")
					}
				case "set-user-ID":
					args = append(args, setUserID(t))
				}
				cmd := program(t, "outlive", args...)
				if end == "abort" {
					cmd.Dir = t.TempDir() // for the dump
				}
				out, in := launch(t, cmd)
				line := readLine(t, out)
				if reason, ok := strings.CutPrefix(line, "skip: "); ok {
					t.Skip(reason)
				}
				fd := pidfd(t, line)
				if end != "exec" {
					in.Close()
				} else if _, err := in.Write([]byte{1}); err != nil { // the program that it executes ends with its input
					t.Fatal(err)
				}
				if tt.how == "close" {
					readLine(t, out)
				}
				if !ended(fd, 5*time.Second) {
					unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
					t.Error("the command outlives the program, or its stack")
				}
			})
		}
	}
}

// signalsGroups reports whether the kernel can send a signal to the group of a process.
func signalsGroups(t *testing.T) bool {
	fd := testenv.PIDFD(t, os.Getpid())
	return unix.PidfdSendSignal(fd, 0, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP) != unix.EINVAL
}

// setUserID returns a copy of the test binary that belongs to the stranger and is
// set-user-ID.
func setUserID(t *testing.T) string {
	t.Helper()
	text := testenv.Must(os.ReadFile("/proc/self/exe"))(t)
	path := t.TempDir() + "/program"
	testenv.Check(t, errors.Join(os.WriteFile(path, text, 0o755), os.Chown(path, stranger, -1), os.Chmod(path, 0o755|os.ModeSetuid)))
	return path
}
