//go:build amd64 || arm64

package lifecycle

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// register makes functions programs that the test binary can be, by their names. One that
// returns has succeeded.
func register(functions ...func()) {
	for _, f := range functions {
		name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
		testenv.Programs[name[strings.LastIndexByte(name, '.')+1:]] = f
	}
}

func TestMain(m *testing.M) { testenv.Main(m) }

// check ends a program with an error.
func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// must returns a value, or ends a program with the error.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func fail(format string, args ...any) {
	fmt.Printf("FAIL "+format+"\n", args...)
	os.Exit(1)
}

// contextOf bounds the time of calls in a program.
func contextOf(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	time.AfterFunc(limit, cancel)
	return ctx
}

// program returns a command that executes a program.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testenv.Program(t.Context(), t, name, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// run executes a program, logs its output, and fails if the program does.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.Output()
	if text := strings.TrimSpace(string(out)); text != "" {
		t.Log(text)
	}
	if err != nil {
		t.Error(err)
	}
}

// newStack makes a stack in a program.
func newStack(cfg vdestack.Config) *vdestack.Stack {
	return must(vdestack.New(contextOf(time.Minute), cfg))
}

// on returns the configuration of a stack with an interface on a network.
func on(vnl string, prefixes ...string) vdestack.Config {
	return vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, Addrs: testenv.Prefixes(prefixes...)}}}
}

// launch starts a program, and returns its output and its input.
func launch(t *testing.T, cmd *exec.Cmd) (*bufio.Reader, io.WriteCloser) {
	t.Helper()
	out := testenv.Must(cmd.StdoutPipe())(t)
	in := testenv.Must(cmd.StdinPipe())(t)
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return bufio.NewReader(out), in
}

// readLine returns the next line of a program, and ends the test if it is a failure.
func readLine(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil || strings.HasPrefix(line, "FAIL") {
		t.Fatalf("got %q, %v", line, err)
	}
	return strings.TrimSpace(line)
}

// children returns the children of this process, dead ones too.
func children() (pids []int) {
	for _, proc := range must(filepath.Glob("/proc/[0-9]*")) {
		pid := filepath.Base(proc)
		if status(pid, "PPid") == strconv.Itoa(os.Getpid()) {
			pids = append(pids, must(strconv.Atoi(pid)))
		}
	}
	return pids
}

// status returns a field of /proc/PID/status, or of a task there.
func status(of, label string) string {
	text, err := os.ReadFile("/proc/" + of + "/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, label+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// descriptors returns what the process has open, without numbers, sorted. First it
// completes the background work of Close, and drops namespaces that are kept ready.
func descriptors() (links []string) {
	teardown.Wait()
	netns.EmptyPool()
	dir := must(os.ReadDir("/proc/self/fd"))
	for _, d := range dir {
		link, err := os.Readlink("/proc/self/fd/" + d.Name())
		if err == nil && !strings.HasSuffix(link, "/fd") { // the directory itself
			links = append(links, strings.TrimRight(link, "0123456789[]"))
		}
	}
	slices.Sort(links)
	return links
}

// wantDescriptors ends a program whose descriptors are not those that it had before.
func wantDescriptors(before []string) {
	if after := descriptors(); !slices.Equal(after, before) {
		fail("descriptors: %v, %v before", after, before)
	}
}

// wantHelpers ends a program that has not n helper tasks, which are its only children.
func wantHelpers(n int, when string) {
	if got := children(); len(got) != n {
		fail("helpers %v %s, want %d", got, when, n)
	}
}

// wantText ends a program with an error that has not all the texts.
func wantText(what string, err error, texts ...string) {
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			fail("%s: %v, want an error with %q", what, err, text)
		}
	}
}

// await polls a value until it is ok, and ends a program where it is not within the limit.
func await[T any](limit time.Duration, want string, get func() T, ok func(T) bool) T {
	v := get()
	for end := time.Now().Add(limit); !ok(v); v = get() {
		if time.Now().After(end) {
			fail("%#v, want %s", v, want)
		}
		time.Sleep(time.Millisecond)
	}
	return v
}

// pidfd returns a descriptor of a process, whose number a program has told.
func pidfd(t *testing.T, pid string) int {
	t.Helper()
	return testenv.PIDFD(t, testenv.Must(strconv.Atoi(pid))(t))
}

// ended waits for the end of a process, which need not be a child.
func ended(pidfd int, limit time.Duration) bool {
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, max(0, int(time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n == 1
		}
	}
}
