//go:build amd64 || arm64

package netns

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

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

// inSeries asks for two namespaces, one after the other, and waits until the pool is full.
func inSeries(t *testing.T, with TAP) {
	t.Helper()
	EmptyPool()
	for range 2 {
		n, err := NewWith(with)
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
	}
	awaitPooled(t, poolSize)
}

// TestNSPool asks for namespaces in series. The later ones take no round trip to the helper,
// and are as others are. When no more are asked for, the pool is emptied.
func TestNSPool(t *testing.T) {
	testenv.Long(t)
	h := newNS(t).h
	before := countFiles(t)
	one, err := New()
	if err != nil {
		t.Fatal(err)
	}
	one.Close()
	if got := pooled(); got != 0 {
		t.Errorf("%d are pooled after the first", got)
	}
	inSeries(t, TAP{})
	// As if more were being made, so that none are.
	nsPool.mu.Lock()
	making := make(chan struct{})
	nsPool.making = making
	nsPool.mu.Unlock()
	start := h.roundTrips.Load()
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	fd, err := n.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got := h.roundTrips.Load() - start; got != 0 {
		t.Errorf("%d round trips for a pooled namespace and a socket", got)
	}
	nsPool.mu.Lock()
	nsPool.making = nil
	close(making)
	nsPool.timer.Reset(settling)
	nsPool.mu.Unlock()
	if cookie(t, fd) != n.Cookie() || n.Cookie() == one.Cookie() {
		t.Errorf("cookies: %d of a socket in %d, and %d before", cookie(t, fd), n.Cookie(), one.Cookie())
	}
	ifr, err := unix.NewIfreq("lo")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr)
	}
	if err != nil || ifr.Uint16()&unix.IFF_UP == 0 {
		t.Errorf("loopback has the flags %#x, %v", ifr.Uint16(), err)
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
		n, err := NewWith(tt.with)
		if err != nil {
			t.Fatal(err)
		}
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
		rt, err := n.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		ifr, err := unix.NewIfreq(tt.with.Name)
		if err == nil {
			err = unix.IoctlIfreq(rt, unix.SIOCGIFINDEX, ifr)
		}
		if err != nil || ifr.Uint32() != uint32(index) || index != want.Index {
			t.Errorf("%s: index %d, want %d, %v", tt.name, index, want.Index, err)
		}
		if err := unix.IoctlIfreq(rt, unix.SIOCGIFFLAGS, ifr); err != nil || up != tt.with.Up || (ifr.Uint16()&unix.IFF_UP != 0) != up {
			t.Errorf("%s: up is %v, and the flags %#x, %v", tt.name, up, ifr.Uint16(), err)
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

// TestNSPoolAtLimit does not fill the pool near the limit of descriptors.
func TestNSPoolAtLimit(t *testing.T) {
	newNS(t)
	EmptyPool()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		room uint64
		want int
	}{{descriptorReserve - 1, 0}, {2 * descriptorReserve, poolSize}} {
		free, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(free)
		limit := before
		limit.Cur = uint64(free) + tt.room
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
		nsPool.mu.Lock()
		nsPool.last = time.Now().Add(time.Hour) // a series that does not end meanwhile
		if nsPool.timer == nil {
			nsPool.timer = time.AfterFunc(time.Hour, tend)
		}
		nsPool.mu.Unlock()
		tend()
		if got := pooled(); got != tt.want {
			t.Errorf("with room for %d descriptors %d namespaces are pooled, want %d", tt.room, got, tt.want)
		}
	}
	EmptyPool()
}
