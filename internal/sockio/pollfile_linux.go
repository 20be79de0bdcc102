package sockio

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
)

// A PollFile is a descriptor in the runtime's poller. Receive waits, SendMsgs waits for a
// moment at most, and Close wakes both and returns when the descriptor is closed.
type PollFile struct {
	File *os.File
	Raw  syscall.RawConn
	// Brief says that sending takes no longer than the kernel needs to copy, see
	// packet.Sender: nobody can send descriptors to the socket.
	Brief bool
}

// NewPollFile takes over a non-blocking descriptor, and closes it on error.
func NewPollFile(fd int, name string) (PollFile, error) {
	f := os.NewFile(uintptr(fd), name)
	// A file that the poller has refused has no deadlines.
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

// NewLocalFile is NewPollFile for a local socket, which takes no descriptors from now on.
func NewLocalFile(fd int, name string) (PollFile, error) {
	brief := RefuseRights(fd)
	p, err := NewPollFile(fd, name)
	p.Brief = brief
	return p, err
}

// Receive waits until r has received something.
func (p PollFile) Receive(b *packet.Buffer, r packet.Receiver) error {
	err, closed := b.Receive(p.Raw, r)
	if closed != nil {
		return net.ErrClosed
	}
	return err
}

// SendMsgs sends the datagrams of s, and removes them from it. If wait is true, it
// waits up to packet.RoomWait for room.
func (p PollFile) SendMsgs(s *packet.Sender, sending packet.Sending, wait bool) (lost int, err error) {
	defer s.Reset()
	s.Brief = p.Brief
	all, err, closed := s.Send(p.Raw, sending)
	if !all && closed == nil && wait {
		p.File.SetWriteDeadline(time.Now().Add(packet.RoomWait))
		err, closed = s.SendWait(p.Raw, sending)
		if closed != nil && !p.Closed() {
			closed = nil // it took too long
		}
	}
	if closed != nil {
		err = net.ErrClosed
	}
	return s.Lost(), err
}

// Wake ends the Receive in progress and all later ones.
func (p PollFile) Wake() { p.File.SetReadDeadline(time.Unix(1, 0)) }

// Closed reports whether Close was called.
func (p PollFile) Closed() bool { return p.Raw.Control(func(uintptr) {}) != nil }

// Close closes the descriptor.
func (p PollFile) Close() error { return p.File.Close() }

// An Epoll is an epoll descriptor in the runtime's poller. It is readable when one of its
// descriptors has an event.
type Epoll struct{ PollFile }

// NewEpoll makes an Epoll without descriptors.
func NewEpoll(name string) (Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return Epoll{}, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // NewPollFile reports it if the poller does not take fd
	p, err := NewPollFile(fd, name)
	return Epoll{p}, err
}

// Add adds a descriptor whose events count.
func (e Epoll) Add(fd int, events uint32) error {
	return e.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// Remove removes a descriptor. It comes before closing one of which a child process that
// is about to start may have a copy: the events of the copy would go on.
func (e Epoll) Remove(fd int) { e.control(unix.EPOLL_CTL_DEL, fd, nil) }

func (e Epoll) control(op, fd int, event *unix.EpollEvent) (err error) {
	closed := e.Raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) })
	if closed != nil {
		return net.ErrClosed
	}
	return os.NewSyscallError("epoll_ctl", err)
}
