package vdeplug

import (
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVDESLC has vde_plug on the other end of the line.
func TestVDESLC(t *testing.T) {
	testenv.NoLeaks(t)
	master, name := testenv.PTY(t)
	line := openInbox(t, "vdesl://"+name)
	path, vnl := ptpName(t)
	cmd := exec.Command(testenv.Need(t, "vde_plug", "vdeplug"), vnl)
	cmd.Stdin, cmd.Stdout = master, master
	testenv.Check(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	waitPath(t, path)
	there := openInbox(t, vnl)
	// The program in C takes a frame for lost if a part of it is late.
	plugtest.CarryBoth(t, line, there, 14, 60, 1514, ether.MaxFrame)
}

// TestVDESLResync loses bytes: the next frame is found after a pause.
func TestVDESLResync(t *testing.T) {
	testenv.NoLeaks(t)
	master, name := testenv.PTY(t)
	c := openPlug(t, "vdesl://"+name)
	in := plugtest.NewInbox(t, c)
	stream := func(frames ...[]byte) (b []byte) {
		for _, f := range frames {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(f))), f...)
		}
		return b
	}
	a, b := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 100)
	drops := func() uint64 { return c.(Dropper).Drops().Recv }
	for i, bad := range [][]byte{
		stream(a)[:40],                     // the end is lost
		{0},                                // a part of the length is lost
		append([]byte{0xff}, stream(a)...), // a byte too many: an impossible length
	} {
		testenv.Must(master.Write(append(stream(b), bad...)))(t)
		in.Want(t, b)
		testenv.Eventually(t, "a drop", func() bool { return drops() == uint64(i+1) })
		testenv.Must(master.Write(stream(a, nil, b)))(t)
		in.Want(t, a)
		in.Want(t, b)
	}
	master.Close()
	err := in.WantEnd(t)
	if !errors.Is(err, io.EOF) {
		t.Errorf("%v is no end of file", err)
	}
}

// TestVDESLRestores checks that Close restores the settings of the line.
func TestVDESLRestores(t *testing.T) {
	testenv.NoLeaks(t)
	master, name := testenv.PTY(t)
	state := func() unix.Termios {
		t.Helper()
		var s *unix.Termios
		raw, err := master.SyscallConn()
		if err == nil {
			raw.Control(func(fd uintptr) { s, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
		}
		testenv.Check(t, err)
		return *s
	}
	before := state()
	c := openPlug(t, "vdesl://"+name+"[speed=9600]")
	if now := state(); now.Cflag&unix.CBAUD != unix.B9600 || now.Lflag != 0 || now.Cflag&unix.CSIZE != unix.CS8 {
		t.Errorf("%+v", now)
	}
	c.Close()
	if now := state(); now != before {
		t.Errorf("got %+v, want %+v", now, before)
	}
}
