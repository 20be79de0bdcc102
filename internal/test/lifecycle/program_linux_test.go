//go:build amd64 || arm64

package lifecycle

import (
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

func init() { register(surroundings, silence, replace, replaced) }

// A surrounding is what a program can see of itself.
type surrounding struct {
	masks, ignored, caught string // of signals; the masks of all threads, without repetition
	dumpable               int
	umask, dir             string
	credentials            string
}

func lookAround() (s surrounding) {
	var masks []string
	for _, task := range must(filepath.Glob("/proc/self/task/*")) {
		m := status("self/task/"+filepath.Base(task), "SigBlk")
		// Threads of the runtime and the race detector have masks of their own.
		if m != "" && (!strings.HasPrefix(m, "fffffff") || m == allBlocked) {
			masks = append(masks, m)
		}
	}
	slices.Sort(masks)
	s.masks = strings.Join(slices.Compact(masks), " ")
	s.ignored, s.caught = status("self", "SigIgn"), status("self", "SigCgt")
	s.dumpable = must(unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0))
	s.umask = status("self", "Umask")
	s.dir = must(os.Getwd())
	for _, label := range []string{"Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
		s.credentials += status("self", label) + "; "
	}
	return s
}

// settled looks around when threads have that many different signal masks: threads of the
// runtime have other masks when they start and end.
func settled(masks int) surrounding {
	return await(10*time.Second, fmt.Sprint(masks, " signal masks"), lookAround, func(s surrounding) bool { return strings.Count(s.masks, " ") == masks-1 })
}

func checkSurrounding(before surrounding) {
	await(10*time.Second, fmt.Sprintf("%+v", before), lookAround, func(now surrounding) bool { return now == before })
}

// allBlocked is a signal mask with all signals but SIGKILL and SIGSTOP.
const allBlocked = "fffffffffffbfeff"

// blockOne blocks a signal in one thread, as cgo code may do.
func blockOne(sig unix.Signal) {
	done := make(chan bool)
	go func() {
		runtime.LockOSThread()
		blockHere(sig)
		close(done)
		select {}
	}()
	<-done
}

// surroundings uses stacks in every way, and checks that the program is as before.
func surroundings() {
	// A signal with a handler: the runtime handles it from now on.
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

	s := must(vdestack.Open("mem://around", "10.0.0.1/24", "fc00::1/64"))
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
	mem := must(os.Open("/proc/self/mem"))
	got := make([]byte, len(secret))
	must(mem.ReadAt(got, int64(uintptr(unsafe.Pointer(&secret[0])))))
	check(mem.Close())
	if string(got) != string(secret) {
		fail("/proc/self/mem gives %q", got)
	}

	// Waiting for any child sees the program's own only.
	wantNoChild()
	want := map[int]bool{}
	for range 5 {
		pid := must(syscall.ForkExec("/bin/true", []string{"true"}, nil))
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
			cmd := exec.Command("sh", "-c", "exit "+strconv.Itoa(code))
			if err := cmd.Run(); (err == nil) != (code == 0) || cmd.ProcessState.ExitCode() != code {
				fail("child with status %d: %v", code, err)
			}
		})
	}
	wg.Wait()

	check(s.Close())
	checkSurrounding(before)
}

// wantNoChild ends a program that waiting for any child finds one for.
func wantNoChild() {
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		fail("wait sees child %d, %v", pid, err)
	}
}

// silence gets no signal from the start and the end of the helper.
func silence() {
	signals := make(chan os.Signal, 1000)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGWINCH)
	s := must(vdestack.Open("mem://around", "10.0.0.1/24"))
	helper := theHelper()
	check(unix.Kill(helper, unix.SIGKILL))
	// The pool, which is filled in the background, may make another helper.
	await(10*time.Second, fmt.Sprint("no zombie ", helper), children, func(pids []int) bool { return !slices.Contains(pids, helper) })
	check(s.Close())
	check(unix.Kill(os.Getpid(), unix.SIGWINCH)) // delivered after other signals
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

// replace executes another program while it has stacks and sockets.
func replace() {
	before := descriptors()
	s := must(vdestack.Open("mem://replace", "10.0.0.1/24"))
	helper := theHelper()
	must(s.NetNS())
	must(s.Listen("tcp", ":0"))
	must(s.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
	must(s.RTNL())
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
	// The dead helper stays a zombie: nobody waits for it.
	await(10*time.Second, "a dead helper", func() string { return status(helper, "State") },
		func(state string) bool { return state == "" || strings.HasPrefix(state, "Z") })
	wantNoChild()
	check(exec.Command("true").Run())
	check(testenv.Closing(vdestack.Open("mem://replace", "10.0.0.1/24")))
	fmt.Println("replaced")
}

// TestExec has a program with stacks execute another one.
func TestExec(t *testing.T) {
	out, err := program(t, "replace").Output()
	if err != nil || string(out) != "replaced\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
