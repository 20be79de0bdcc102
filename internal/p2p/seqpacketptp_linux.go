package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/teardown"
)

// answerTimeout is how long an end waits for the answer of the listener.
const answerTimeout = 2 * time.Second

// A SeqpacketPTP is one end of a pair as in versions of vdeplug after 4.0.1, with SEQPACKET
// sockets. The first end listens on the path; the second connects, and is answered with
// one byte: 0, or the errno of a refusal. When the listener leaves, the other end takes
// its place.
type SeqpacketPTP struct {
	packet.Counters
	path string

	closing atomic.Bool
	ctx     context.Context // ended by Close
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended

	mu       sync.Mutex // guards the fields below; never held across a system call that waits
	changed  sync.Cond  // signals that link or closed was set
	link     *ptpLink   // to the peer; nil: no peer
	closed   bool
	listener *ptpListener // nil: the other end listens
}

// A ptpLink is a connection to a peer.
type ptpLink struct {
	seqpacketLink
	gone chan struct{} // closed by drop
}

// A ptpListener is the socket that has the path of a pair.
type ptpListener struct {
	file     sockio.PollFile
	path     string
	dev, ino uint64
}

var _ packet.Transport = (*SeqpacketPTP)(nil)

// OpenSeqpacketPTP opens an end of the pair with a path, which must be absolute.
func OpenSeqpacketPTP(ctx context.Context, path string) (*SeqpacketPTP, error) {
	listener, link, err := takeSeqpacketPTP(ctx, path)
	if err != nil {
		return nil, err
	}
	c := &SeqpacketPTP{path: path, listener: listener, link: link, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.changed.L = &c.mu
	go c.run()
	return c, nil
}

// takeSeqpacketPTP connects to the listener of a path, or becomes it.
func takeSeqpacketPTP(ctx context.Context, path string) (*ptpListener, *ptpLink, error) {
	// Others may take and leave the name meanwhile, but not all the time.
	for range 10 {
		link, err := connectPTP(ctx, path)
		switch {
		case err == nil:
			return nil, link, nil
		case errors.Is(err, unix.ECONNREFUSED):
			if err := sockio.RemoveSocket(path); err != nil {
				return nil, nil, err
			}
		case !errors.Is(err, unix.ENOENT):
			return nil, nil, err
		}
		listener, err := listenPTP(path)
		if err == nil {
			return listener, nil, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("%s: others open and close it all the time: %w", path, unix.EADDRINUSE)
}

// connectPTP connects to a listener, and waits for its answer.
func connectPTP(ctx context.Context, path string) (*ptpLink, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	sockio.RefuseRights(fd)
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case nil:
	case unix.EPROTOTYPE:
		unix.Close(fd)
		return nil, fmt.Errorf("%s is a socket of another kind (vdeplug 4.0.1 has such, without the option seqpacket): %w", path, err)
	case unix.EAGAIN:
		unix.Close(fd)
		return nil, fmt.Errorf("%s does not answer, and others wait for it: %w", path, err)
	default:
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, os.NewSyscallError("connect", err))
	}
	link, err := newPTPLink(fd)
	if err != nil {
		return nil, err
	}
	if err := link.answer(ctx); err != nil {
		link.file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return link, nil
}

func newPTPLink(fd int) (*ptpLink, error) {
	brief := sockio.RefuseRights(fd)
	file, err := sockio.NewPollFile(fd, "ptp")
	if err != nil {
		return nil, err
	}
	file.Brief = brief
	return &ptpLink{seqpacketLink: seqpacketLink{file: file}, gone: make(chan struct{})}, nil
}

// hungUp reports whether the peer of a link is gone.
func (k *ptpLink) hungUp() (gone bool) {
	closed := k.file.Raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) })
	return gone || closed != nil
}

// answer waits for the answer of the listener.
func (k *ptpLink) answer(ctx context.Context) error {
	k.file.File.SetReadDeadline(time.Now().Add(answerTimeout))
	stop := context.AfterFunc(ctx, k.file.Wake)
	var b [1]byte
	var n int
	var err error
	closed := k.file.Raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b[:])
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if !stop() {
		return ctx.Err()
	}
	k.file.File.SetReadDeadline(time.Time{})
	switch {
	case closed != nil:
		return fmt.Errorf("the other end did not answer in %v: %w", answerTimeout, unix.ETIMEDOUT)
	case err != nil:
		return os.NewSyscallError("read", err)
	case n == 0:
		return fmt.Errorf("the other end went away: %w", unix.ECONNRESET)
	case unix.Errno(b[0]) == unix.EISCONN:
		return fmt.Errorf("it already has two ends: %w", unix.EISCONN)
	case b[0] != 0:
		return fmt.Errorf("the other end refuses: %w", unix.Errno(b[0]))
	}
	return nil
}

// listenPTP listens on a path. The error is EEXIST if another has it.
func listenPTP(path string) (*ptpListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	sockio.RefuseRights(fd) // and what it accepts
	// A socket that does not listen yet would be taken for a dead one: it is made under
	// another name, and linked to the path once it listens.
	made := fmt.Sprintf("%s.%x", path, time.Now().UnixNano())
	err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o700))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: made}))
	}
	if err == nil {
		if err = os.NewSyscallError("listen", unix.Listen(fd, 1)); err == nil {
			err = os.NewSyscallError("link", unix.Link(made, path))
		}
		unix.Unlink(made)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	l := &ptpListener{path: path}
	l.dev, l.ino = sockio.Inode(path)
	if l.file, err = sockio.NewPollFile(fd, "ptp"); err != nil {
		l.unlink()
		return nil, err
	}
	return l, nil
}

