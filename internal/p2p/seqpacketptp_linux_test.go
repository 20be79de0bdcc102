package p2p

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestPTPSeqpacket has two ends, which come and go.
func TestPTPSeqpacket(t *testing.T) {
	testenv.NoLeaks(t)
	path := ptpPath(t)
	open := func() (*SeqpacketPTP, *plugtest.Inbox) {
		t.Helper()
		c := testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t)
		return c, plugtest.NewInbox(t, plugtest.NewConn(c))
	}
	_, a := open()
	_, b := open()
	both := func(a, b *plugtest.Inbox) {
		t.Helper()
		plugtest.CarryBoth(t, a, b, ether.HeaderLen, 60, 1514, 4096, ether.MaxFrame)
	}
	both(a, b)
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o700 {
		t.Errorf("%v, %v", info, err)
	}
	_, err := OpenSeqpacketPTP(t.Context(), path)
	plugtest.WantError(t, err, path+": it already has two ends", unix.EISCONN)
	b.Close() // the one that has connected
	conn, b := open()
	both(a, b)
	// The one that listens: the other takes its place.
	a.Close()
	testenv.Eventually(t, "another listener", func() bool { return conn.listens() })
	_, a = open()
	both(a, b)
	a.Close()
	b.Close()
	if names, err := filepath.Glob(filepath.Dir(path) + "/*"); err != nil || len(names) != 0 {
		t.Errorf("left are %q, %v", names, err)
	}
}

func (c *SeqpacketPTP) listens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listener != nil
}

// TestPTPSeqpacketForeign plays the other end with plain sockets, as in vdeplug.
func TestPTPSeqpacketForeign(t *testing.T) {
	testenv.Long(t)
	testenv.NoLeaks(t)
	path := ptpPath(t)
	addr := &unix.SockaddrUnix{Name: path}
	socket := func() int {
		t.Helper()
		fd := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
		wait := unix.NsecToTimeval(int64(testenv.Timeout))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
		return fd
	}
	recv := func(fd int) []byte {
		t.Helper()
		buf := make([]byte, ether.MaxFrame)
		n := testenv.Must(unix.Read(fd, buf))(t)
		return buf[:n]
	}
	listener := socket()
	testenv.Check(t, unix.Bind(listener, addr))
	testenv.Check(t, unix.Listen(listener, 1))
	var c *SeqpacketPTP
	opened := make(chan error)
	open := func(ctx context.Context) {
		go func() {
			var err error
			c, err = OpenSeqpacketPTP(ctx, path)
			opened <- err
		}()
	}
	accept := func() int {
		t.Helper()
		fd, _, err := unix.Accept(listener)
		testenv.Check(t, err)
		return fd
	}
	// Refusals, no answer, the end, and a cancelled call.
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
		plugtest.WantError(t, <-opened, tt.text)
		cancel()
		unix.Close(fd)
	}

	open(t.Context())
	fd := accept()
	unix.Send(fd, []byte{0}, 0)
	testenv.Check(t, <-opened)
	in := plugtest.NewInbox(t, plugtest.NewConn(c))
	frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1514)
	plugtest.Send(t, in, frame)
	if got := recv(fd); !bytes.Equal(got, frame) {
		t.Errorf("got %d bytes", len(got))
	}
	frame = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1514)
	unix.Send(fd, frame, 0)
	in.Want(t, frame)
	// It dies, and leaves its name. Our end takes the name, and the next end connects to it.
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
	testenv.Check(t, unix.Connect(third, addr))
	if got := recv(third); !bytes.Equal(got, []byte{byte(unix.EISCONN)}) {
		t.Errorf("got % x, want EISCONN", got)
	}
	if got := recv(third); len(got) != 0 {
		t.Errorf("got % x, want the end", got)
	}
	unix.Close(third)
}

// TestPTPSeqpacketFlaps has another end that accepts the link, and leaves at once.
func TestPTPSeqpacketFlaps(t *testing.T) {
	testenv.NoLeaks(t)
	path := ptpPath(t)
	l := testenv.Must(net.Listen("unixpacket", path))(t)
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
	plugtest.NewInbox(t, end(t, testenv.Must(OpenSeqpacketPTP(t.Context(), path))(t)))
	<-ended
	if d := time.Since(start); d < (calls-2)*lookInterval {
		t.Errorf("the plug came %d times in %v", calls, d)
	}
}
