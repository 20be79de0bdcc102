package sockio

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/testenv"
)

// socket makes a datagram socket that is bound to a path.
func socket(t *testing.T, path string) int {
	t.Helper()
	fd := testenv.Must(LocalSocket(unix.SOCK_DGRAM))(t)
	testenv.Check(t, Bind(fd, path, 0o640))
	return fd
}

// TestSocketFiles has live, busy, dead and foreign files in the place of a socket.
func TestSocketFiles(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	inUse := func(want bool) {
		t.Helper()
		if used, err := InUse(path); used != want || err != nil {
			t.Errorf("in use: %v, %v, want %v", used, err, want)
		}
	}
	inUse(false)
	fd := socket(t, path)
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o640 {
		t.Errorf("bound: %v, %v", info, err)
	}
	inUse(true)
	other := socket(t, path+"2")
	testenv.Check(t, unix.Connect(fd, &unix.SockaddrUnix{Name: path + "2"}))
	inUse(true) // though it takes no other peer
	unix.Close(other)
	unix.Close(fd)
	inUse(false)
	if IDAt(path) != (FileID{}) {
		t.Error("the dead socket was not removed")
	}
	unix.Close(socket(t, path))
	unix.Close(socket(t, path+"3"))
	id, another := IDAt(path), IDAt(path+"3")
	testenv.Check(t, os.Rename(path+"3", path))
	if id.Unlink(path); IDAt(path) != another {
		t.Error("another socket of the same name was removed")
	}
	if another.Unlink(path); IDAt(path) != (FileID{}) {
		t.Error("the socket was not removed")
	}
	testenv.Check(t, os.WriteFile(path, nil, 0o600))
	if used, err := InUse(path); used || err == nil || err.Error() != path+" exists and is not a socket" {
		t.Errorf("a file in use: %v, %v", used, err)
	}
	if _, _, err := OpenSocket(path); err != unix.ENOTSOCK {
		t.Errorf("opening a file as a socket: %v", err)
	}
	testenv.Check(t, os.Remove(path))
	testenv.Check(t, os.Symlink(path+"2", path))
	if _, _, err := OpenSocket(path); err != unix.ENOTSOCK {
		t.Errorf("opening a link as a socket: %v", err)
	}
}

// TestFlock waits for a lock, and gives up.
func TestFlock(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	open := func() *os.File {
		f := testenv.Must(os.Open(dir))(t)
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	testenv.Check(t, Flock(t.Context(), first))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Flock(ctx, second); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a lock that another has: %v, want EBUSY", err)
	}
	locked := make(chan error)
	go func() { locked <- Flock(t.Context(), second) }()
	first.Close()
	testenv.Check(t, <-locked)
}

// TestEpoll waits for a descriptor, for a removed one, and for the end.
func TestEpoll(t *testing.T) {
	testenv.NoLeaks(t)
	e := testenv.Must(NewEpoll("test"))(t)
	pair, err := GSOPair()
	testenv.Check(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	ready := func() bool {
		e.File.SetReadDeadline(time.Now().Add(time.Millisecond))
		n := 0
		e.Raw.Read(func(fd uintptr) bool {
			var events [2]unix.EpollEvent
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		return n > 0
	}
	testenv.Check(t, e.Add(pair[0], unix.EPOLLIN))
	if ready() {
		t.Error("ready without a message")
	}
	testenv.Check(t, unix.Send(pair[1], []byte{1}, 0))
	testenv.Eventually(t, "an event", ready)
	e.Remove(pair[0])
	if ready() {
		t.Error("ready after Remove")
	}
	testenv.Check(t, e.Close())
	if err := e.Add(pair[0], unix.EPOLLIN); err == nil || !e.Closed() {
		t.Errorf("after Close: %v, closed %v", err, e.Closed())
	}
}

// TestSockaddr compares addresses and ports of both families.
func TestSockaddr(t *testing.T) {
	for text, normal := range map[string]string{
		"10.0.0.1:4789": "10.0.0.1", "0.0.0.0:1": "127.0.0.1", "[fe80::1]:65535": "fe80::1", "[::]:2": "::",
	} {
		want := netip.MustParseAddrPort(text)
		s := MakeSockaddr(want, 3)
		if got := netip.AddrPortFrom(s.Addr(), s.Port()); got != want || s != MakeSockaddr(want, 3) {
			t.Errorf("%v became %v", want, got)
		}
		s.Normalize()
		s.SetPort(0x102)
		if s.Addr() != netip.MustParseAddr(normal) || s.Port() != 0x102 {
			t.Errorf("%v: normalized to %v:%d", want, s.Addr(), s.Port())
		}
	}
}

// TestDatagrams cuts joined datagrams, the last of which may be incomplete.
func TestDatagrams(t *testing.T) {
	for _, truncated := range []bool{false, true} {
		var got []string
		var complete []bool
		for data, ok := range Datagrams(packet.Datagram{Data: []byte("aabbc"), Segment: 2, Truncated: truncated}) {
			got, complete = append(got, string(data)), append(complete, ok)
		}
		if !slices.Equal(got, []string{"aa", "bb", "c"}) || !slices.Equal(complete, []bool{true, true, !truncated}) {
			t.Errorf("got %q, complete %v", got, complete)
		}
	}
}
