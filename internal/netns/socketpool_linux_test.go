//go:build amd64 || arm64

package netns

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// trips returns a function that counts the round trips of a namespace's helper from now on.
func trips(t *testing.T, n *NS) func() uint64 {
	EmptyPool() // those that fill it would count
	start := n.h.roundTrips.Load()
	return func() uint64 { return n.h.roundTrips.Load() - start }
}

// limitFiles sets the limit of descriptors, until restore or the end of the test.
func limitFiles(t *testing.T, n uint64) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	testenv.Check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	testenv.Check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}))
	restore = func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }
	t.Cleanup(restore)
	return restore
}

// hurry makes many sockets one after the other, and closes them.
func hurry(t *testing.T, n *NS, k socketType, count int) {
	t.Helper()
	for range count {
		unix.Close(newSocket(t, n, k.domain, k.typ, k.proto))
	}
}

// TestSocketPool makes sockets quickly one after the other: there is less than one round trip
// to the helper for two. Then the pool is emptied.
func TestSocketPool(t *testing.T) {
	n := newNS(t)
	before, goroutines := countFiles(t), runtime.NumGoroutine()
	const count = 4000
	took := trips(t, n)
	hurry(t, n, tcp, count)
	if got := took(); got > count/2 {
		t.Errorf("%d trips for %d sockets", got, count)
	} else {
		t.Logf("%d trips for %d sockets", got, count)
	}
	noneAhead(t, n, before)
	testenv.Eventually(t, "no more goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestSocketPoolFresh looks at pooled sockets: they have the type and namespace asked for, each
// is returned once, and no option is set. All threads stay in their namespaces.
func TestSocketPoolFresh(t *testing.T) {
	testenv.WatchNamespaces(t)
	spaces := []*NS{newNS(t), newNS(t)}
	kinds := []socketType{
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	}
	var wg sync.WaitGroup
	for _, n := range spaces {
		for _, k := range kinds {
			wg.Go(func() {
				var fds []int
				for range 200 {
					fd, err := n.Socket(k.domain, k.typ, k.proto)
					if err != nil {
						t.Error(err)
						break
					}
					fds = append(fds, fd)
					if err := k.check(fd, n.Cookie()); err != nil {
						t.Errorf("%+v: %v", k, err)
						break
					}
					// The next one must not have this.
					unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
				}
				slices.Sort(fds)
				if len(slices.Compact(slices.Clone(fds))) != len(fds) {
					t.Errorf("%+v: a descriptor was given twice", k)
				}
				closeAll(fds)
			})
		}
	}
	wg.Wait()
}

// TestFirstTCP asks for the socket of TCP that is made with a namespace: the first caller gets
// it without a round trip, as asked for. It is closed after a while, and when a setting
// changes.
func TestFirstTCP(t *testing.T) {
	make := func() *NS {
		n := testenv.Opened(Create(TAP{}, nil))(t)
		n.Settle()
		return n
	}
	for _, k := range []socketType{
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_STREAM, 0},
		{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, 0},
		{unix.AF_INET6, unix.SOCK_STREAM, 0},
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
	} {
		n := make()
		took := trips(t, n)
		for i := range uint64(2) {
			fd := newSocket(t, n, k.domain, k.typ, k.proto)
			asked := k
			if asked.proto == 0 {
				asked.proto = unix.IPPROTO_TCP
			}
			if err := asked.check(fd, n.Cookie()); err != nil {
				t.Errorf("%+v: %v", k, err)
			}
			unix.Close(fd)
			want := i
			if k.domain != unix.AF_INET || k.proto == unix.IPPROTO_MPTCP {
				want++
			}
			if got := took(); got != want {
				t.Errorf("%+v: %d trips after socket %d, want %d", k, got, i, want)
			}
		}
		n.Close()
	}

	before := countFiles(t)
	n := make()
	noneAhead(t, n, before+1) // the namespace's own descriptor
	n = make()
	n.Refresh()
	if got := countFiles(t); got != before+2 {
		t.Errorf("%d descriptors after Refresh, want %d", got, before+2)
	}
}

// check compares a socket with one that is new.
func (k socketType) check(fd int, cookie uint64) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if want := k.typ & unix.SOCK_NONBLOCK; flags&unix.O_NONBLOCK != want {
		return fmt.Errorf("flags %#x", flags)
	}
	if c, err := cookieOf(fd); err != nil || c != cookie {
		return fmt.Errorf("cookie %d, %v, want %d", c, err, cookie)
	}
	for _, o := range []struct{ opt, want int }{
		{unix.SO_DOMAIN, k.domain}, {unix.SO_TYPE, k.typ &^ unix.SOCK_NONBLOCK}, {unix.SO_PROTOCOL, k.proto},
		{unix.SO_REUSEADDR, 0}, {unix.SO_ERROR, 0}, {unix.SO_ACCEPTCONN, 0},
	} {
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.opt); err != nil || v != o.want {
			return fmt.Errorf("option %d is %d, %v, want %d", o.opt, v, err, o.want)
		}
	}
	return nil
}

