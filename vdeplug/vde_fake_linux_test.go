package vdeplug

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A fakeSwitch is a switch that behaves as the test says.
type fakeSwitch struct {
	t        *testing.T
	dir      string
	listener net.Listener
	done     chan struct{}
}

// A fakeClient is the switch's side of a connection.
type fakeClient struct {
	t       *testing.T
	ctl     net.Conn
	request []byte
	path    string      // of the client's data socket
	mode    fs.FileMode // of it
	data    int         // the switch's data socket, -1 if there is none
}

func listenUnix(t *testing.T, path string, backlog int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// newFakeSwitch listens at the path.
func newFakeSwitch(t *testing.T, path string) *fakeSwitch {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeSwitch{t: t, dir: shortDir(t), listener: l, done: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	return f
}

// serve runs f for each client.
func (f *fakeSwitch) serve(handle func(c *fakeClient)) {
	f.t.Cleanup(func() {
		f.listener.Close()
		<-f.done
	})
	go func() {
		defer close(f.done)
		for {
			ctl, err := f.listener.Accept()
			if err != nil {
				return
			}
			c := &fakeClient{t: f.t, ctl: ctl, request: make([]byte, 256), data: -1}
			n, err := ctl.Read(c.request)
			if err != nil || n < vdeRequestLen {
				f.t.Errorf("request of %d bytes, %v", n, err)
				ctl.Close()
				continue
			}
			c.request = c.request[:n]
			c.path = string(bytes.TrimRight(c.request[14:vdeRequestLen], "\x00"))
			if info, err := os.Stat(c.path); err == nil {
				c.mode = info.Mode()
			}
			f.t.Cleanup(func() {
				ctl.Close()
				if c.data >= 0 {
					unix.Close(c.data)
				}
			})
			handle(c)
		}
	}()
}

// accept answers as a switch does. A path that begins with NUL is abstract.
func (c *fakeClient) accept(path string) {
	name := path
	if path[0] == 0 {
		name = "@" + path[1:] + strings.Repeat("\x00", unixPathLen-len(path))
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(
			syscall.Connect(fd, &syscall.SockaddrUnix{Name: c.path}),
			syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}))
	}
	if err != nil {
		c.t.Error(err)
	}
	c.data = fd
	c.reply(vdeReply(unixFamily, path))
}

func (c *fakeClient) reply(b []byte) {
	if _, err := c.ctl.Write(b); err != nil {
		c.t.Error(err)
	}
}

// TestVDEFake plays a handshake and frames with a switch that looks closely.
func TestVDEFake(t *testing.T) {
	for _, name := range []string{"path", "abstract"} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := shortDir(t)
			f := newFakeSwitch(t, filepath.Join(dir, "ctl"))
			clients := make(chan *fakeClient, 1)
			f.serve(func(c *fakeClient) {
				if name == "abstract" {
					c.accept("\x00vdeplug-test-" + filepath.Base(dir))
				} else {
					c.accept(filepath.Join(dir, "003.6"))
				}
				clients <- c
			})
			in := openInbox(t, dir+"[3]")
			c := <-clients
			if filepath.Dir(c.path) != dir || !strings.HasPrefix(filepath.Base(c.path), ".") {
				t.Errorf("the client's socket is %q", c.path)
			}
			if c.mode != fs.ModeSocket|0o700 {
				t.Errorf("the client's socket has mode %v, want 0700", c.mode)
			}
			if want := makeVDERequest(3, c.path, describe(t.Context(), &Options{})+wholeMark); !bytes.Equal(c.request, want) {
				t.Errorf("got request % x, want % x", c.request, want)
			}
			frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.MaxFrame)
			for _, b := range [][]byte{{}, {1}, make([]byte, 13), make([]byte, ether.MaxFrame+1), make([]byte, 60000), frame} {
				if _, err := unix.Write(c.data, b); err != nil {
					t.Fatal(err)
				}
			}
			if got := in.Next(t); !bytes.Equal(got, frame) {
				t.Errorf("got %d bytes, want %d", len(got), len(frame))
			}
			if got := in.Conn.(Dropper).Drops(); got != (Drops{Recv: 5}) {
				t.Errorf("got %+v, want 5", got)
			}
			plugtest.Send(t, in, nil)
			plugtest.Send(t, in, frame)
			buf := make([]byte, 64<<10)
			if n, err := unix.Read(c.data, buf); err != nil || !bytes.Equal(buf[:n], frame) {
				t.Errorf("the switch got %d bytes, %v, want %d", n, err, len(frame))
			}
			// What the C clients do not expect either.
			c.reply([]byte("junk"))
			wantError(t, in.WantEnd(t), "the switch broke the protocol")
		})
	}
}

