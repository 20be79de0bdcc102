package vdetest

import (
	"bytes"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A Raw is a client that the test controls, with blocking sockets as in C clients. It sends
// frames as a plug does.
type Raw struct {
	t         testing.TB
	Ctl, Data int
	Path      string // of the data socket
}

// serial numbers the data sockets, with other numbers than those of package vdeproto.
var serial atomic.Uint32

// DialRaw connects to the control socket, and makes a data socket.
func DialRaw(t testing.TB, dir string) *Raw {
	t.Helper()
	c := &Raw{t: t, Path: fmt.Sprintf("%s/.%05d-%05d", dir, os.Getpid(), 50000+serial.Add(1)%50000)}
	for fd, typ := range map[*int]int{&c.Ctl: unix.SOCK_STREAM, &c.Data: unix.SOCK_DGRAM} {
		*fd = testenv.Must(unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0))(t)
		t.Cleanup(func() { unix.Close(*fd) })
		// Tests must end.
		for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			timeout := unix.NsecToTimeval(int64(testenv.Timeout))
			testenv.Check(t, unix.SetsockoptTimeval(*fd, unix.SOL_SOCKET, option, &timeout))
		}
	}
	testenv.Check(t, unix.Connect(c.Ctl, &unix.SockaddrUnix{Name: dir + "/ctl"}))
	testenv.Check(t, unix.Bind(c.Data, &unix.SockaddrUnix{Name: c.Path}))
	t.Cleanup(func() { os.Remove(c.Path) })
	return c
}

// Write is write(2). With a timeout the kernel does not restart it after a signal.
func Write(fd int, b []byte) error {
	for {
		if _, err := unix.Write(fd, b); err != unix.EINTR {
			return err
		}
	}
}

// Read is read(2), like Write.
func Read(fd int, b []byte) (int, error) {
	for {
		if n, err := unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

// Request sends b on the control connection.
func (c *Raw) Request(b []byte) {
	c.t.Helper()
	testenv.Check(c.t, Write(c.Ctl, b))
}

// Join does the handshake as C clients do.
func (c *Raw) Join() *Raw {
	c.t.Helper()
	c.Request(Request(c.Path, "raw"))
	reply := make([]byte, 200)
	n := testenv.Must(Read(c.Ctl, reply))(c.t)
	if n != ReplyLen {
		c.t.Fatalf("got %d bytes, want a reply", n)
	}
	path := string(bytes.TrimRight(reply[2:n], "\x00"))
	testenv.Check(c.t, unix.Connect(c.Data, &unix.SockaddrUnix{Name: path}))
	return c
}

// Send sends a frame to the switch.
func (c *Raw) Send(frame []byte) error { return Write(c.Data, frame) }

// WantEnd waits for the end of the control connection.
func (c *Raw) WantEnd() {
	c.t.Helper()
	if n, err := Read(c.Ctl, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
		c.t.Errorf("got %d bytes, %v, want the end of the connection", n, err)
	}
}
