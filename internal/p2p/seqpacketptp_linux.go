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

// A SeqpacketPTP is one end of a pair with SEQPACKET sockets, as in versions of vdeplug
// after 4.0.1. The first end listens on the path; the second connects, and receives one
// byte: 0, or the errno of a refusal. When the listener leaves, the other end listens.
type SeqpacketPTP struct {
	sockio.FrameCodec // of all links
	path              string

	closing atomic.Bool     // set with mu held
	ctx     context.Context // ended by Close
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended

	mu       sync.Mutex   // guards the fields below; never held across a system call that waits
	changed  sync.Cond    // signals that link or closing was set
	link     *ptpLink     // to the peer; nil: no peer
	listener *ptpListener // nil: the other end listens
}

// A ptpLink is a connection to a peer.
type ptpLink struct {
	seqpacketLink
	gone chan struct{} // closed by drop
}

// A ptpListener is the socket that has the path of a pair.
type ptpListener struct {
	file sockio.PollFile
	id   sockio.FileID // of the path
}

var _ packet.Transport = (*SeqpacketPTP)(nil)

// OpenSeqpacketPTP opens an end of a pair. The path must be absolute.
func OpenSeqpacketPTP(ctx context.Context, path string) (*SeqpacketPTP, error) {
	c := &SeqpacketPTP{path: path, done: make(chan struct{})}
	c.changed.L = &c.mu
	if err := c.join(ctx); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.run()
	return c, nil
}

// join connects to the listener of the path, or listens on it.
func (c *SeqpacketPTP) join(ctx context.Context) error {
	// Others may take and leave the name meanwhile, but not all the time.
	for range 10 {
		link, err := c.connect(ctx)
		switch {
		case err == nil:
			c.take(nil, link)
			return nil
		case errors.Is(err, unix.ECONNREFUSED):
			if err := sockio.RemoveSocket(c.path); err != nil {
				return err
			}
		case !errors.Is(err, unix.ENOENT):
			return err
		}
		listener, err := listenPTP(c.path)
		if err == nil {
			c.take(listener, nil)
			return nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return fmt.Errorf("%s: others open and close it all the time: %w", c.path, unix.EADDRINUSE)
}

// connect connects to a listener, and waits for its answer.
func (c *SeqpacketPTP) connect(ctx context.Context) (*ptpLink, error) {
	path := c.path
	fd, err := sockio.LocalSocket(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	sockio.RefuseRights(fd)
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		switch err {
		case unix.EPROTOTYPE:
			return nil, fmt.Errorf("%s is a socket of another kind (vdeplug 4.0.1 makes it, without the option seqpacket): %w", path, err)
		case unix.EAGAIN:
			return nil, fmt.Errorf("%s does not answer, and others wait for it: %w", path, err)
		}
		return nil, fmt.Errorf("%s: %w", path, os.NewSyscallError("connect", err))
	}
	link, err := c.newLink(fd)
	if err != nil {
		return nil, err
	}
	if err := link.answer(ctx); err != nil {
		link.file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return link, nil
}

func (c *SeqpacketPTP) newLink(fd int) (*ptpLink, error) {
	file, err := sockio.NewLocalFile(fd, "ptp")
	if err != nil {
		return nil, err
	}
	return &ptpLink{seqpacketLink{FrameCodec: &c.FrameCodec, file: file}, make(chan struct{})}, nil
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

// listenPTP listens on a path. The error is EEXIST if another socket has it.
func listenPTP(path string) (*ptpListener, error) {
	fd, err := sockio.LocalSocket(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	sockio.RefuseRights(fd) // and the sockets that it accepts
	// Others would take a socket that does not listen yet for a dead one: it gets another
	// name first, and is linked to the path once it listens.
	made := fmt.Sprintf("%s.%x", path, time.Now().UnixNano())
	if err = sockio.Bind(fd, made, 0o700); err == nil {
		if err = os.NewSyscallError("listen", unix.Listen(fd, 1)); err == nil {
			err = os.NewSyscallError("link", unix.Link(made, path))
		}
		unix.Unlink(made)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	l := &ptpListener{id: sockio.IDAt(path)}
	if l.file, err = sockio.NewPollFile(fd, "ptp"); err != nil {
		l.id.Unlink(path)
		return nil, err
	}
	return l, nil
}

// accept waits for a peer.
func (l *ptpListener) accept() (fd int, err error) {
	closed := l.file.Raw.Read(func(listener uintptr) bool {
		fd, _, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if closed != nil {
		err = net.ErrClosed
	}
	return fd, os.NewSyscallError("accept4", err)
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
			select { // do not keep calling a peer that leaves at once
			case <-c.ctx.Done():
			case <-time.After(lookInterval - time.Since(called)):
			}
			called = time.Now()
			err = c.join(c.ctx)
		}
		if err != nil {
			select { // another end has the path, or there are no descriptors
			case <-c.ctx.Done():
			case <-time.After(lookInterval):
			}
		}
	}
}

// welcome waits for a peer, and accepts it unless the pair has one already.
func (c *SeqpacketPTP) welcome(l *ptpListener) error {
	fd, err := l.accept()
	if err != nil {
		return err
	}
	sockio.GrowBuffers(fd, sockio.SocketBuffer)
	link, err := c.newLink(fd)
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

// take takes over a listener or a link, one of which is nil. After Close, it closes it.
func (c *SeqpacketPTP) take(listener *ptpListener, link *ptpLink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing.Load() && listener != nil:
		listener.id.Unlink(c.path)
		listener.file.Close()
	case c.closing.Load():
		link.file.Close()
	case listener != nil:
		c.listener = listener
	default:
		c.link = link
		c.changed.Broadcast()
	}
}

// drop closes a link, unless it is closed already.
func (c *SeqpacketPTP) drop(link *ptpLink) {
	c.mu.Lock()
	mine := c.link == link
	if mine {
		c.link = nil
	}
	c.mu.Unlock()
	if mine {
		link.file.Close()
		close(link.gone)
	}
}

// wait waits for a link, and returns nil after Close.
func (c *SeqpacketPTP) wait() *ptpLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.link == nil && !c.closing.Load() {
		c.changed.Wait()
	}
	if c.closing.Load() {
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
	case link == nil: // there is no other end
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
	c.mu.Lock()
	c.closing.Store(true)
	listener, link := c.listener, c.link
	c.changed.Broadcast()
	c.mu.Unlock()
	c.cancel()
	if listener != nil {
		listener.id.Unlink(c.path)
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