// TestCloseInSweep closes a namespace while its unused sockets are being closed: when Close
// returns, they are.
func TestCloseInSweep(t *testing.T) {
	newNS(t) // the helper's own descriptors
	before := countFiles(t)
	for range 50 {
		n := testenv.Opened(New())(t)
		for n.pool.sockets() < mostAhead/2 {
			hurry(t, n, tcp, 1)
		}
		n.pool.sweep() // the first only says that they were not used
		swept := make(chan struct{})
		go func() {
			defer close(swept)
			n.pool.sweep()
		}()
		for n.pool.sockets() > 0 {
			runtime.Gosched()
		}
		n.Close()
		if got := countFiles(t); got != before {
			t.Fatalf("%d descriptors after Close, want %d", got, before)
		}
		<-swept
	}
}

// sockets returns how many sockets are in the pool.
func (s *socketPool) sockets() (count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.buckets {
		count += len(b.fds)
	}
	return count
}

// TestSocketPoolRaw asks for sockets that receive before they are bound: they are not pooled.
func TestSocketPoolRaw(t *testing.T) {
	testenv.Long(t)
	n := newNS(t)
	for _, k := range []socketType{
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{unix.AF_PACKET, unix.SOCK_RAW, 0x300},
		{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
	} {
		const count = 100
		took := trips(t, n)
		hurry(t, n, k, count)
		if got := took(); got != count {
			t.Errorf("%+v: %d trips for %d sockets", k, got, count)
		}
	}
}

// TestSocketPoolDropped has pooled sockets when a setting of the namespace changes, when
// descriptors are missing, and when the namespace is closed.
func TestSocketPoolDropped(t *testing.T) {
	n := newNS(t)
	before := countFiles(t)
	pooled := func() {
		t.Helper()
		testenv.Eventually(t, "pooled sockets", func() bool {
			hurry(t, n, tcp, 100)
			n.pool.mu.Lock()
			defer n.pool.mu.Unlock()
			b := n.pool.buckets[tcp]
			return b != nil && b.filling == nil && len(b.fds) > 0
		})
	}

	pooled()
	n.Refresh()
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors after Refresh, %d before", after, before)
	}

	pooled()
	restore := limitFiles(t, uint64(before)+1) // no room, but for what takes the place of those
	fd, err := n.Open("/dev/null", unix.O_RDONLY)
	if err != nil {
		t.Errorf("pooled sockets take the room: %v", err)
	}
	unix.Close(fd)
	// With so few descriptors none is kept.
	for range 100 {
		hurry(t, n, tcp, 1)
	}
	restore()
	noneAhead(t, n, before)

	pooled()
	n.Close()
	if after := countFiles(t); after != before-1 {
		t.Errorf("%d descriptors after Close, %d before", after, before)
	}
}
