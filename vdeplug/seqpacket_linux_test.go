package vdeplug

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// socketPair returns the descriptors of two connected sockets.
func socketPair(t *testing.T, kind int) (a, b int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], pair[1]
}

func openSeqpacketTest(t *testing.T, fd int) Conn {
	t.Helper()
	c, err := Open(fmt.Sprintf("seqpacket://%d", fd), nil)
	if err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestSeqpacket has ends of ours and of the program in C on a pair.
func TestSeqpacket(t *testing.T) {
	for _, there := range []struct {
		name string
		open func(t *testing.T, fd int) (Conn, *plugtest.Inbox)
	}{
		{"ours", func(t *testing.T, fd int) (Conn, *plugtest.Inbox) {
			in := plugtest.NewInbox(t, openSeqpacketTest(t, fd))
			return in, in
		}},
		{"C", func(t *testing.T, fd int) (Conn, *plugtest.Inbox) {
			f := os.NewFile(uintptr(fd), "pair")
			defer f.Close()
			c := plugtest.CCommandFiles(t, []*os.File{f}, testenv.Need(t, "vde_plug", "vdeplug"), "seqpacket://3")
			return c, c.Inbox
		}},
	} {
		t.Run(there.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			a, b := socketPair(t, unix.SOCK_SEQPACKET)
			here := plugtest.NewInbox(t, openSeqpacketTest(t, a))
			peer, frames := there.open(t, b)
			for _, n := range frameSizes {
				frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n)
				plugtest.Send(t, peer, frame)
				here.Want(t, frame)
				frame = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), n)
				plugtest.Send(t, here, frame)
				frames.Want(t, frame)
			}
			if c, ok := peer.(*plugtest.CConn); ok {
				c.Kill(t)
			} else {
				peer.Close()
			}
			err := here.WantEnd(t)
			wantError(t, err, "the peer has closed its end")
			if !errors.Is(err, io.EOF) {
				t.Errorf("%v is no end of file", err)
			}
			wantError(t, here.Send(plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)), "the peer has closed its end")
		})
	}
}

func TestSeqpacketErrors(t *testing.T) {
	testenv.NoLeaks(t)
	for vnl, text := range map[string]string{
		"seqpacket://":       `"": must be the number of a descriptor`,
		"seqpacket://x":      `"x": must be the number of a descriptor`,
		"seqpacket://-1":     `"-1": must be the number`,
		"seqpacket://99999":  "descriptor 99999: it is not open",
		"seqpacket://0x3":    "must be the number",
		"seqpacket://3/port": "must be the number",
	} {
		_, err := Open(vnl, nil)
		wantError(t, err, text)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, err = Open(fmt.Sprintf("seqpacket://%d", r.Fd()), nil)
	wantError(t, err, "it is no socket")
	a, b := socketPair(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	defer unix.Close(b)
	_, err = Open(fmt.Sprintf("seqpacket://%d", a), nil)
	wantError(t, err, "it is a socket of the kind 1, not SEQPACKET (5)")
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	_, err = Open(fmt.Sprintf("seqpacket://%d", s), nil)
	wantError(t, err, "it has no peer")

	a, b = socketPair(t, unix.SOCK_SEQPACKET)
	defer unix.Close(b)
	c := openSeqpacketTest(t, a)
	vnl := fmt.Sprintf("seqpacket://%d", a)
	_, err = Open(vnl, nil)
	wantError(t, err, fmt.Sprintf("descriptor %d is that of another plug", a))
	c.Close()
	_, err = Open(vnl, nil)
	wantError(t, err, "it is not open")
}
