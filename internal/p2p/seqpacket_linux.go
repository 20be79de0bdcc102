package p2p

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/teardown"
)

// adopted has the descriptors that were taken over. A second owner could close a file that
// got the same number later.
var adopted sync.Map

// OpenSeqpacket takes over a descriptor of the process, a connected SEQPACKET socket.
func OpenSeqpacket(fd int) (*Seqpacket, error) {
	if _, taken := adopted.LoadOrStore(fd, nil); taken {
		return nil, fmt.Errorf("descriptor %d already belongs to another plug", fd)
	}
	file, err := adoptSeqpacket(fd)
	if err != nil {
		adopted.Delete(fd)
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return &Seqpacket{seqpacketLink{FrameCodec: new(sockio.FrameCodec), file: file}, fd}, nil
}

// adoptSeqpacket checks and prepares a descriptor. It changes nothing unless that is a
// connected SEQPACKET socket.
func adoptSeqpacket(fd int) (sockio.PollFile, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.EBADF):
		return sockio.PollFile{}, fmt.Errorf("it is not open: %w", err)
	case errors.Is(err, unix.ENOTSOCK):
		return sockio.PollFile{}, fmt.Errorf("it is not a socket: %w", err)
	case err != nil:
		return sockio.PollFile{}, os.NewSyscallError("getsockopt", err)
	case kind != unix.SOCK_SEQPACKET:
		return sockio.PollFile{}, fmt.Errorf("it is a socket of type %d, not SEQPACKET (%d)", kind, unix.SOCK_SEQPACKET)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return sockio.PollFile{}, fmt.Errorf("it has no peer: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return sockio.PollFile{}, os.NewSyscallError("fcntl", err)
	}
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	return sockio.NewLocalFile(fd, "seqpacket")
}

// A seqpacketLink carries frames over a connected SEQPACKET socket.
type seqpacketLink struct {
	*sockio.FrameCodec
	file sockio.PollFile
	dead atomic.Bool // sending has found the peer gone
}

// errHungUp is the error of a link whose peer is gone.
var errHungUp = fmt.Errorf("the peer has closed its end: %w", io.EOF)

// Receive implements [packet.Receiver].
func (s *seqpacketLink) Receive(fd int, b *packet.Buffer) (bool, error) {
	for {
		empty, err := s.ReceiveFrames(fd, b)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ECONNRESET:
			return true, errHungUp
		case err != nil:
			return true, os.NewSyscallError("recvmmsg", err)
		case len(b.Packets) > 0:
			return true, nil
		case empty > 0 && hungUp(fd):
			return true, errHungUp // the end is received as empty packets
		}
		s.DroppedRecv.Add(uint64(empty))
		if s.file.Closed() {
			return true, net.ErrClosed
		}
	}
}

// hungUp reports whether the peer of a connected socket is gone.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// send sends frames. It reports false if the peer is gone.
func (s *seqpacketLink) send(packets []packet.Packet, wait bool) (bool, error) {
	err := s.SendFrames(s.file, packets, s, wait)
	return !s.dead.Load(), err
}

// HandleError implements [packet.Sending].
func (s *seqpacketLink) HandleError(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	if err == unix.EPIPE || err == unix.ECONNRESET || err == unix.ENOTCONN {
		s.dead.Store(true)
		return frames, false, nil
	}
	return frames, false, os.NewSyscallError("sendmmsg", err)
}

// A Seqpacket is a [packet.Transport] on a socket of the process. It ends with its peer.
type Seqpacket struct {
	seqpacketLink
	fd int
}

var _ packet.Transport = (*Seqpacket)(nil)

// RecvPackets implements [packet.Transport].
func (c *Seqpacket) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	err := c.file.Receive(b, &c.seqpacketLink)
	return b.Packets, err
}

// SendPackets implements [packet.Transport].
func (c *Seqpacket) SendPackets(packets []packet.Packet, wait bool) error {
	there, err := c.send(packets, wait)
	if err == nil && !there {
		err = errHungUp
	}
	return err
}

// Close closes the descriptor.
func (c *Seqpacket) Close() error {
	teardown.Within(func() {
		adopted.Delete(c.fd) // before another file can have the number
		c.file.Close()
	})
	return nil
}
