package interop

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestSwitchStacks has two stacks of the process, a client stack and Debian's vdens on one
// switch.
func TestSwitchStacks(t *testing.T) {
	testenv.Long(t)
	noProcesses(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	third := host{"10.0.0.3", "fc00::1:3"}
	a, b := open(t, "switch://"+dir, server), open(t, "switch://"+dir, client)
	c := open(t, dir, third)
	for _, s := range []*vdestack.Stack{a, b, c} {
		serveEcho(t, s)
	}
	echo(t, a, client)
	echo(t, b, third)
	echo(t, c, server)
	them := debian(t, dir, host{"10.0.0.4", "fc00::1:4"})
	for _, h := range []host{server, client, third} {
		ping(t, them, h)
		them.echo(t, h)
	}
}

// TestSwitchChain joins a switch of ours and Debian's with vde_plug, and has a
// stack on the one and vdens on the other.
func TestSwitchChain(t *testing.T) {
	noProcesses(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	s := open(t, "switch://"+dir, server)
	serveEcho(t, s)
	classic := vdeSwitch(t)
	start(t, testenv.Need(t, "vde_plug", "vdeplug"), "vde://"+dir, classic)
	them := debian(t, classic, client)
	ping(t, them, server)
	them.echo(t, server)
	them.serveEcho(t)
	echo(t, s, client)
}

// serveEcho starts an echo server in a stack.
func serveEcho(t *testing.T, s *vdestack.Stack) {
	t.Helper()
	l := testenv.Must(s.Listen("tcp", ":5000"))(t)
	serveEchoOn(t, l)
}

// serveEchoOn is an echo server until the end of the test.
func serveEchoOn(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
}
