//go:build amd64 || arm64

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

// begin starts a program, and returns what waits for its end.
func (n *NS) begin(ctx context.Context, e *Exec) (wait func() (*os.ProcessState, error), err error) {
	pid, err := n.Start(ctx, e)
	if err != nil {
		return nil, err
	}
	p, err := os.FindProcess(pid)
	return func() (*os.ProcessState, error) {
		defer e.Ended()
		return p.Wait()
	}, err
}

// pipe returns a pipe until the end of the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	testenv.Check(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// run executes a program in the namespace and returns its output and end.
func run(t *testing.T, n *NS, ctx context.Context, path string, args ...string) (string, *os.ProcessState, error) {
	t.Helper()
	r, w := pipe(t)
	null := testenv.Opened(os.OpenFile(os.DevNull, os.O_RDWR, 0))(t)
	wait, err := n.begin(ctx, &Exec{
		Path: path, Args: append([]string{path}, args...), Env: os.Environ(),
		Files: []*os.File{null, w, w}, Setpgid: true,
	})
	w.Close()
	if err != nil {
		return "", nil, err
	}
	out, _ := io.ReadAll(r)
	return string(out), testenv.Must(wait())(t), nil
}

func TestStart(t *testing.T) {
	n := newNS(t)
	ctx := t.Context()
	out, state, err := run(t, n, ctx, "/bin/sh", "-c", "/sbin/ip link add br0 type bridge && /sbin/ip -br link && exit 7")
	testenv.Check(t, err)
	if state.ExitCode() != 7 || !strings.Contains(out, "lo ") || !strings.Contains(out, "br0 ") || strings.Contains(out, "test0") {
		t.Errorf("got status %v and %q, want exit status 7, and lo and br0 only", state, out)
	}

	out, state, err = run(t, n, ctx, "/bin/sh", "-c", "kill -TERM $$")
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != unix.SIGTERM {
		t.Errorf("got %q, %v, %v, want a death by SIGTERM", out, state, err)
	}

	if _, _, err := run(t, n, ctx, "/nonexistent/program"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/program") {
		t.Errorf("missing program: %v", err)
	}
	if _, _, err := run(t, n, ctx, "/etc/passwd"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("no program: %v", err)
	}
}

// TestStartCancel gives up commands before they start, and at the moment when they start
// others, which must end with them. Every second one has no group of its own, and is alone.
func TestStartCancel(t *testing.T) {
	testenv.Long(t)
	n := newNS(t)
	const rounds = 100
	var wg sync.WaitGroup
	for range 8 { // more than there are processors: Start is late now and then
		wg.Go(func() {
			for i := 0; i < rounds; i++ {
				r, w, err := os.Pipe()
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond*time.Duration(i)/rounds)
				e := &Exec{
					Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 100 & sleep 100 & wait"}, Env: os.Environ(),
					Files: []*os.File{nil, w, w}, Setpgid: i%2 == 0,
				}
				if !e.Setpgid {
					e.Args[2] = "exec sleep 100"
				}
				if i == 1 {
					cancel()
				}
				pid, err := n.Start(ctx, e)
				cancel()
				w.Close()
				if err == nil {
					unix.Kill(pid, unix.SIGKILL)
					if e.Setpgid {
						unix.Kill(-pid, unix.SIGKILL)
					}
					reap(pid)
					e.Ended()
				} else if !errors.Is(err, ctx.Err()) {
					t.Errorf("%v, want %v", err, ctx.Err())
				}
				// The pipe ends when nobody holds it any more.
				r.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Errorf("what the command has started lives on: %v", err)
					i = rounds // once is enough
				}
				r.Close()
			}
		})
	}
	wg.Wait()
	if pid, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil); pid > 0 {
		t.Errorf("child %d is left: %v", pid, err)
	}
}

// TestStartDirAndFiles places descriptors in every order.
func TestStartDirAndFiles(t *testing.T) {
	n := newNS(t)
	dir := t.TempDir()
	d := testenv.Opened(os.Open(dir))(t)
	var files []*os.File
	for range 6 {
		r, w := pipe(t)
		files = append(files, r, w)
	}
	// The command's descriptor i becomes files[order[i]].
	order := []int{3, 1, 5, 7, 9, 11}
	e := &Exec{Path: "/bin/sh", Dir: d, Env: []string{"X=y"}, Args: []string{"sh", "-c",
		"for i in 1 2 3 4 5; do echo $i $X >&$i; done; pwd >&1"}}
	for _, o := range order {
		e.Files = append(e.Files, files[o])
	}
	wait := testenv.Must(n.begin(t.Context(), e))(t)
	if s, err := wait(); err != nil || !s.Success() {
		t.Fatal(s, err)
	}
	for i, o := range order[1:] {
		buf := make([]byte, 1000)
		r := files[o-1]
		r.SetReadDeadline(time.Now().Add(5 * time.Second))
		k, err := r.Read(buf)
		want := string(rune('1'+i)) + " y\n"
		if i == 0 {
			want += dir + "\n"
		}
		if got := string(buf[:k]); got != want {
			t.Errorf("descriptor %d: got %q, %v, want %q", i+1, got, err, want)
		}
	}
}

