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

func TestVDESLConn(t *testing.T) {
	testConn(t, func(t *testing.T) Conn {
		_, name := testenv.PTY(t)
		return openPlugTest(t, "vdesl://"+name+"[speed=115200]")
	})
}

// TestVDESLC has vde_plug on the other end of the line.
func TestVDESLC(t *testing.T) {
	testenv.NoLeaks(t)
	master, name := testenv.PTY(t)
	line := openInbox(t, "vdesl://"+name)
	path, vnl := ptpName(t)
	cmd := exec.Command(testenv.Need(t, "vde_plug", "vdeplug"), vnl)
	cmd.Stdin, cmd.Stdout = master, master
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	waitPath(t, path)
	there := openInbox(t, vnl)
	for _, n := range []int{14, 60, 1514, ether.MaxFrame} {
		// The program in C takes a frame for lost of which a part is not there yet.
		plugtest.Carry(t, line, there, plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n))
		plugtest.Carry(t, there, line, plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), n))
	}
}

// TestVDESLResync loses bytes, and finds the next frame after a pause.
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
		{0},                                // of the length
		append([]byte{0xff}, stream(a)...), // a byte too many: no frame is so long
	} {
		if _, err := master.Write(append(stream(b), bad...)); err != nil {
			t.Fatal(err)
		}
		in.Want(t, b)
		testenv.Eventually(t, "a drop", func() bool { return drops() == uint64(i+1) })
		if _, err := master.Write(stream(a, nil, b)); err != nil {
			t.Fatal(err)
		}
		in.Want(t, a)
		in.Want(t, b)
	}
	master.Close()
	err := in.WantEnd(t)
	if !errors.Is(err, io.EOF) {
		t.Errorf("%v is no end of file", err)
	}
}

// TestVDESLRestores leaves the line as it was.
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
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	before := state()
	c := openPlugTest(t, "vdesl://"+name+"[speed=9600]")
	if now := state(); now.Cflag&unix.CBAUD != unix.B9600 || now.Lflag != 0 || now.Cflag&unix.CSIZE != unix.CS8 {
		t.Errorf("%+v", now)
	}
	c.Close()
	if now := state(); now != before {
		t.Errorf("got %+v, want %+v", now, before)
	}
}

func TestVDESLErrors(t *testing.T) {
	testenv.NoLeaks(t)
	for vnl, text := range map[string]string{
		"vdesl://":                     "no device given",
		"vdesl:///dev/null":            "/dev/null is no serial line",
		"vdesl:///dev/nix":             "open /dev/nix: no such file",
		"vdesl:///dev/null[speed=1]":   `vdesl option "speed=1": must be one of 9600, 19200, 38400,`,
		"vdesl:///dev/null[speed]":     "must be one of",
		"vdesl:///dev/null[parity=no]": `vdesl option "parity=no": unknown (have speed)`,
	} {
		_, err := Open(vnl, nil)
		wantError(t, err, text)
	}
}
