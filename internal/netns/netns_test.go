//go:build linux && (amd64 || arm64)

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testenv.Programs["limited"] = limited
	testenv.Programs["apparmor"] = apparmored
	testenv.Programs["tries"] = tries
	testenv.Main(m)
}

func newNS(t testing.TB) *NS {
	t.Helper()
	n := testenv.Opened(New())(t)
	n.Refresh()
	return n
}

// newSocket makes a socket, which belongs to the caller.
func newSocket(t testing.TB, n *NS, domain, typ, proto int) (fd int) {
	t.Helper()
	return testenv.Must(n.Socket(domain, typ, proto))(t)
}

// cookieOf returns the network namespace of a socket.
func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// countFiles counts descriptors without those of the pool of namespaces.
func countFiles(t testing.TB) int {
	t.Helper()
	EmptyPool()
	teardown.Wait()
	return len(testenv.Descriptors(t))
}

// TestSocket asks for sockets in several namespaces from many goroutines at
// once, under constant garbage collection, and checks where each one is.
func TestSocket(t *testing.T) {
	testenv.Long(t)
	host := testenv.Must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))(t)
	defer unix.Close(host)
	seen := map[uint64]bool{testenv.Must(cookieOf(host))(t): true}
	var spaces []*NS
	for range 4 {
		n := newNS(t)
		if seen[n.Cookie()] {
			t.Fatal("two namespaces have the same cookie")
		}
		seen[n.Cookie()] = true
		spaces = append(spaces, n)
	}
	before := countFiles(t)
	go func() {
		for t.Context().Err() == nil {
			runtime.GC()
		}
	}()
	var wg sync.WaitGroup
	for g := range 2000 {
		wg.Go(func() {
			n := spaces[g%len(spaces)]
			for range 3 {
				f, err := Sockets{n}.Socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
				if err != nil {
					t.Error(err)
					return
				}
				if c, err := cookieOf(int(f.Fd())); c != n.Cookie() {
					t.Errorf("a socket has cookie %d, %v, want %d", c, err, n.Cookie())
				}
				f.Close()
				if _, err := (Sockets{n}).Socket(unix.AF_INET, 99, 0); !errors.Is(err, unix.EINVAL) {
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
		n := testenv.Must(New())(t)
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
		testenv.Check(t, n.Close())
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

// limited forbids user namespaces to itself, makes a namespace and uses it.
func limited() {
	check := func(err error) {
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
	check(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	n, err := New()
	check(err)
	fd, err := n.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(err)
	host, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(err)
	there, err1 := cookieOf(fd)
	here, err2 := cookieOf(host)
	check(errors.Join(err1, err2))
	if there == here || n.h != helpers.plain {
		check(errors.New("same namespace, or a user namespace in spite of the limit"))
	}
	wait, err := n.begin(context.Background(), &Exec{Path: "/sbin/ip", Args: []string{"ip", "link", "add", "br0", "type", "bridge"}})
	check(err)
	state, err := wait()
	check(errors.Join(err, n.Close()))
	os.Exit(state.ExitCode())
}

// TestWithoutUserNS has CAP_SYS_ADMIN, and user namespaces switched off.
func TestWithoutUserNS(t *testing.T) {
	cmd := testenv.Program(t.Context(), t, "limited")
	cmd.SysProcAttr = private.Root(unix.CLONE_NEWNET)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func BenchmarkSocket(b *testing.B) {
	n := newNS(b)
	b.ReportAllocs()
	for b.Loop() {
		unix.Close(newSocket(b, n, unix.AF_INET, unix.SOCK_STREAM, 0))
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
		testenv.Check(b, testenv.Closing(New()))
	}
}
