package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedDescriptors skips the test if the process may not open n files at once.
func NeedDescriptors(t testing.TB, n uint64) {
	t.Helper()
	var limit unix.Rlimit // the soft one, which Go raises to the hard one
	Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < n {
		Skip(t, "the process may open %d files, the test needs %d (raise ulimit -Hn)", limit.Cur, n)
	}
}

// Resident returns the memory that the process uses, in bytes, without garbage, which the
// runtime would give back to the system later. The race detector has a shadow of all
// memory that was ever used and gives nothing back, so with it only Go's own memory counts.
func Resident() int {
	runtime.GC() // a pool keeps its contents for one more
	debug.FreeOSMemory()
	if Race {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.Sys - m.HeapReleased)
	}
	text, _ := os.ReadFile("/proc/self/statm")
	var total, pages int
	fmt.Sscan(string(text), &total, &pages)
	return pages * os.Getpagesize()
}

// PIDFD returns a descriptor of a process, which is closed at the end of the test.
func PIDFD(t testing.TB, pid int) int {
	t.Helper()
	fd := Must(unix.PidfdOpen(pid, 0))(t)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// WatchNamespaces checks again and again until the end of the test that all threads of the
// process stay in their namespaces of these kinds, by default of all kinds, and that plain
// sockets are in the same network namespace.
func WatchNamespaces(t testing.TB, kinds ...string) {
	t.Helper()
	if len(kinds) == 0 {
		for _, e := range Must(os.ReadDir("/proc/self/ns"))(t) {
			kinds = append(kinds, e.Name())
		}
	}
	want, cookie := make(map[string]string), socketCookie(t)
	for _, kind := range kinds {
		want[kind] = Must(os.Readlink("/proc/self/ns/" + kind))(t)
	}
	stop, done, rounds := make(chan bool), make(chan bool), 0
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ; rounds++ {
			if !t.Failed() {
				checkThreads(t, want)
				if got := socketCookie(t); got != cookie {
					t.Errorf("a plain socket is in the namespace %d, the host is %d", got, cookie)
				}
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		t.Logf("looked at the namespaces of all threads %d times", rounds+1)
	})
}

// checkThreads reports threads of the process that are not in the namespaces.
func checkThreads(t testing.TB, want map[string]string) {
	const dir = "/proc/self/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, thread := range threads {
		for kind := range want {
			got, err := os.Readlink(filepath.Join(dir, thread.Name(), "ns", kind))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended
			}
			if errors.Is(err, fs.ErrPermission) {
				// For a moment the kernel returns this for any thread that has just ended.
				if _, gone := os.Stat(filepath.Join(dir, thread.Name())); errors.Is(gone, fs.ErrNotExist) {
					continue
				}
			}
			if err != nil || got != want[kind] {
				t.Errorf("thread %s is in %q, %v, want %q", thread.Name(), got, err, want[kind])
			}
		}
	}
}

// socketCookie returns the network namespace of a socket that is made without a stack.
func socketCookie(t testing.TB) uint64 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Errorf("socket: %v", err)
		return 0
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Errorf("SO_NETNS_COOKIE: %v", err)
	}
	return cookie
}
