package vdeplug

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// wantReconnects waits until the network of a plug is back for the n-th time.
func wantReconnects(t *testing.T, c Conn, n uint64) {
	t.Helper()
	link := func() Link { return c.(Linker).Link() }
	testenv.Eventually(t, fmt.Sprintf("%d reconnects", n), func() bool { l := link(); return l.Reconnects == n && l.Err == nil },
		func() string { return fmt.Sprintf("%+v", link()) })
}

// TestReconnectLine pulls out a serial line, and puts in another of the same name.
func TestReconnectLine(t *testing.T) {
	testenv.NoLeaks(t)
	device := filepath.Join(t.TempDir(), "tty")
	plug := func() io.ReadWriteCloser {
		master, name := testenv.PTY(t)
		os.Remove(device)
		testenv.Check(t, os.Symlink(name, device))
		return master
	}
	master := plug()
	c := reopening(t, "vdesl://"+device, nil)
	line := plugtest.NewInbox(t, c)
	for n := range uint64(3) {
		wantReconnects(t, c, n)
		there := plugtest.NewInbox(t, NewStream(master))
		plugtest.CarryBoth(t, line, there, 60)
		os.Remove(device)
		there.Close()
		testenv.Eventually(t, "the end of the line", func() bool { return c.(Linker).Link().Err != nil })
		master = plug()
	}
	wantReconnects(t, c, 3)
	master.Close()
}

// wrapped is a plug of another package on one of this package.
type wrapped struct{ Conn }

// TestReconnectDescriptor checks that the plug does not take another file with the same descriptor.
func TestReconnectDescriptor(t *testing.T) {
	for _, form := range []string{"%s", "vlan://1{%s}", "wrapped-of-test://%s"} {
		t.Run(form, func(t *testing.T) { testReconnectDescriptor(t, form) })
	}
}

func testReconnectDescriptor(t *testing.T, form string) {
	testenv.NoLeaks(t)
	pair := func() [2]int {
		fds := testenv.Must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
		return fds
	}
	first := pair()
	registerTest(t, "wrapped-of-test", func(ctx context.Context) (Conn, error) {
		c, err := OpenContext(ctx, seqpacketVNL(first[0]), nil)
		if err != nil {
			return nil, err
		}
		return wrapped{c}, nil
	})
	c := reopening(t, fmt.Sprintf(form, seqpacketVNL(first[0])), nil)
	unix.Close(first[1])
	if _, err := c.Recv(make([]byte, ether.MaxFrame)); err != nil {
		plugtest.WantError(t, err, "the peer has closed its end")
	} else {
		t.Error("a frame")
	}
	wantLink(t, c, "closed", io.EOF, false, 0)
	// Both descriptors are of another pair now.
	second := pair()
	defer unix.Close(second[0])
	defer unix.Close(second[1])
	if _, err := c.Recv(make([]byte, ether.MaxFrame)); err == nil {
		t.Error("it is back")
	}
}
