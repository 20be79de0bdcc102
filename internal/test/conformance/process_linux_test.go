package conformance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// namespaces are those that the helper task has of its own.
var namespaces = []string{"net", "user"}

// watchNamespaces looks at the namespaces of all threads again and again until
// the end of the test, and where plain sockets of the process come into being.
func watchNamespaces(t *testing.T) {
	t.Helper()
	want, cookie := make(map[string]string), hostCookie(t)
	for _, kind := range namespaces {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		want[kind] = link
	}
	stop, done, rounds := make(chan bool), make(chan bool), 0
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ; rounds++ {
			if !t.Failed() {
				checkThreads(t, want)
				if got := hostCookie(t); got != cookie {
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
func checkThreads(t *testing.T, want map[string]string) {
	const dir = "/proc/self/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, thread := range threads {
		for _, kind := range namespaces {
			got, err := os.Readlink(filepath.Join(dir, thread.Name(), "ns", kind))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended
			}
			if errors.Is(err, fs.ErrPermission) {
				// So says the kernel for a moment of one that has just ended, of any
				// program.
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

// hostCookie returns the network namespace of a socket that is made without a
// stack.
func hostCookie(t testing.TB) uint64 {
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

// needDescriptors skips a test that opens more files than the process may.
func needDescriptors(t testing.TB, n uint64) {
	t.Helper()
	var limit unix.Rlimit // the soft one, which Go raises to the hard one
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		testenv.Skip(t, "the process may open %d files, the test needs %d (raise ulimit -Hn)", limit.Cur, n)
	}
}
