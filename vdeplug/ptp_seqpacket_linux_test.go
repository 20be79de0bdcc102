package vdeplug

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func ptpSeqName(t *testing.T) (path, vnl string) {
	t.Helper()
	path, vnl = ptpName(t)
	return path, vnl + "[seqpacket]"
}

func TestPTPSeqpacketConn(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			_, vnl := ptpSeqName(t)
			return openPlugTest(t, vnl)
		})
	})
	t.Run("second", func(t *testing.T) {
		testConn(t, func(t *testing.T) Conn {
			_, vnl := ptpSeqName(t)
			openPlug(t, vnl)
			return openPlugTest(t, vnl)
		})
	})
}

// TestPTPSeqpacket has two ends, which come and go.
func TestPTPSeqpacket(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpSeqName(t)
	a, b := openInbox(t, vnl), openInbox(t, vnl)
	both := func(a, b *plugtest.Inbox) {
		t.Helper()
		for _, n := range frameSizes {
			plugtest.Carry(t, a, b, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n))
			plugtest.Carry(t, b, a, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), n))
		}
	}
	both(a, b)
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o700 {
		t.Errorf("%v, %v", info, err)
	}
	_, err := Open(vnl, nil)
	wantError(t, err, path+": it already has two ends")
	if !errors.Is(err, unix.EISCONN) {
		t.Errorf("%v", err)
	}
	b.Close() // the one that has connected
	b = openInbox(t, vnl)
	both(a, b)
	// The one that listens: the other takes its place.
	a.Close()
	testenv.Eventually(t, "another listener", func() bool { return on[*ptpSeqConn](b.Conn).on.listens() })
	a = openInbox(t, vnl)
	both(a, b)
	a.Close()
	b.Close()
	if names, err := filepath.Glob(filepath.Dir(path) + "/*"); err != nil || len(names) != 0 {
		t.Errorf("left are %q, %v", names, err)
	}
}

func (c *ptpSeqConn) listens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listener != nil
}

// TestPTPSeqpacketForeign is the other end with plain sockets, as vdeplug has it.
func TestPTPSeqpacketForeign(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpSeqName(t)
	addr := &unix.SockaddrUnix{Name: path}
	socket := func() int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		wait := unix.NsecToTimeval(int64(testenv.Timeout))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
		return fd
	}
	recv := func(fd int) []byte {
		t.Helper()
		buf := make([]byte, ether.MaxFrame)
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
	listener := socket()
	if err := unix.Bind(listener, addr); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	open := func(ctx context.Context) {
		go func() {
			_, err := OpenContext(ctx, vnl, nil)
			opened <- err
		}()
	}
	accept := func() int {
		t.Helper()
		fd, _, err := unix.Accept(listener)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	// Refusals, no answer, the end, and a caller who does not wait.
	for _, tt := range []struct {
		do   func(fd int, cancel context.CancelFunc)
		text string
	}{
		{func(fd int, _ context.CancelFunc) { unix.Send(fd, []byte{byte(unix.EISCONN)}, 0) }, "it already has two ends"},
		{func(fd int, _ context.CancelFunc) { unix.Send(fd, []byte{byte(unix.EACCES)}, 0) }, "the other end refuses: permission denied"},
		{func(fd int, _ context.CancelFunc) { unix.Close(fd) }, "the other end went away"},
		{func(_ int, cancel context.CancelFunc) { cancel() }, "context canceled"},
		{func(int, context.CancelFunc) {}, "the other end did not answer in 2s"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		open(ctx)
		fd := accept()
		tt.do(fd, cancel)
		wantError(t, <-opened, tt.text)
		cancel()
		unix.Close(fd)
	}

	var c Conn
	go func() {
		var err error
		c, err = Open(vnl, nil)
		opened <- err
	}()
	fd := accept()
	unix.Send(fd, []byte{0}, 0)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	in := plugtest.NewInbox(t, c)
	frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1514)
	plugtest.Send(t, in, frame)
	if got := recv(fd); !bytes.Equal(got, frame) {
		t.Errorf("got %d bytes", len(got))
	}
	frame = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1514)
	unix.Send(fd, frame, 0)
	in.Want(t, frame)
	// It dies, and leaves its name. Ours takes that, and the next one comes to it.
	unix.Close(listener)
	unix.Close(fd)
	fd = socket()
	defer unix.Close(fd)
	testenv.Eventually(t, "our end to listen", func() bool { return unix.Connect(fd, addr) == nil })
	if got := recv(fd); !bytes.Equal(got, []byte{0}) {
		t.Errorf("got % x, want that it is taken", got)
	}
	unix.Send(fd, frame, 0)
	in.Want(t, frame)
	third := socket()
	if err := unix.Connect(third, addr); err != nil {
		t.Fatal(err)
	}
	if got := recv(third); !bytes.Equal(got, []byte{byte(unix.EISCONN)}) {
		t.Errorf("got % x, want EISCONN", got)
	}
	if got := recv(third); len(got) != 0 {
		t.Errorf("got % x, want the end", got)
	}
	unix.Close(third)
}

