//go:build amd64 || arm64

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func init() {
	programs["surroundings"] = surroundings
	programs["silence"] = silence
	programs["replace"] = replace
	programs["replaced"] = replaced
	programs["crash"] = crash
}

// A surrounding is what the program around the stacks can see of itself.
type surrounding struct {
	masks, ignored, caught string // of signals; the masks of all threads, without repetition
	dumpable               int
	umask, dir             string
	credentials            string
}

func lookAround() (s surrounding) {
	tasks, err := filepath.Glob("/proc/self/task/*")
	check(err)
	var masks []string
	for _, task := range tasks {
		m := status("self/task/"+filepath.Base(task), "SigBlk")
		// Threads of the runtime and the race detector have masks of their own.
		if m != "" && (!strings.HasPrefix(m, "fffffff") || m == allBlocked) {
			masks = append(masks, m)
		}
	}
	slices.Sort(masks)
	s.masks = strings.Join(slices.Compact(masks), " ")
	s.ignored, s.caught = status("self", "SigIgn"), status("self", "SigCgt")
	s.dumpable, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	check(err)
	s.umask = status("self", "Umask")
	s.dir, err = os.Getwd()
	check(err)
	for _, label := range []string{"Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
		s.credentials += status("self", label) + "; "
	}
	return s
}

// settled looks around when threads have so many different signal masks: those
// of the runtime have others at their birth and at their end.
func settled(masks int) (s surrounding) {
	if !eventually(10*time.Second, func() bool { s = lookAround(); return strings.Count(s.masks, " ") == masks-1 }) {
		fail("there are not %d signal masks: %s", masks, s.masks)
	}
	return s
}

func checkSurrounding(before surrounding) {
	var now surrounding
	if !eventually(10*time.Second, func() bool { now = lookAround(); return now == before }) {
		fail("now %+v, before %+v", now, before)
	}
}

// allBlocked is a signal mask with all signals but SIGKILL and SIGSTOP.
const allBlocked = "fffffffffffbfeff"

// blockOne blocks a signal in one thread, as cgo code may do.
func blockOne(sig unix.Signal) {
	done := make(chan bool)
	go func() {
		runtime.LockOSThread()
		set := uint64(1) << (sig - 1)
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0); errno != 0 {
			fail("rt_sigprocmask: %v", errno)
		}
		close(done)
		select {}
	}()
	<-done
}

// surroundings uses stacks in every way, and sees itself as it was before.
func surroundings() {
	// A signal with a handler: the runtime starts to handle it now.
	sigchld := make(chan os.Signal, 1000)
	signal.Notify(sigchld, unix.SIGCHLD)
	arrives := func(what string) {
		select {
		case <-sigchld:
		case <-time.After(10 * time.Second):
			fail("no SIGCHLD of %s", what)
		}
	}
	signal.Ignore(unix.SIGUSR2)
	blockOne(unix.SIGUSR1)
	before := settled(2)
	fmt.Printf("before: %+v\n", before)
	if before.dumpable != 1 {
		fail("the program cannot be dumped at its start")
	}

	s, err := vdestack.Open("mem://around", "10.0.0.1/24", "fc00::1/64")
	check(err)
	helper := theHelper()
	if mask := status(strconv.Itoa(helper), "SigBlk"); mask != allBlocked {
		fail("the helper may be interrupted by signals: it blocks %s", mask)
	}
	for name, f := range calls(s) {
		if err := f(); err != nil {
			fail("%s: %v", name, err)
		}
	}
	arrives("a command")
	checkSurrounding(before)

	// /proc/self/mem is what debuggers read.
	secret := []byte("a word of the program's memory")
	mem, err := os.Open("/proc/self/mem")
	check(err)
	got := make([]byte, len(secret))
	_, err = mem.ReadAt(got, int64(uintptr(unsafe.Pointer(&secret[0]))))
	check(err)
	check(mem.Close())
	if string(got) != string(secret) {
		fail("/proc/self/mem gives %q", got)
	}

	// Waiting for any child sees those of the program only.
	if pid, err := unix.Wait4(-1, nil, 0, nil); err != unix.ECHILD {
		fail("wait sees child %d, %v", pid, err)
	}
	want := map[int]bool{}
	for range 5 {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		check(err)
		want[pid] = true
	}
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECHILD {
			break
		}
		check(err)
		if !want[pid] || st != 0 {
			fail("wait sees child %d with status %x", pid, st)
		}
		delete(want, pid)
	}
	if len(want) > 0 {
		fail("wait did not see the children %v", want)
	}
	arrives("a child")
	var wg sync.WaitGroup
	for code := range 20 {
		wg.Go(func() {
			var exit *exec.ExitError
			err := exec.Command("sh", "-c", "exit "+strconv.Itoa(code)).Run()
			if code == 0 && err != nil || code > 0 && (!errors.As(err, &exit) || exit.ExitCode() != code) {
				fail("child with status %d: %v", code, err)
			}
		})
	}
	wg.Wait()

	check(s.Close())
	checkSurrounding(before)
}