// TestVDEMode looks at the permissions of the client's socket.
func TestVDEMode(t *testing.T) {
	testenv.NoLeaks(t)
	dir := shortDir(t)
	f := newFakeSwitch(t, filepath.Join(dir, "ctl"))
	modes := make(chan fs.FileMode, 1)
	n := 0
	f.serve(func(c *fakeClient) {
		modes <- c.mode.Perm()
		n++
		c.accept(filepath.Join(dir, string('a'+rune(n))))
	})
	for options, want := range map[string]fs.FileMode{
		"":            0o700,
		"[mode=0666]": 0o666,
		"[mode=0770/group=" + strconv.Itoa(os.Getegid()) + "]": 0o770,
		"[group=" + strconv.Itoa(os.Getegid()) + "]":           0o700,
	} {
		openPlug(t, dir+options).Close()
		if got := <-modes; got != want {
			t.Errorf("%s: mode %o, want %o", options, got, want)
		}
	}
	_, err := Open(dir+"[group=no-such-group]", nil)
	wantError(t, err, `option "group=no-such-group": must be a gid or a group`)
	if os.Geteuid() != 0 {
		return
	}
	// The switch of a user with a group of its own, and a client that may
	// give its socket to that group.
	if err := os.Chown(filepath.Join(dir, "ctl"), 65534, 65533); err != nil {
		t.Fatal(err)
	}
	openPlug(t, dir).Close()
	if got := <-modes; got != 0o770 {
		t.Errorf("for a switch of another user: mode %o, want 770", got)
	}
}

// TestVDEGarbled meets switches that answer wrong.
func TestVDEGarbled(t *testing.T) {
	tests := []struct {
		name, text string
		handle     func(c *fakeClient)
	}{
		{"refused", "the switch refused the connection: it cannot reach the socket ", func(c *fakeClient) { c.ctl.Close() }},
		{"cut", "the switch closed the connection in its answer", func(c *fakeClient) {
			c.reply(vdeReply(1, "/tmp/x")[:109])
			c.ctl.Close()
		}},
		{"family", "an address of family 2", func(c *fakeClient) { c.reply(vdeReply(2, "/tmp/x")) }},
		{"relative path", "no absolute path", func(c *fakeClient) { c.reply(vdeReply(1, "tmp/x")) }},
		{"no address", "an empty address", func(c *fakeClient) { c.reply(vdeReply(1, "")) }},
		{"nothing there", `reaching the switch's data socket "/nosuch/x": connect: no such file`, func(c *fakeClient) { c.reply(vdeReply(1, "/nosuch/x")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := shortDir(t)
			newFakeSwitch(t, filepath.Join(dir, "ctl")).serve(tt.handle)
			_, err := Open(dir, nil)
			wantError(t, err, tt.text)
			noSocketLeft(t, dir)
		})
	}
}

// TestVDEDeputy meets the switch of another user, which wants the client of root
// to write to a socket of root.
func TestVDEDeputy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	dir := shortDir(t)
	f := newFakeSwitch(t, filepath.Join(dir, "ctl"))
	// The kernel notes who listens.
	raw, err := f.listener.(*net.UnixListener).SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for _, uid := range []int{65534, 0} {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				t.Fatal(errno)
			}
			if uid != 0 {
				check(t, unix.Listen(int(fd), 8))
			}
		}
	}))
	l, err := net.ListenPacket("unixgram", filepath.Join(dir, "log"))
	check(t, err)
	defer l.Close()
	abstract := "\x00vdeplug-test-" + filepath.Base(dir)
	names := []string{filepath.Join(dir, "log"), abstract}
	next := 0
	f.serve(func(c *fakeClient) {
		name := names[next]
		next++
		if name == names[0] {
			c.reply(vdeReply(unixFamily, name))
			return
		}
		c.accept(name)
	})
	for range 2 {
		_, err = Open(dir, nil)
		wantError(t, err, "does not belong to the user at the other end")
	}
}
