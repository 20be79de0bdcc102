package slirp

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// sendRights sends a descriptor to a socket, and then the result.
func sendRights(f *os.File) {
	err := unix.Sendmsg(int(f.Fd()), []byte("x"), unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL)
	text := "taken"
	if err != nil {
		text = err.Error()
	}
	f.WriteString(text)
}

// TestRights lets the peers of guests send descriptors, which are rejected.
func TestRights(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	testenv.Check(t, err)
	err = unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
	unix.Close(pair[0])
	unix.Close(pair[1])
	if err != nil {
		t.Skipf("needs SO_PASSRIGHTS (Linux 6.16): %v", err)
	}
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	testenv.Check(t, err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		f, err := c.(*net.UnixConn).File()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		sendRights(f)
	}()
	t.Setenv(testenv.ProgramVariable, "sendRights")
	for name, s := range map[string]service{"socket": {path: path}, "command": {command: []string{"/proc/self/exe"}}} {
		t.Run(name, func(t *testing.T) {
			c, err := s.dial(t.Context())
			testenv.Check(t, err)
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(testenv.Timeout))
			if got, err := io.ReadAll(c); err != nil || string(got) != unix.EPERM.Error() {
				t.Errorf("sending a descriptor: %q, %v, want %q", got, err, unix.EPERM)
			}
		})
	}
}