// TestPTPSeqpacketFlaps has another end that takes the link, and leaves at once.
func TestPTPSeqpacketFlaps(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpSeqName(t)
	l, err := net.Listen("unixpacket", path)
	check(t, err)
	defer l.Close()
	const calls = 4 // one by Open, and one at once
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range calls {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			c.Write([]byte{0})
			c.Close()
		}
	}()
	start := time.Now()
	openInbox(t, vnl)
	<-ended
	if d := time.Since(start); d < (calls-2)*ptpLook {
		t.Errorf("the plug came %d times in %v", calls, d)
	}
}

func TestPTPParse(t *testing.T) {
	long := "/" + strings.Repeat("a", 89)
	for _, tt := range []struct {
		in, path  string
		seqpacket bool
		err       string
	}{
		{in: "ptp:///run/p", path: "/run/p"},
		{in: "ptp:///run/p%20'x", path: "/run/p%20'x"},
		{in: "ptp:///run/[a]b", path: "/run/[a]b"},
		{in: "ptp:///run/p[]", path: "/run/p"},
		{in: "ptp:///run/p[seqpacket]", path: "/run/p", seqpacket: true},
		{in: `ptp:///run/p\[a\]`, path: "/run/p[a]"},
		{in: "ptp://'/run/[a]'[seqpacket]", path: "/run/[a]", seqpacket: true},
		{in: "ptp://" + long + "[seqpacket]", path: long, seqpacket: true},

		{in: "ptp://", err: "no path given"},
		{in: "ptp://[seqpacket]", err: "no path given"},
		{in: "ptp:///run/p[datagram]", err: `ptp option "datagram": unknown (have seqpacket)`},
		{in: "ptp:///run/p[seqpacket=1]", err: "takes no value"},
		{in: "ptp://" + long + "a[seqpacket]", err: "has 91 bytes, a socket's path at most 90"},
	} {
		l, err := Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		path, seqpacket, err := parsePTP(l)
		if tt.err != "" {
			wantError(t, err, tt.err)
		} else if err != nil || path != tt.path || seqpacket != tt.seqpacket {
			t.Errorf("%s: got %q, %v, %v", tt.in, path, seqpacket, err)
		}
	}
}

// TestPTPVersions opens a pair of one version in the other.
func TestPTPVersions(t *testing.T) {
	testenv.NoLeaks(t)
	path, vnl := ptpName(t)
	c := openPlugTest(t, vnl)
	_, err := Open(vnl+"[seqpacket]", nil)
	wantError(t, err, path+" is a socket of another kind (vdeplug 4.0.1 has such, without the option seqpacket)")
	c.Close()
	c = openPlugTest(t, vnl+"[seqpacket]")
	defer c.Close()
	_, err = Open(vnl, nil)
	wantError(t, err, path+" is a socket of another kind (later versions of vdeplug have such, the option seqpacket)")
	if err := os.WriteFile(path+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(vnl+"2[seqpacket]", nil)
	wantError(t, err, "exists and is no socket")
}