// TestStartBeside starts commands while sockets are made: the child of a clone
// and the helper go separate ways from the first instruction on.
func TestStartBeside(t *testing.T) {
	n := newNS(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				fd, err := n.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := cookieOf(fd); got != n.Cookie() {
					t.Errorf("socket in namespace %d, %v, want %d", got, err, n.Cookie())
					return
				}
				unix.Close(fd)
			}
		})
	}
	for range 300 {
		wait := testenv.Must(n.begin(t.Context(), &Exec{Path: "/bin/true", Args: []string{"true"}}))(t)
		if s, err := wait(); err != nil || !s.Success() {
			t.Fatal(s, err)
		}
	}
	stop.Store(true)
	wg.Wait()
}

// TestStartForkLock starts commands beside what package syscall lets programs do
// under ForkLock: files are written, and descriptors made that are close-on-exec a
// little later. The programs are not busy, and no command gets a descriptor.
func TestStartForkLock(t *testing.T) {
	testenv.Long(t)
	n := newNS(t)
	dir := t.TempDir()
	const count = `set -- /proc/self/fd/*; exit $#`
	quiet := exec.Command("/bin/sh", "-c", count)
	quiet.Stdin, quiet.Stdout, quiet.Stderr = os.Stdin, os.Stdout, os.Stderr // not close-on-exec maybe
	quiet.Run()
	want := quiet.ProcessState.ExitCode()

	var stop atomic.Bool
	var makers, wg sync.WaitGroup
	makers.Go(func() {
		for !stop.Load() {
			syscall.ForkLock.RLock()
			var p [2]int
			err := syscall.Pipe(p[:])
			if err == nil {
				syscall.CloseOnExec(p[0])
				syscall.CloseOnExec(p[1])
			}
			syscall.ForkLock.RUnlock()
			if err != nil {
				t.Error(err)
				return
			}
			syscall.Close(p[0])
			syscall.Close(p[1])
		}
	})
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				name := dir + "/" + strconv.Itoa(g) + "-" + strconv.Itoa(i)
				syscall.ForkLock.RLock()
				err := os.WriteFile(name, []byte("#!/bin/sh\n"+count), 0o755)
				syscall.ForkLock.RUnlock()
				if err != nil {
					t.Error(err)
					return
				}
				wait, err := n.begin(t.Context(), &Exec{Path: name, Args: []string{name}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
				if err != nil {
					t.Error(err)
					return
				}
				state, err := wait()
				// The shell has the script open, too.
				if err != nil || state.ExitCode() != want+1 {
					t.Errorf("%v, %v: a command has that many descriptors, want %d", state, err, want+1)
				}
				os.Remove(name)
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	makers.Wait()
}

// TestStartCloses closes a file that it writes when a command has started, and
// executes it: no descriptor of it is left in the command.
func TestStartCloses(t *testing.T) {
	n := newNS(t)
	name := t.TempDir() + "/script"
	for range 200 {
		f := testenv.Must(os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o755))(t)
		testenv.Must(f.WriteString("#!/bin/true\n"))(t)
		wait := testenv.Must(n.begin(t.Context(), &Exec{Path: "/bin/true", Args: []string{"true"}, Files: make([]*os.File, 3)}))(t)
		f.Close()
		testenv.Check(t, exec.Command(name).Run())
		testenv.Must(wait())(t)
		os.Remove(name)
	}
}

// TestStartMounts mounts a file over another one, for the command alone.
func TestStartMounts(t *testing.T) {
	n := newNS(t)
	dir := t.TempDir()
	from, to, link := dir+"/from", dir+"/to", dir+"/link"
	for _, name := range []string{from, to} {
		testenv.Check(t, os.WriteFile(name, []byte(name), 0o600))
	}
	testenv.Check(t, os.Symlink("to", link))
	d := testenv.Opened(os.Open(dir))(t)
	r, w := pipe(t)
	e := &Exec{
		Path: "/bin/sh", Args: []string{"sh", "-c", "cat to; echo; pwd -P"},
		Dir: d, Files: []*os.File{nil, w, w}, Mounts: []Mount{{From: from, To: link}},
	}
	wait := testenv.Must(n.begin(t.Context(), e))(t)
	testenv.Check(t, os.Remove(from)) // the mount holds the file, not its name
	if s, err := wait(); err != nil || !s.Success() {
		t.Fatal(s, err)
	}
	w.Close()
	out, _ := io.ReadAll(r)
	if got, want := string(out), from+"\n"+dir+"\n"; got != want {
		t.Errorf("the command sees %q, want %q", got, want)
	}
	if text, err := os.ReadFile(to); err != nil || string(text) != to {
		t.Errorf("the process sees %q, %v, want its own file", text, err)
	}

	e.Mounts = []Mount{{From: dir + "/gone", To: to}}
	if _, err := n.Start(t.Context(), e); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mounting "+dir+"/gone over "+to) {
		t.Errorf("bind of a missing file: %v", err)
	}
	e.Mounts = []Mount{{From: "from", To: to}}
	if _, err := n.Start(t.Context(), e); err == nil || !strings.Contains(err.Error(), `"from" is not absolute`) {
		t.Errorf("bind of a relative path: %v", err)
	}
}