// silence sees no signal of the helper's life and death.
func silence() {
	signals := make(chan os.Signal, 1000)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGWINCH)
	s, err := vdestack.Open("mem://around", "10.0.0.1/24")
	check(err)
	check(unix.Kill(theHelper(), unix.SIGKILL))
	if !eventually(10*time.Second, func() bool { return len(children()) == 0 }) {
		fail("the dead helper is a zombie")
	}
	check(s.Close())
	check(unix.Kill(os.Getpid(), unix.SIGWINCH)) // of several signals it is the last
	if sig := <-signals; sig != unix.SIGWINCH {
		fail("signal %v, and the program has no children", sig)
	}
}

// TestSurroundings looks at signal masks and handlers, the dumpable flag,
// children, wait and SIGCHLD.
func TestSurroundings(t *testing.T) {
	run(t, program(t, "surroundings"))
	run(t, program(t, "silence"))
}

// replace executes another program, with stacks and a command around.
func replace() {
	before := descriptors()
	s, err := vdestack.Open("mem://replace", "10.0.0.1/24")
	check(err)
	helper := theHelper()
	_, err = s.NetNS()
	check(err)
	_, err = s.Listen("tcp", ":0")
	check(err)
	_, err = s.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	check(err)
	_, err = s.RTNL()
	check(err)
	os.Setenv(testenv.ProgramVariable, "replaced")
	check(syscall.Exec("/proc/self/exe", append([]string{"replaced", strconv.Itoa(helper)}, before...), os.Environ()))
}

// replaced is what replace executes.
func replaced() {
	helper, before := os.Args[1], os.Args[2:]
	open := func(links []string) []string { // the runtime has its own
		return slices.DeleteFunc(links, func(l string) bool {
			return strings.HasPrefix(l, "/sys/fs/cgroup") || strings.HasPrefix(l, "anon_inode:[event")
		})
	}
	if after, before := open(descriptors()), open(before); !slices.Equal(before, after) {
		fail("descriptors: %v, %v before the stack", after, before)
	}
	// The entry of the dead stays, for nobody is left who would wait for it.
	if !eventually(10*time.Second, func() bool { s := status(helper, "State"); return s == "" || strings.HasPrefix(s, "Z") }) {
		fail("the helper lives: %s", status(helper, "State"))
	}
	if pid, err := unix.Wait4(-1, nil, 0, nil); err != unix.ECHILD {
		fail("wait sees child %d, %v", pid, err)
	}
	check(exec.Command("true").Run())
	s, err := vdestack.Open("mem://replace", "10.0.0.1/24")
	check(err)
	check(s.Close())
	fmt.Println("replaced")
}

// TestExec has a program with stacks execute another one.
func TestExec(t *testing.T) {
	out, err := program(t, "replace").Output()
	if err != nil || string(out) != "replaced\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// crash ends by SIGABRT, with a core dump where that is allowed.
func crash() {
	var l unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_CORE, &l))
	l.Cur = min(l.Max, 16<<20)
	check(unix.Setrlimit(unix.RLIMIT_CORE, &l))
	s, err := vdestack.Open("mem://crash", "10.0.0.1/24")
	check(err)
	defer s.Close()
	fmt.Println(theHelper())
	os.Stdin.Read(make([]byte, 1)) // until the test is ready
	panic("as wanted")
}

// TestCrash has a program with a stack crash.
func TestCrash(t *testing.T) {
	cmd := program(t, "crash")
	cmd.Env = append(cmd.Env, "GOTRACEBACK=crash")
	cmd.Dir = t.TempDir() // for the dump
	cmd.Stderr = nil
	out, in := launch(t, cmd)
	helper, err := strconv.Atoi(readLine(t, out))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(helper, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	start := time.Now()
	in.Close()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGABRT {
		t.Fatalf("the program ended with %v, want SIGABRT", err)
	}
	t.Logf("%v after %v", err, time.Since(start))
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the crash took %v", took)
	}
	if !ended(fd, 5*time.Second) {
		t.Error("the helper lives on")
	}
}
