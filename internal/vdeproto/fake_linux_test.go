package vdeproto

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// TestFake exchanges a handshake and frames with a switch that checks them.
func TestFake(t *testing.T) {
	for _, name := range []string{"path", "abstract"} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := testenv.ShortDir(t)
			f := vdetest.NewFake(t, filepath.Join(dir, "ctl"))
			clients := make(chan *vdetest.FakeClient, 1)
			f.Serve(func(c *vdetest.FakeClient) {
				if name == "abstract" {
					c.Accept("\x00vdeplug-test-" + filepath.Base(dir))
				} else {
					c.Accept(filepath.Join(dir, "003.6"))
				}
				clients <- c
			})
			cfg := config(dir)
			cfg.Port = 3
			conn, err := Dial(t.Context(), cfg, nil)
			client := newPlug(t, conn, err)
			in := plugtest.NewInbox(t, client)
			c := <-clients
			if filepath.Dir(c.Path) != dir || !strings.HasPrefix(filepath.Base(c.Path), ".") {
				t.Errorf("the client's socket is %q", c.Path)
			}
			if c.Mode != fs.ModeSocket|0o700 {
				t.Errorf("the client's socket has mode %v, want 0700", c.Mode)
			}
			if want := makeRequest(3, c.Path, describe(t.Context(), "")+gsoMark); !bytes.Equal(c.Request, want) {
				t.Errorf("got request % x, want % x", c.Request, want)
			}
			frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), ether.MaxFrame)
			for _, b := range [][]byte{{}, {1}, make([]byte, 13), make([]byte, ether.MaxFrame+1), make([]byte, 60000), frame} {
				testenv.Must(unix.Write(c.Data, b))(t)
			}
			in.WantNext(t, frame)
			if recv, send := client.on.Dropped(); recv != 5 || send != 0 {
				t.Errorf("dropped %d received and %d sent, want 5 and 0", recv, send)
			}
			plugtest.Send(t, in, nil)
			plugtest.Send(t, in, frame)
			buf := make([]byte, 64<<10)
			if n, err := unix.Read(c.Data, buf); err != nil || !bytes.Equal(buf[:n], frame) {
				t.Errorf("the switch got %d bytes, %v, want %d", n, err, len(frame))
			}
			// C clients do not expect this either.
			c.Reply([]byte("junk"))
			plugtest.WantError(t, in.WantEnd(t), "the switch broke the protocol")
		})
	}
}

// TestMode checks the permissions of the client's socket.
func TestMode(t *testing.T) {
	testenv.NoLeaks(t)
	dir := testenv.ShortDir(t)
	f := vdetest.NewFake(t, filepath.Join(dir, "ctl"))
	modes := make(chan fs.FileMode, 1)
	n := 0
	f.Serve(func(c *vdetest.FakeClient) {
		modes <- c.Mode.Perm()
		n++
		c.Accept(filepath.Join(dir, string('a'+rune(n))))
	})
	group := strconv.Itoa(os.Getegid())
	for _, tt := range []struct {
		mode  int
		group string
		want  fs.FileMode
	}{
		{-1, "", 0o700},
		{0o666, "", 0o666},
		{0o770, group, 0o770},
		{-1, group, 0o700},
	} {
		conn, err := Dial(t.Context(), Config{Dir: dir, Port: AnyPort, Mode: tt.mode, Group: tt.group}, nil)
		newPlug(t, conn, err).Close()
		if got := <-modes; got != tt.want {
			t.Errorf("mode %o, group %q: mode %o, want %o", tt.mode, tt.group, got, tt.want)
		}
	}
	_, err := Dial(t.Context(), Config{Dir: dir, Port: AnyPort, Mode: -1, Group: "no-such-group"}, nil)
	plugtest.WantError(t, err, `option "group=no-such-group": must be a gid or a group`)
	if os.Geteuid() != 0 {
		return
	}
	// The switch of a user with a group of its own, and a client that may
	// give its socket to that group.
	testenv.Check(t, os.Chown(filepath.Join(dir, "ctl"), 65534, 65533))
	openPlug(t, dir).Close()
	if got := <-modes; got != 0o770 {
		t.Errorf("for a switch of another user: mode %o, want 770", got)
	}
}

// TestGarbled has switches with wrong answers.
func TestGarbled(t *testing.T) {
	tests := []struct {
		name, text string
		handle     func(c *vdetest.FakeClient)
	}{
		{"refused", "the switch refused the connection: it cannot reach the socket ", func(c *vdetest.FakeClient) { c.Ctl.Close() }},
		{"cut", "the switch closed the connection in its answer", func(c *vdetest.FakeClient) {
			c.Reply(vdetest.Reply(1, "/tmp/x")[:109])
			c.Ctl.Close()
		}},
		{"family", "an address of family 2", func(c *vdetest.FakeClient) { c.Reply(vdetest.Reply(2, "/tmp/x")) }},
		{"relative path", "not an absolute path", func(c *vdetest.FakeClient) { c.Reply(vdetest.Reply(1, "tmp/x")) }},
		{"no address", "an empty address", func(c *vdetest.FakeClient) { c.Reply(vdetest.Reply(1, "")) }},
		{"nothing there", `reaching the switch's data socket "/nosuch/x": connect: no such file`, func(c *vdetest.FakeClient) { c.Reply(vdetest.Reply(1, "/nosuch/x")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			dir := testenv.ShortDir(t)
			vdetest.NewFake(t, filepath.Join(dir, "ctl")).Serve(tt.handle)
			_, err := Dial(t.Context(), config(dir), nil)
			plugtest.WantError(t, err, tt.text)
			if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(names) > 0 {
				t.Errorf("left in the directory: %q, %v", names, err)
			}
		})
	}
}

// TestDeputy has the switch of another user, which tries to make the client of root write to
// a socket of root.
func TestDeputy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, and another user")
	}
	testenv.NoLeaks(t)
	dir := testenv.ShortDir(t)
	f := vdetest.NewFake(t, filepath.Join(dir, "ctl"))
	// The kernel records the user that listens.
	raw := testenv.Must(f.Listener.(*net.UnixListener).SyscallConn())(t)
	testenv.Check(t, raw.Control(func(fd uintptr) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for _, uid := range []int{65534, 0} {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				t.Fatal(errno)
			}
			if uid != 0 {
				testenv.Check(t, unix.Listen(int(fd), 8))
			}
		}
	}))
	l := testenv.Must(net.ListenPacket("unixgram", filepath.Join(dir, "log")))(t)
	defer l.Close()
	abstract := "\x00vdeplug-test-" + filepath.Base(dir)
	names := []string{filepath.Join(dir, "log"), abstract}
	next := 0
	f.Serve(func(c *vdetest.FakeClient) {
		name := names[next]
		next++
		if name == names[0] {
			c.Reply(vdetest.Reply(unix.AF_UNIX, name))
			return
		}
		c.Accept(name)
	})
	for range 2 {
		_, err := Dial(t.Context(), config(dir), nil)
		plugtest.WantError(t, err, "does not belong to the user at the other end")
	}
}
