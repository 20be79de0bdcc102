package vdeproto

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

const (
	// maxClients is how many clients a switch has at most: each costs the process
	// descriptors, and the kernel memory for packets that the client does not read.
	maxClients = 1024
	// clientFiles is how many descriptors a client takes: its connection, its data
	// socket, and the epoll descriptor for that. The clients of all switches may take
	// a quarter of the process's limit, connections without a request an eighth.
	clientFiles = 3
	// roomyClients is how many clients have large socket buffers.
	roomyClients = 64
	// maxWaiting is how many connections may be without a request. The next takes the
	// place of the oldest of them.
	maxWaiting = 128
	// requestWait is how long a connection may be without a request.
	requestWait = 3 * time.Second
	// acceptBatch is how many connections are accepted before others are served.
	acceptBatch = 16
	// acceptPause is how long nothing is accepted when descriptors have run out.
	acceptPause = 100 * time.Millisecond
)

// An acceptor accepts clients of a switch and notices when they leave. One goroutine
// does this for all, and never waits for one: a silent client does not delay others.
type acceptor struct {
	s     *server
	epoll int
	poll  sockio.PollFile // of epoll
	done  chan struct{}

	// The fields below belong to the goroutine.
	clients map[int]*controlConn // by descriptor
	waiting []*controlConn       // without a request, oldest first
	ports   int
	paused  time.Time // nothing is accepted before; zero: not paused
	request [requestMax]byte
}

// A controlConn is a connection to the control socket.
type controlConn struct {
	fd    int
	until time.Time   // for the request
	port  *clientPort // nil before the request
}

func newAcceptor(s *server) (_ *acceptor, err error) {
	a := &acceptor{s: s, clients: make(map[int]*controlConn), done: make(chan struct{})}
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.SetNonblock(a.epoll, true); err == nil { // or the poller does not take it
		err = a.watch(s.dir.listener)
	}
	if err != nil {
		unix.Close(a.epoll)
		return nil, err
	}
	if a.poll, err = sockio.NewPollFile(a.epoll, "switch"); err != nil {
		return nil, err
	}
	go a.serve()
	return a, nil
}

func (a *acceptor) watch(fd int) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}))
}

