package vdeplug

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A pollFile is a descriptor in the runtime's poller, as plugs use it: a Recv
// waits for frames, a Send never waits, and Close wakes the one, waits for the
// other and returns when the descriptor is closed.
type pollFile struct {
	f   *os.File
	raw syscall.RawConn
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
	return pollFile{f, raw}, nil
}

// A device is what a pollFile moves frames for.
type device interface {
	// tryRecv receives into t without blocking, and reports false when there
	// is nothing yet. One call runs at a time.
	tryRecv(fd int, t *transfer) (done bool)
	// trySend sends t.frame without blocking. Many calls may run at once.
	trySend(fd int, t *transfer)
}

// A transfer is one Recv or Send on its way to the system call. The functions
// that [syscall.RawConn] takes would be allocated for every frame; here they
// live as long as the pooled transfer.
type transfer struct {
	dev   device
	frame []byte
	n     int   // length of the frame received
	err   error // why there is none
	msg   message

	vec   [2][]byte // for readv: the frame and spare
	spare [1]byte   // takes a byte of a frame that is longer than the buffer

	recv func(fd uintptr) bool
	send func(fd uintptr)
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.recv = func(fd uintptr) bool { return t.dev.tryRecv(int(fd), t) }
	t.send = func(fd uintptr) { t.dev.trySend(int(fd), t) }
	return t
}}

func (t *transfer) done() {
	t.dev, t.frame, t.n, t.err = nil, nil, 0, nil
	t.vec = [2][]byte{}
	t.msg.release()
	transfers.Put(t)
}

// recv waits until dev has received a frame. Errors of the file itself, closed
// or woken by a deadline, are [net.ErrClosed].
func (p pollFile) recv(dev device, frame []byte) (n int, err error) {
	t := transfers.Get().(*transfer)
	t.dev, t.frame = dev, frame
	err = p.raw.Read(t.recv)
	if err != nil {
		err = net.ErrClosed
	} else {
		n, err = t.n, t.err
	}
	t.done()
	return n, err
}

// send lets dev send a frame.
func (p pollFile) send(dev device, frame []byte) error {
	t := transfers.Get().(*transfer)
	t.dev, t.frame = dev, frame
	err := p.raw.Control(t.send)
	if err != nil {
		err = net.ErrClosed
	} else {
		err = t.err
	}
	t.done()
	return err
}

// wake ends the Recv in progress and all later ones.
func (p pollFile) wake() { p.f.SetReadDeadline(time.Unix(1, 0)) }

func (p pollFile) close() error { return p.f.Close() }

// read reads one frame with a plain read. It reports false if there is none
// yet; a frame longer than the buffer has a length that is larger.
func (t *transfer) read(fd int) (n int, err error) {
	t.vec = [2][]byte{t.frame, t.spare[:]}
	for {
		if n, err = unix.Readv(fd, t.vec[:]); err != unix.EINTR {
			return n, err
		}
	}
}

// write writes one frame with a plain write.
func (t *transfer) write(fd int) error {
	for {
		if _, err := unix.Write(fd, t.frame); err != unix.EINTR {
			return err
		}
	}
}
