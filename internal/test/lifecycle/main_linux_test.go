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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// programs are what the test binary is in the tests. A program that returns was
// successful.
var programs = testenv.Programs

func TestMain(m *testing.M) { testenv.Main(m) }

// check ends a program with an error.
func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Printf("FAIL "+format+"\n", args...)
	os.Exit(1)
}

// contextOf bounds what a program does.
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

// run executes a program, logs what it says and fails with it.
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

// launch starts a program, and returns its output and its input.
func launch(t *testing.T, cmd *exec.Cmd) (*bufio.Reader, io.WriteCloser) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return bufio.NewReader(out), in
}

// readLine returns the next line of a program, which is not a failure.
func readLine(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil || strings.HasPrefix(line, "FAIL") {
		t.Fatalf("got %q, %v", line, err)
	}
	return strings.TrimSpace(line)
}

// children returns the processes that are children of this one, dead ones too.
func children() (pids []int) {
	procs, err := filepath.Glob("/proc/[0-9]*/stat")
	check(err)
	for _, p := range procs {
		text, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		// The second field is the name, in parentheses.
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			check(err)
			pids = append(pids, pid)
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

// descriptors returns what the process has open, without numbers, sorted, when
// what Close leaves for later is done and no namespace is kept ready.
func descriptors() (links []string) {
	teardown.Wait()
	netns.DropReady()
	dir, err := os.ReadDir("/proc/self/fd")
	check(err)
	for _, d := range dir {
		link, err := os.Readlink("/proc/self/fd/" + d.Name())
		if err == nil && !strings.HasSuffix(link, "/fd") { // the directory itself
			links = append(links, strings.TrimRight(link, "0123456789[]"))
		}
	}
	slices.Sort(links)
	return links
}

// eventually polls a condition.
func eventually(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
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