// unwatch comes before closing: a child process that is about to start may have
// a copy of the descriptor, and events would go on.
func (a *acceptor) unwatch(fd int) { unix.EpollCtl(a.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// close ends all connections.
func (a *acceptor) close() {
	a.poll.Close()
	<-a.done
}

func (a *acceptor) serve() {
	defer close(a.done)
	step := a.step
	for {
		a.poll.File.SetReadDeadline(a.next())
		err := a.poll.Raw.Read(step)
		if err != nil && a.poll.Closed() {
			break
		}
		a.expire(time.Now())
	}
	a.epoll = -1
	for _, c := range a.clients {
		a.drop(c)
	}
}

// next returns when expire has something to do; zero: nothing.
func (a *acceptor) next() time.Time {
	next := a.paused
	if len(a.waiting) > 0 && (next.IsZero() || a.waiting[0].until.Before(next)) {
		next = a.waiting[0].until
	}
	return next
}

// expire drops connections whose time for a request is over, and ends a pause.
func (a *acceptor) expire(now time.Time) {
	for len(a.waiting) > 0 && !now.Before(a.waiting[0].until) {
		a.drop(a.waiting[0])
	}
	if !a.paused.IsZero() && !now.Before(a.paused) && a.watch(a.s.dir.listener) == nil {
		a.paused = time.Time{}
	}
}

// step handles events, without waiting. Connections come before new ones: a request
// that has arrived is not lost because many connect.
func (a *acceptor) step(epoll uintptr) bool {
	var events [64]unix.EpollEvent
	n, err := unix.EpollWait(int(epoll), events[:], 0)
	if n <= 0 {
		return err == unix.EINTR
	}
	incoming := false
	for _, e := range events[:n] {
		c := a.clients[int(e.Fd)]
		switch {
		case int(e.Fd) == a.s.dir.listener:
			incoming = true
		case c == nil: // dropped a moment ago
		case c.port != nil:
			a.drop(c) // it has left, or broken the protocol
		default:
			a.admit(c)
		}
	}
	if incoming {
		a.accept(time.Now())
	}
	return true
}

func (a *acceptor) accept(now time.Time) {
	for range acceptBatch {
		fd, _, err := unix.Accept4(a.s.dir.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return
		default:
			// Descriptors have run out: epoll would report the listener for ever.
			a.unwatch(a.s.dir.listener)
			a.paused = now.Add(acceptPause)
			return
		}
		if len(a.waiting) >= min(maxWaiting, maxFiles()/8) {
			a.drop(a.waiting[0])
		}
		c := &controlConn{fd: fd, until: now.Add(requestWait)}
		if a.watch(fd) != nil {
			unix.Close(fd)
			continue
		}
		a.clients[fd] = c
		a.waiting = append(a.waiting, c)
	}
}

// drop ends a connection.
func (a *acceptor) drop(c *controlConn) {
	a.unwatch(c.fd)
	unix.Close(c.fd)
	delete(a.clients, c.fd)
	if c.port != nil {
		c.port.end()
		a.release()
		return
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(w *controlConn) bool { return w == c })
}

// admit reads the request of a client and answers it, or drops the client. As
// with other switches, the request comes in one piece.
func (a *acceptor) admit(c *controlConn) {
	n, _, err := unix.Recvfrom(c.fd, a.request[:], unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil {
		a.drop(c)
		return
	}
	request, err := parseRequest(a.request[:n])
	if err != nil {
		a.drop(c)
		return
	}
	if !a.reserve() {
		a.drop(c) // the client takes this for a full switch
		return
	}
	p, err := a.answer(c.fd, request)
	if err != nil {
		a.release()
		a.drop(c)
		return
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(w *controlConn) bool { return w == c })
	c.port = p
}

// clientCount is the number of clients of all switches of the process.
var clientCount atomic.Int32

// reserve counts a client. It reports false if there are as many as may be.
func (a *acceptor) reserve() bool {
	if n := clientCount.Add(1); a.ports == maxClients || int(n) > maxFiles()/4/clientFiles {
		clientCount.Add(-1)
		return false
	}
	a.ports++
	return true
}

func (a *acceptor) release() {
	a.ports--
	clientCount.Add(-1)
}

// maxFiles returns how many descriptors the process may have.
func maxFiles() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}

// answer connects the data sockets and makes the client a port.
func (a *acceptor) answer(ctl int, request request) (*clientPort, error) {
	if request.gso && !WithoutGSO.Load() {
		if p, err := a.answerGSO(ctl); err == nil {
			return p, nil
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p := &clientPort{s: a.s, name: a.dataPath(ctl), data: sockio.PollFile{Brief: sockio.RefuseRights(fd)}}
	if err = connectOwned(fd, ctl, request.path, true); err == nil {
		p.id, err = a.s.dir.bind(fd, p.name)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, a.enter(p, fd, ctl, nil)
}

// answerGSO gives the client its half of a pair of sockets.
func (a *acceptor) answerGSO(ctl int) (*clientPort, error) {
	pair, err := sockio.WholePair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	p := &clientPort{s: a.s, gso: true, data: sockio.PollFile{Brief: sockio.RefuseRights(pair[0])}}
	return p, a.enter(p, pair[0], ctl, unix.UnixRights(pair[1]))
}

func (a *acceptor) dataPath(ctl int) string { return fmt.Sprintf("%s/fd%d", a.s.dir.path, ctl) }

// enter makes p, whose data socket is fd, a port and answers its client.
func (a *acceptor) enter(p *clientPort, fd, ctl int, right []byte) (err error) {
	if a.ports <= roomyClients { // this one is counted
		size := sockio.SocketBuffer
		if p.gso {
			size = sockio.WholeBuffer
		}
		sockio.GrowBuffers(fd, size)
	}
	if err = p.watch(fd); err == nil {
		p.start() // before the client knows: it may send at once
		if err = unix.Sendmsg(ctl, makeUnixAddr(a.dataPath(ctl)), right, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err == nil {
			return nil
		}
		p.end()
	} else if p.name != "" {
		a.s.dir.unlink(p.name, p.id)
	}
	return err
}
