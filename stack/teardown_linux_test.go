package stack_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// taps returns how many TAP interfaces the process has open.
func taps(t *testing.T) (n int) {
	t.Helper()
	netns.EmptyPool() // has some too
	for _, l := range testenv.Must(filepath.Glob("/proc/self/fd/*"))(t) {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "/dev/net/tun") {
			n++
		}
	}
	return n
}

// TestCloseReturns closes stacks while the kernel takes for ever to remove
// interfaces. When Close has returned the plug has left its network, calls have
// returned and the namespace makes no more sockets.
func TestCloseReturns(t *testing.T) {
	netnstest.NoLeaks(t)
	dir := testenv.ShortDir(t)
	release := netnstest.Busy(t)
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprint(i))
		s := testenv.Must(Open("ptp://"+path, "10.0.0.1/24", "fc00::1:1/64"))(t)
		testenv.Must(os.Stat(path))(t)
		ln := testenv.Listen(t, s, "tcp", ":0")
		accepted := make(chan error)
		go func() {
			_, err := ln.Accept()
			accepted <- err
		}()
		testenv.Check(t, s.Close())
		testenv.Check(t, s.Close())
		if err := <-accepted; !errors.Is(err, unix.EINVAL) {
			t.Errorf("accept: %v", err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the plug is still there: %v", err)
		}
		if _, err := s.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("socket: %v", err)
		}
	}
	if got := taps(t); got != 3 {
		t.Errorf("%d interfaces of 3 are left for later", got)
	}
	release()
	if got := taps(t); got != 0 {
		t.Errorf("%d interfaces are left", got)
	}
}

// TestNewFailsAtOnce has New fail after it made an interface, which is removed
// later.
func TestNewFailsAtOnce(t *testing.T) {
	netnstest.NoLeaks(t)
	release := netnstest.Busy(t)
	_, err := New(t.Context(), Config{Interfaces: []Interface{
		{VNL: "null://", Addrs: testenv.Prefixes("10.0.0.1/24")},
		{VNL: "null://", Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: testenv.Addrs("10.9.9.9")},
	}})
	if !errors.Is(err, unix.ENETUNREACH) {
		t.Fatal(err)
	}
	release()
	if got := taps(t); got != 0 {
		t.Errorf("%d interfaces are left", got)
	}
}

// TestCloseLent closes a stack whose namespace somebody has, and then one that
// has joined it: the interfaces are gone when Close returns, for the namespace
// stays, and their names are taken again.
func TestCloseLentPlug(t *testing.T) {
	netnstest.NoLeaks(t)
	netnstest.Busy(t)
	s := testenv.Must(Open("null://", "10.0.0.1/24"))(t)
	ns := testenv.Opened(s.NetNS())(t)
	for range 3 {
		testenv.Check(t, s.Close())
		s = testenv.Must(New(t.Context(), Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), Interfaces: []Interface{{VNL: "null://"}}}))(t)
	}
	testenv.Check(t, s.Close())
}

// TestCloseConnecting keeps a socket that is not connected from before Close, and
// connects when the interface has been dealt with: it cannot.
func TestCloseConnecting(t *testing.T) {
	netnstest.NoLeaks(t)
	s := testenv.Must(Open("null://", "10.0.0.1/24", "fc00::1:1/64"))(t)
	var fds []int
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		f := testenv.Must(s.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0))(t)
		fd, err := unix.Dup(int(f.Fd()))
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	testenv.Check(t, s.Close())
	teardown.Wait()
	if err := unix.Connect(fds[0], &unix.SockaddrInet4{Addr: [4]byte{10, 0, 0, 2}, Port: 9}); err != unix.ENETUNREACH {
		t.Errorf("IPv4: %v", err)
	}
	to := &unix.SockaddrInet6{Addr: testenv.Addrs("fc00::1:2")[0].As16(), Port: 9}
	if err := unix.Connect(fds[1], to); err != unix.ENETUNREACH && err != unix.EADDRNOTAVAIL {
		t.Errorf("IPv6: %v", err)
	}
}
