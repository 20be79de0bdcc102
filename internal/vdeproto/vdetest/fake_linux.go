package vdetest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// A Fake is a switch that the test controls.
type Fake struct {
	t        *testing.T
	Dir      string
	Listener net.Listener
	done     chan struct{}
}

// A FakeClient is the switch's side of a connection.
type FakeClient struct {
	t       *testing.T
	Ctl     net.Conn
	Request []byte
	Path    string      // of the client's data socket
	Mode    fs.FileMode // of this socket
	Data    int         // the switch's data socket, or -1
}

// NewFake listens at the path.
func NewFake(t *testing.T, path string) *Fake {
	t.Helper()
	l := testenv.Must(net.Listen("unix", path))(t)
	f := &Fake{t: t, Dir: testenv.ShortDir(t), Listener: l, done: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	return f
}

// Serve runs handle for each client.
func (f *Fake) Serve(handle func(c *FakeClient)) {
	f.t.Cleanup(func() {
		f.Listener.Close()
		<-f.done
	})
	go func() {
		defer close(f.done)
		for {
			ctl, err := f.Listener.Accept()
			if err != nil {
				return
			}
			c := &FakeClient{t: f.t, Ctl: ctl, Request: make([]byte, 256), Data: -1}
			n, err := ctl.Read(c.Request)
			if err != nil || n < RequestLen {
				f.t.Errorf("request of %d bytes, %v", n, err)
				ctl.Close()
				continue
			}
			c.Request = c.Request[:n]
			c.Path = string(bytes.TrimRight(c.Request[14:RequestLen], "\x00"))
			if info, err := os.Stat(c.Path); err == nil {
				c.Mode = info.Mode()
			}
			f.t.Cleanup(func() {
				ctl.Close()
				if c.Data >= 0 {
					unix.Close(c.Data)
				}
			})
			handle(c)
			go func() { // as a switch does when a client leaves
				io.Copy(io.Discard, ctl)
				ctl.Close()
			}()
		}
	}()
}

// Accept answers as a switch does. A path that begins with NUL is abstract.
func (c *FakeClient) Accept(path string) {
	name := path
	if path[0] == 0 {
		name = "@" + path[1:] + strings.Repeat("\x00", pathLen-len(path))
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(
			syscall.Connect(fd, &syscall.SockaddrUnix{Name: c.Path}),
			syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}))
	}
	if err != nil {
		c.t.Error(err)
	}
	c.Data = fd
	c.Reply(Reply(unix.AF_UNIX, path))
}

// Reply answers with b.
func (c *FakeClient) Reply(b []byte) {
	if _, err := c.Ctl.Write(b); err != nil {
		c.t.Error(err)
	}
}
