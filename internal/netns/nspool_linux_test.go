//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// pooled returns how many namespaces are in the pool; -1 while some are being made.
func pooled() int {
	nsPool.mu.Lock()
	defer nsPool.mu.Unlock()
	if nsPool.making != nil {
		return -1
	}
	return len(nsPool.spaces)
}

// awaitPooled waits until the pool has the given number of namespaces.
func awaitPooled(t *testing.T, want int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprint(want, " pooled namespaces"), func() bool { return pooled() == want })
}

// newWith makes a namespace with a TAP, or takes one from the pool.
func newWith(t *testing.T, with TAP) *NS {
	t.Helper()
	if n := FromPool(with, nil, nil); n != nil {
		return n
	}
	return testenv.Must(Create(with, nil))(t)
}

// inSeries asks for two namespaces, one after the other, and waits until the pool is full.
func inSeries(t *testing.T, with TAP) {
	t.Helper()
	EmptyPool()
	for range 2 {
		n := newWith(t, with)
		n.Settle()
		n.Close()
	}
	awaitPooled(t, poolSize)
}

// isUp reports whether an interface is up, in the namespace of the socket.
func isUp(t *testing.T, socket int, name string) bool {
	t.Helper()
	ifr := testenv.Must(unix.NewIfreq(name))(t)
	testenv.Check(t, unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, ifr))
	return ifr.Uint16()&unix.IFF_UP != 0
}

