package slirp

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
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
	if !sockio.RefuseRights(plugtest.SocketPair(t, unix.SOCK_STREAM)[0]) {
		t.Skip("needs SO_PASSRIGHTS (Linux 6.16)")
	}
	path := t.TempDir() + "/s"
	ln := testenv.Must(net.Listen("unix", path))(t)
	defer ln.Close()
	go serve(ln, func(c net.Conn) {
		f, err := c.(*net.UnixConn).File()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		sendRights(f)
	})
	t.Setenv(testenv.ProgramVariable, "sendRights")
	for name, s := range map[string]service{"socket": {path: path}, "command": {command: []string{"/proc/self/exe"}}} {
		t.Run(name, func(t *testing.T) {
			c := testenv.Must(s.dial(t.Context()))(t)
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(testenv.Timeout))
			if got, err := io.ReadAll(c); err != nil || string(got) != unix.EPERM.Error() {
				t.Errorf("sending a descriptor: %q, %v, want %q", got, err, unix.EPERM)
			}
		})
	}
}
