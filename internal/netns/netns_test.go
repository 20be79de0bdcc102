//go:build linux && (amd64 || arm64)

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testenv.Programs["victim"] = victim
	testenv.Programs["limit"] = limited
	testenv.Programs["refused"] = refused
	testenv.Programs["apparmor"] = apparmored
	testenv.Main(m)
}

func newNS(t testing.TB) *NS {
	t.Helper()
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	n.Refresh()
	t.Cleanup(func() { n.Close() })
	return n
}

func cookie(t testing.TB, fd int) uint64 {
	t.Helper()
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// countFiles counts descriptors without those of the pool of namespaces.
func countFiles(t testing.TB) int {
	t.Helper()
	EmptyPool()
	teardown.Wait()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// TestSocket asks for sockets in several namespaces from many goroutines at
// once, under constant garbage collection, and checks where each one is.
func TestSocket(t *testing.T) {
	testenv.Long(t)
	var spaces []*NS
	var cookies []uint64
	host, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(host)
	seen := map[uint64]bool{cookie(t, host): true}
	for range 4 {
		n := newNS(t)
		fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := cookie(t, fd)
		unix.Close(fd)
		if seen[c] {
			t.Fatal("two namespaces have the same cookie")
		}
		seen[c] = true
		spaces, cookies = append(spaces, n), append(cookies, c)
	}
	before := countFiles(t)
	stop := make(chan bool)
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	var wg sync.WaitGroup
	for g := range 2000 {
		wg.Go(func() {
			i := g % len(spaces)
			for range 3 {
				fd, err := spaces[i].Socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
				if err != nil {
					t.Error(err)
					return
				}
				if c := cookie(t, fd); c != cookies[i] {
					t.Errorf("socket of namespace %d has cookie %d, want %d", i, c, cookies[i])
				}
				unix.Close(fd)
				if _, err := spaces[i].Socket(unix.AF_INET, 99, 0); !errors.Is(err, unix.EINVAL) {
					t.Errorf("a wrong type: %v, want EINVAL", err)
				}
			}
		})
	}
	wg.Wait()
	for _, n := range spaces {
		noneAhead(t, n, before)
	}
}

// noneAhead waits until an idle namespace has no pooled sockets, and there are as many
// descriptors as before.
func noneAhead(t testing.TB, n *NS, files int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprint("no pooled sockets, and ", files, " descriptors"), func() bool {
		n.pool.mu.Lock()
		defer n.pool.mu.Unlock()
		return len(n.pool.buckets) == 0 && countFiles(t) == files
	})
}

// TestClose sees the namespace end with Close, and later calls refused.
func TestClose(t *testing.T) {
	newNS(t) // the helper's own descriptors
	before := countFiles(t)
	for range 50 {
		n, err := New()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					fd, err := n.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
					unix.Close(fd)
				}
			})
		}
		wg.Go(func() { n.Close() })
		wg.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		EmptyPool() // nobody else uses the helper now
		if cur := n.h.cur; cur == n {
			t.Fatal("the helper rests in the closed namespace")
		}
	}
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	n := newNS(t)
	n.Close()
	if _, err := n.Open("/dev/null", unix.O_RDONLY); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := n.File(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := n.Start(t.Context(), &Exec{Path: "/bin/true"}); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestThreads sees every thread in the namespaces in which it was before.
func TestThreads(t *testing.T) {
	links := func() string {
		dirs, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		set := map[string]bool{}
		for _, d := range dirs {
			for _, ns := range []string{"net", "user", "mnt"} {
				if l, err := os.Readlink("/proc/self/task/" + d.Name() + "/ns/" + ns); err == nil {
					set[l] = true
				}
			}
		}
		return strings.Join(func() (s []string) {
			for l := range set {
				s = append(s, l)
			}
			return
		}(), " ")
	}
	newNS(t)
	if got := links(); strings.Count(got, " ") != 2 {
		t.Errorf("the threads are in %s, want one namespace of each kind", got)
	}
}

// victim makes a namespace and a command in it, says so, and waits to be killed.
func victim() {
	n, err := New()
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	pid, err := n.Start(context.Background(), &Exec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}})
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.Itoa(n.h.pid) + " " + strconv.Itoa(pid) + "\n")
	select {}
}

// TestKill kills a program that has a helper and a command: nothing is left of
// it within a second.
func TestKill(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=victim")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var fds []unix.PollFd
	for f := range strings.FieldsSeq(line) {
		pid, _ := strconv.Atoi(f)
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	cmd.Process.Kill()
	for i, end := 0, time.Now().Add(time.Second); i < len(fds); i++ {
		n, err := unix.Poll(fds[i:i+1], max(0, int(time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			i--
		} else if n != 1 {
			t.Errorf("process %d of %q lives a second after its program: %v", i, line, err)
		}
	}
	cmd.Wait()
}

// limited forbids user namespaces to itself, makes a namespace and uses it.
func limited() {
	check := func(err error) {
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
	check(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	if os.Getenv("NETNS_TEST_DROP") != "" {
		// The whole process loses its capabilities.
		os.Unsetenv("NETNS_TEST_DROP")
		os.Setenv(testenv.ProgramVariable, "refused")
		runtime.LockOSThread()                                // the bits are the thread's, whose credentials exec takes
		check(unix.Prctl(unix.PR_SET_SECUREBITS, 1, 0, 0, 0)) // SECBIT_NOROOT
		check(unix.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	n, err := New()
	check(err)
	fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(err)
	host, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(err)
	c1, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	check(err)
	c2, err := unix.GetsockoptUint64(host, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	check(err)
	if c1 == c2 || n.h != helpers.plain {
		println("same namespace, or a user namespace in spite of the limit")
		os.Exit(1)
	}
	pid, err := n.Start(context.Background(), &Exec{Path: "/sbin/ip", Args: []string{"ip", "link", "add", "br0", "type", "bridge"}})
	check(err)
	var status unix.WaitStatus
	_, err = unix.Wait4(pid, &status, 0, nil)
	check(err)
	check(n.Close())
	os.Exit(status.ExitStatus())
}

// refused prints the error of a process that may not make namespaces.
func refused() {
	_, err := New()
	if err == nil {
		os.Exit(0)
	}
	print(err.Error())
	os.Exit(7)
}

func inUserNS(t *testing.T, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestWithoutUserNS has CAP_SYS_ADMIN, and user namespaces switched off.
func TestWithoutUserNS(t *testing.T) {
	if out, err := inUserNS(t, testenv.ProgramVariable+"=limit"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRefused has neither.
func TestRefused(t *testing.T) {
	out, err := inUserNS(t, testenv.ProgramVariable+"=limit", "NETNS_TEST_DROP=1")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(out, "user.max_user_namespaces=0") {
		t.Errorf("got %v and %q, want the setting that is in the way", err, out)
	}
	t.Log(out)
}

func BenchmarkSocket(b *testing.B) {
	n := newNS(b)
	b.ReportAllocs()
	for b.Loop() {
		fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
}

func BenchmarkSocketParallel(b *testing.B) {
	n := newNS(b)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		n, err := New()
		if err != nil {
			b.Fatal(err)
		}
		n.Close()
	}
}
