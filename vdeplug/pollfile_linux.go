package vdeplug

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// A pollFile is a descriptor in the runtime's poller, as plugs use it: a Recv
// waits for frames, a Send never waits, and Close wakes the one, waits for the
// other and returns when the descriptor is closed.
type pollFile struct {
	f   *os.File
	raw syscall.RawConn
	// brief says that sending takes no longer than the kernel needs to copy, see
	// packet.Sender: the socket refuses descriptors, or knows none.
	brief bool
}

// newPollFile takes over a non-blocking descriptor; it is closed if that does
// not succeed.
func newPollFile(fd int, name string) (pollFile, error) {
	f := os.NewFile(uintptr(fd), name)
	// A file that the poller has refused knows no deadlines.
	if err := f.SetDeadline(time.Time{}); err != nil {
		f.Close()
		return pollFile{}, fmt.Errorf("waiting for %s: %w", name, err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return pollFile{}, err
	}
	return pollFile{f: f, raw: raw}, nil
}

// wake ends the Recv in progress and all later ones.
func (p pollFile) wake() { p.f.SetReadDeadline(time.Unix(1, 0)) }

func (p pollFile) close() error { return p.f.Close() }