// TestNSPool asks for namespaces in series. The later ones take no round trip to the helper,
// and are as others are. When no more are asked for, the pool is emptied.
func TestNSPool(t *testing.T) {
	testenv.Long(t)
	h := newNS(t).h
	before := countFiles(t)
	EmptyPool()
	one := testenv.Must(New())(t)
	one.Settle()
	one.Close()
	awaitPooled(t, 1)
	inSeries(t, TAP{})
	// As if more were being made, so that none are.
	nsPool.mu.Lock()
	making := make(chan struct{})
	nsPool.making = making
	nsPool.mu.Unlock()
	start := h.roundTrips.Load()
	n := testenv.Opened(New())(t)
	fd := newSocket(t, n, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	defer unix.Close(fd)
	if got := h.roundTrips.Load() - start; got != 0 {
		t.Errorf("%d round trips for a pooled namespace and a socket", got)
	}
	nsPool.mu.Lock()
	nsPool.making = nil
	close(making)
	nsPool.timer.Reset(settling)
	nsPool.mu.Unlock()
	if got, err := cookieOf(fd); got != n.Cookie() || n.Cookie() == one.Cookie() {
		t.Errorf("cookies: %d, %v of a socket in %d, and %d before", got, err, n.Cookie(), one.Cookie())
	}
	if !isUp(t, fd, "lo") {
		t.Error("loopback is down")
	}
	n.Close()
	unix.Close(fd)
	awaitPooled(t, 0)
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestNSPoolTAP has namespaces with an interface in the pool, and asks for the same, for
// another and for none.
func TestNSPoolTAP(t *testing.T) {
	newNS(t)
	before := countFiles(t)
	want := TAP{Name: "tap0", Flags: unix.IFF_TAP | unix.IFF_NO_PI, Index: 1000}
	other, upped := want, want
	other.Name = "tap1"
	upped.Up = true
	for _, tt := range []struct {
		name        string
		ready, with TAP
		fits        bool
	}{{"the same", want, want, true}, {"one that is up", upped, upped, true}, {"another", want, other, false}, {"none", want, TAP{}, false}} {
		inSeries(t, tt.ready)
		n := newWith(t, tt.with)
		if got := pooled() == poolSize-1; got != tt.fits {
			t.Errorf("%s: one was taken from the pool: %v", tt.name, got)
		}
		if tt.with == (TAP{}) {
			tt.with = want
		}
		fd, index, up, err := n.OpenTAP(tt.with)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		rt := newSocket(t, n, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if got, err := IfIndex(rt, tt.with.Name); err != nil || got != index || index != want.Index {
			t.Errorf("%s: index %d is to be %d, want %d, %v", tt.name, got, index, want.Index, err)
		}
		if got := isUp(t, rt, tt.with.Name); got != up || up != tt.with.Up {
			t.Errorf("%s: up is %v, said to be %v, want %v", tt.name, got, up, tt.with.Up)
		}
		if _, _, _, err := n.OpenTAP(tt.with); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: made twice: %v", tt.name, err)
		}
		CloseTAP(fd)
		unix.Close(rt)
		n.Close()
		if _, _, _, err := n.OpenTAP(tt.with); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestNSPoolAtLimit does not fill the pool near the limit of descriptors, nor where the user
// may have few namespaces.
func TestNSPoolAtLimit(t *testing.T) {
	newNS(t)
	EmptyPool()
	limit := "2000"
	defer func(old func(string) ([]byte, error)) { readFile = old }(readFile)
	readFile = func(string) ([]byte, error) { return []byte(limit + "\n"), nil }
	for _, tt := range []struct {
		room   uint64
		spaces string
		want   int
	}{
		{descriptorReserve - 1, "2000", 0},
		{2 * descriptorReserve, "255", 0},
		{2 * descriptorReserve, "256", poolSize},
		{2 * descriptorReserve, "", poolSize}, // there is no such file
	} {
		EmptyPool()
		free := testenv.Must(unix.Eventfd(0, unix.EFD_CLOEXEC))(t)
		unix.Close(free)
		restore := limitFiles(t, uint64(free)+tt.room)
		limit = tt.spaces
		fill(poolSize)
		if again := nsPool.timer.Stop(); again != (tt.want > 0) {
			t.Errorf("with room for %d descriptors and %q namespaces, the pool is tended again: %v", tt.room, tt.spaces, again)
		}
		if got := pooled(); got != tt.want {
			t.Errorf("with room for %d descriptors and %q namespaces, %d are pooled, want %d", tt.room, tt.spaces, got, tt.want)
		}
		restore()
	}
	EmptyPool()
}

// fill has the pool filled, in a series that does not end meanwhile.
func fill(n int) {
	nsPool.mu.Lock()
	nsPool.filling = n
	nsPool.last = time.Now().Add(time.Hour)
	if nsPool.timer == nil {
		nsPool.timer = time.AfterFunc(time.Hour, tend)
	}
	nsPool.timer.Stop()
	nsPool.mu.Unlock()
	tend()
}

// TestNSPoolTAPRoom makes room for descriptors while TAPs are ready. They are made again
// when they are asked for.
func TestNSPoolTAPRoom(t *testing.T) {
	newNS(t)
	with := TAP{Name: "tap0", Flags: unix.IFF_TAP | unix.IFF_NO_PI, Index: 1000}
	open := func(n *NS) {
		t.Helper()
		defer n.Close()
		fd, index, _, err := n.OpenTAP(with)
		if err != nil || index != with.Index {
			t.Fatalf("index %d, %v", index, err)
		}
		CloseTAP(fd)
	}
	inSeries(t, with)
	makeRoom()
	open(newWith(t, with))
	EmptyPool()
	teardown.Wait()
	// There is room for what comes with a namespace, but not for the descriptor of that.
	var free [4]int
	for i := range free {
		free[i] = testenv.Must(unix.Eventfd(0, unix.EFD_CLOEXEC))(t)
	}
	closeAll(free[:])
	restore := limitFiles(t, uint64(free[3])+1)
	n, err := Create(with, nil)
	restore()
	testenv.Check(t, err)
	open(n)
}

// TestNSPoolStopped closes pooled namespaces while their helper is stopped: others do not
// wait for that.
func TestNSPoolStopped(t *testing.T) {
	h := newNS(t).h
	inSeries(t, TAP{})
	testenv.Check(t, unix.Kill(h.pid, unix.SIGSTOP))
	nsPool.mu.Lock()
	nsPool.last = time.Time{} // the series has ended
	nsPool.mu.Unlock()
	var closing sync.WaitGroup
	closing.Go(tend)
	testenv.Eventually(t, "a request to the helper", func() bool { return h.calls.state.Load() == stateRequest })
	settled := make(chan struct{})
	closing.Go(func() { settle(); close(settled) })
	select {
	case <-settled:
	case <-time.After(roundTripLimit / 2):
		t.Error("another namespace waits for the helper")
	}
	testenv.Check(t, unix.Kill(h.pid, unix.SIGCONT))
	closing.Wait()
}

// TestNSPoolKilled fills the pool when there is no helper any more. The next one is made
// when a namespace is asked for.
func TestNSPoolKilled(t *testing.T) {
	h := newNS(t).h
	EmptyPool()
	testenv.Check(t, unix.Kill(h.pid, unix.SIGKILL))
	<-h.gone
	fill(poolSize)
	if got := pooled(); got != 0 || hasHelper() {
		t.Errorf("%d namespaces are pooled, a helper %v", got, hasHelper())
	}
	EmptyPool()
	newNS(t)
}

// A prepared is a Ready that notes its end.
type prepared struct {
	plain  bool
	closed atomic.Bool
}

func (p *prepared) Plain() bool { return p.plain }

func (p *prepared) Close() error {
	p.closed.Store(true)
	return nil
}

// TestNSPoolReady has namespaces in the pool in which something was prepared, for those that
// want it and for others, and near the limit of descriptors.
func TestNSPoolReady(t *testing.T) {
	newNS(t)
	before := countFiles(t)
	for _, tt := range []struct {
		name        string
		plain, fits bool
		take        func(fits func(Ready) bool) *NS
		found, left bool
	}{
		{"plain", true, false, nil, true, true},
		{"fits", false, true, nil, true, true},
		{"does not fit", false, false, nil, false, false},
		{"plain, without a request", true, false, func(func(Ready) bool) *NS { return besideFromPool() }, true, true},
		{"not plain, without a request", false, true, func(func(Ready) bool) *NS { return besideFromPool() }, false, true},
		{"room", true, true, func(func(Ready) bool) *NS {
			if !makeRoom() {
				t.Error("no room")
			}
			return nil
		}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			EmptyPool()
			ready := &prepared{plain: tt.plain}
			prepare := func(*NS, TAP) (Ready, error) { return ready, nil }
			if FromPool(TAP{}, prepare, nil) != nil {
				t.Fatal("the pool is not empty")
			}
			settle()
			awaitPooled(t, 1)
			if tt.take == nil {
				tt.take = func(fits func(Ready) bool) *NS { return FromPool(TAP{}, nil, fits) }
			}
			n := tt.take(func(Ready) bool { return tt.fits })
			if (n != nil) != tt.found {
				t.Errorf("found one: %v, want %v", n != nil, tt.found)
			}
			if n != nil {
				if n.TakeReady() != ready || n.TakeReady() != nil {
					t.Error("what was prepared is taken once")
				}
				n.Close()
			}
			teardown.Wait()
			if closed := ready.closed.Load(); closed != !tt.left {
				t.Errorf("closed: %v, want %v", closed, !tt.left)
			}
		})
	}
	EmptyPool()
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestNSPoolNotReady has a preparation that fails: the pool stays empty.
func TestNSPoolNotReady(t *testing.T) {
	newNS(t)
	before := countFiles(t)
	EmptyPool()
	failed := make(chan struct{}, 10)
	FromPool(TAP{}, func(*NS, TAP) (Ready, error) {
		failed <- struct{}{}
		return nil, unix.EIO
	}, nil)
	settle()
	<-failed
	EmptyPool()
	if after := countFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