// unlink removes the path, unless another socket has it by now.
func (l *ptpListener) unlink() {
	if dev, ino := sockio.Inode(l.path); dev == l.dev && ino == l.ino {
		unix.Unlink(l.path)
	}
}

// accept waits for a peer.
func (l *ptpListener) accept() (*ptpLink, error) {
	var fd int
	var err error
	closed := l.file.Raw.Read(func(listener uintptr) bool {
		fd, _, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if closed != nil {
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, os.NewSyscallError("accept4", err)
	}
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	return newPTPLink(fd)
}

// run finds a peer whenever there is no link.
func (c *SeqpacketPTP) run() {
	defer close(c.done)
	var called time.Time
	for !c.closing.Load() {
		c.mu.Lock()
		listener, link := c.listener, c.link
		c.mu.Unlock()
		var err error
		switch {
		case listener != nil:
			err = c.welcome(listener)
		case link != nil:
			select {
			case <-c.ctx.Done():
			case <-link.gone:
			}
		default:
			select { // do not call a peer that leaves at once again and again
			case <-c.ctx.Done():
			case <-time.After(lookInterval - time.Since(called)):
			}
			called = time.Now()
			err = c.retake()
		}
		if err != nil {
			select { // another has the path, or there are no descriptors
			case <-c.ctx.Done():
			case <-time.After(lookInterval):
			}
		}
	}
}

// welcome waits for a peer, and accepts it unless there is one already.
func (c *SeqpacketPTP) welcome(l *ptpListener) error {
	link, err := l.accept()
	if err != nil {
		return err
	}
	c.mu.Lock()
	old := c.link
	c.mu.Unlock()
	if old != nil && old.hungUp() { // unnoticed, as nothing receives
		c.drop(old)
		old = nil
	}
	answer := []byte{0}
	if old != nil {
		answer[0] = byte(unix.EISCONN)
	}
	link.file.Raw.Control(func(fd uintptr) { err = unix.Send(int(fd), answer, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) })
	if old != nil || err != nil {
		link.file.Close()
		return nil // refused, or gone
	}
	c.take(nil, link)
	return nil
}

// retake connects to the current owner of the path, or listens on it.
func (c *SeqpacketPTP) retake() error {
	listener, link, err := takeSeqpacketPTP(c.ctx, c.path)
	if err == nil {
		c.take(listener, link)
	}
	return err
}

// take takes over a listener or a link; the other is nil. After Close, it closes it.
func (c *SeqpacketPTP) take(listener *ptpListener, link *ptpLink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed && listener != nil:
		listener.unlink()
		listener.file.Close()
	case c.closed:
		link.file.Close()
	case listener != nil:
		c.listener = listener
	default:
		c.link = link
		c.changed.Broadcast()
	}
}

// drop closes a link, unless that was done.
func (c *SeqpacketPTP) drop(link *ptpLink) {
	c.mu.Lock()
	mine := c.link == link
	if mine {
		c.link = nil
	}
	c.mu.Unlock()
	if mine {
		link.file.Close()
		c.count(link)
		close(link.gone)
	}
}

// count adds the counts of a link to those of the pair.
func (c *SeqpacketPTP) count(link *ptpLink) {
	recv, send := link.Dropped()
	c.DroppedRecv.Add(recv)
	c.DroppedSend.Add(send)
}

// Dropped returns the counts of all links so far.
func (c *SeqpacketPTP) Dropped() (recv, send uint64) {
	recv, send = c.Counters.Dropped()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		r, s := c.link.Dropped()
		recv, send = recv+r, send+s
	}
	return recv, send
}

// wait waits for a link, and returns nil after Close.
func (c *SeqpacketPTP) wait() *ptpLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.link == nil && !c.closed {
		c.changed.Wait()
	}
	if c.closed {
		return nil
	}
	return c.link
}

// RecvPackets implements [packet.Transport].
func (c *SeqpacketPTP) RecvPackets(b *packet.Buffer) ([]packet.Packet, error) {
	for {
		b.Release() // while it waits
		link := c.wait()
		if link == nil {
			return nil, net.ErrClosed
		}
		if link.file.Receive(b, link) == nil {
			return b.Packets, nil
		}
		c.drop(link)
	}
}

// SendPackets implements [packet.Transport].
func (c *SeqpacketPTP) SendPackets(packets []packet.Packet, wait bool) error {
	c.mu.Lock()
	link := c.link
	c.mu.Unlock()
	switch {
	case c.closing.Load():
		return net.ErrClosed
	case link == nil: // a cable without the other end
		c.DropPackets(packets)
		return nil
	}
	if there, err := link.send(packets, wait); err != nil || !there {
		c.drop(link)
	}
	if c.closing.Load() {
		return net.ErrClosed
	}
	return nil
}

// Close leaves the pair, and removes the path if this end listens on it.
func (c *SeqpacketPTP) Close() error {
	c.closing.Store(true)
	c.mu.Lock()
	c.closed = true
	listener, link := c.listener, c.link
	c.changed.Broadcast()
	c.mu.Unlock()
	c.cancel()
	if listener != nil {
		listener.unlink()
	}
	teardown.Within(func() {
		if listener != nil {
			listener.file.Close()
		}
		if link != nil {
			c.drop(link)
		}
		<-c.done
	})
	return nil
}
