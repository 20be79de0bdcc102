package vdeplug

import (
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func seqpacketVNL(fd int) string { return fmt.Sprintf("seqpacket://%d", fd) }

// TestSeqpacket connects a plug with another one, of ours and in C.
func TestSeqpacket(t *testing.T) {
	for _, there := range []struct {
		name string
		open func(t *testing.T, fd int) (in *plugtest.Inbox, end func(*testing.T))
	}{
		{"ours", func(t *testing.T, fd int) (*plugtest.Inbox, func(*testing.T)) {
			in := openInbox(t, seqpacketVNL(fd))
			return in, func(*testing.T) { in.Close() }
		}},
		{"C", func(t *testing.T, fd int) (*plugtest.Inbox, func(*testing.T)) {
			f := os.NewFile(uintptr(fd), "pair")
			defer f.Close()
			c := plugtest.CCommandFiles(t, []*os.File{f}, testenv.Need(t, "vde_plug", "vdeplug"), "seqpacket://3")
			return c.Inbox, func(t *testing.T) { c.Kill(t) }
		}},
	} {
		t.Run(there.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			a, b := plugtest.OpenPair(t, unix.SOCK_SEQPACKET)
			here := openInbox(t, seqpacketVNL(a))
			peer, end := there.open(t, b)
			plugtest.SendBoth(t, here, peer, frameSizes...)
			end(t)
			plugtest.WantError(t, here.WantEnd(t), "the peer has closed its end", io.EOF)
			plugtest.WantError(t, here.Send(plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)), "the peer has closed its end")
		})
	}
}

func TestSeqpacketErrors(t *testing.T) {
	testenv.NoLeaks(t)
	r, w, err := os.Pipe()
	testenv.Check(t, err)
	defer r.Close()
	defer w.Close()
	wantOpenError(t, seqpacketVNL(int(r.Fd())), "it is not a socket")
	a, b := plugtest.OpenPair(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	defer unix.Close(b)
	wantOpenError(t, seqpacketVNL(a), "it is a socket of type 1, not SEQPACKET (5)")
	s := testenv.Must(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
	defer unix.Close(s)
	wantOpenError(t, seqpacketVNL(s), "it has no peer")

	a, b = plugtest.OpenPair(t, unix.SOCK_SEQPACKET)
	defer unix.Close(b)
	c := openPlug(t, seqpacketVNL(a))
	vnl := seqpacketVNL(a)
	wantOpenError(t, vnl, fmt.Sprintf("descriptor %d already belongs to another plug", a))
	c.Close()
	wantOpenError(t, vnl, "it is not open")
}