// TestStartFiles gives commands files of their own. They can be mounted over, by the command and
// in a mount namespace of it, and nothing is left of them elsewhere.
func TestStartFiles(t *testing.T) {
	// Again where a filter allows mount and not umount2, as a container's with what stacks need.
	const again = "VDESTACK_TEST_NO_UMOUNT"
	if os.Getenv(again) != "" {
		testenv.Check(t, testenv.Refuse(testenv.Rule{Call: unix.SYS_UMOUNT2, Err: unix.EPERM}))
	} else {
		cmd := exec.CommandContext(t.Context(), testenv.Must(os.Executable())(t), "-test.run=^TestStartFiles$")
		cmd.Env = append(os.Environ(), again+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("without umount2: %v: %s", err, out)
		}
	}
	n := newNS(t)
	testenv.Need(t, "unshare", "util-linux")
	temp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	for _, name := range []string{"to", "other", "third"} {
		testenv.Check(t, os.WriteFile(dir+"/"+name, []byte("the machine's\n"), 0o600))
	}
	const script = `stat -c %a to; cat to other third
echo ready; read x; cat to; ls "$TMPDIR"; grep -c "$TMPDIR" /proc/self/mountinfo; echo /proc/self/fd/*
mount --bind other to; unshare --mount sh -c 'mount --bind third to && mount --bind to third && echo mounted'`
	const want = "644\nkept\nshared\nshared\nready\nnew\n0\n%smounted\n"
	fds := testenv.Must(exec.Command("/bin/sh", "-c", "echo /proc/self/fd/*; exit").Output())(t)
	for _, closed := range []bool{false, true} { // in the second, what the start opens may become 0
		if closed {
			saved := testenv.Must(unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3))(t)
			defer func() {
				unix.Dup3(saved, 0, 0)
				unix.Close(saved)
			}()
			unix.Close(0)
		}
		in, stdin := pipe(t)
		r, w := pipe(t)
		kept, shared := &File{Text: "kept\n", Keep: true}, &File{Text: "shared\n"}
		wait := testenv.Must(n.begin(t.Context(), &Exec{
			Path: "/bin/sh", Args: []string{"sh", "-c", script},
			Env: os.Environ(), Dir: testenv.Opened(os.Open(dir))(t), Files: []*os.File{in, w, w}, SysAdmin: true,
			Mounts: []Mount{{File: kept, To: dir + "/to"}, {File: shared, To: dir + "/other"}, {File: shared, To: dir + "/third"}},
		}))(t)
		in.Close()
		w.Close()
		if left := testenv.Must(os.ReadDir(temp))(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		out := bufio.NewReader(r)
		got := ""
		for !strings.HasSuffix(got, "ready\n") {
			line, err := out.ReadString('\n')
			if got += line; err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		testenv.Must(kept.Opened.WriteAt([]byte("new\n"), 0))(t)
		testenv.Check(t, kept.Opened.Truncate(4))
		kept.Opened.Close()
		stdin.Close()
		rest, _ := io.ReadAll(out)
		testenv.Must(wait())(t)
		if got += string(rest); got != fmt.Sprintf(want, fds) {
			t.Errorf("closed %v: got %q, want %q", closed, got, want)
		}
	}
}
