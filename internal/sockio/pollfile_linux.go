package sockio

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// A PollFile is a descriptor in the runtime's poller, as plugs use it: a Recv
// waits for frames, a Send never waits, and Close wakes the one, waits for the
// other and returns when the descriptor is closed.
type PollFile struct {
	File *os.File
	Raw  syscall.RawConn
	// Brief says that sending takes no longer than the kernel needs to copy, see
	// packet.Sender: the socket refuses descriptors, or knows none.
	Brief bool
}

// NewPollFile takes over a non-blocking descriptor; it is closed if that does
// not succeed.
func NewPollFile(fd int, name string) (PollFile, error) {
	f := os.NewFile(uintptr(fd), name)
	// A file that the poller has refused knows no deadlines.
	if err := f.SetDeadline(time.Time{}); err != nil {
		f.Close()
		return PollFile{}, fmt.Errorf("waiting for %s: %w", name, err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return PollFile{}, err
	}
	return PollFile{File: f, Raw: raw}, nil
}

// Wake ends the Recv in progress and all later ones.
func (p PollFile) Wake() { p.File.SetReadDeadline(time.Unix(1, 0)) }

func (p PollFile) Close() error { return p.File.Close() }
