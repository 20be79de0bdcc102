package interop

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// A modem joins two pseudo terminals, which plugs use as serial lines. It passes only whole
// frames to theirs: Debian's vdens ends when a frame has no bytes, which can happen when it
// begins to read in the middle of one.
type modem struct {
	ours, theirs string // devices
	there, line  *os.File
	mu           sync.Mutex // guards plugged, and is held for each frame
	plugged      bool
}

func newModem(t *testing.T) *modem {
	t.Helper()
	here, _, ours := pty(t)
	there, line, theirs := pty(t)
	m := &modem{ours: ours, theirs: theirs, there: there, line: line}
	go io.Copy(here, there)
	go func() {
		var header [2]byte
		for in := bufio.NewReader(here); ; {
			if _, err := io.ReadFull(in, header[:]); err != nil {
				return
			}
			frame := make([]byte, 2+int(binary.BigEndian.Uint16(header[:])))
			copy(frame, header[:])
			if _, err := io.ReadFull(in, frame[2:]); err != nil {
				return
			}
			m.mu.Lock()
			if m.plugged {
				there.Write(frame) // unless it is unplugged meanwhile
			}
			m.mu.Unlock()
		}
	}()
	return m
}

// unplug drops everything that is sent to them.
func (m *modem) unplug(t *testing.T) {
	t.Helper()
	m.there.SetWriteDeadline(time.Now())
	m.mu.Lock()
	m.plugged = false
	m.mu.Unlock()
	testenv.Check(t, unix.IoctlSetInt(int(m.line.Fd()), unix.TCFLSH, unix.TCIFLUSH))
}

func (m *modem) plug() {
	m.there.SetWriteDeadline(time.Time{})
	m.mu.Lock()
	m.plugged = true
	m.mu.Unlock()
}

// pty makes a pseudo terminal, and keeps its line open, so that it stays as it is when its
// user ends.
func pty(t *testing.T) (master, line *os.File, name string) {
	t.Helper()
	master, name = testenv.PTY(t)
	line = testenv.Must(os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0))(t)
	t.Cleanup(func() { line.Close() })
	return master, line, name
}
