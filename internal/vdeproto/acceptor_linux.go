package vdeproto

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

const (
	// maxClients is the number of clients of a switch: each costs the process
	// descriptors, and the kernel memory for packets that the client does not read.
	maxClients = 1024
	// clientFiles is the number of descriptors for each client: its connection, its
	// data socket, and the epoll descriptor for that. The clients of all switches may
	// take a quarter of the process's limit, connections without a request an eighth.
	clientFiles = 3
	// roomyClients is the number of clients that have large socket buffers.
	roomyClients = 64
	// maxWaiting is the number of connections without a request. The next one replaces
	// the oldest of them.
	maxWaiting = 128
	// requestWait is how long a connection may be without a request.
	requestWait = 3 * time.Second
	// acceptBatch is the number of connections accepted before others are served.
	acceptBatch = 16
	// acceptPause is how long nothing is accepted when descriptors have run out.
	acceptPause = 100 * time.Millisecond
)

// An acceptor accepts clients of a switch and notices when they leave. One goroutine
// serves all of them and waits for none: a silent client does not delay others.
type acceptor struct {
	s     *server
	epoll sockio.Epoll
	done  chan struct{}

	// The fields below belong to the goroutine.
	clients map[int]*controlConn // by descriptor
	waiting []*controlConn       // without a request, oldest first
	ports   int
	paused  time.Time // until when nothing is accepted; zero: not paused
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
	if a.epoll, err = sockio.NewEpoll("switch"); err != nil {
		return nil, err
	}
	if err = a.watch(s.dir.listener); err != nil {
		a.epoll.Close()
		return nil, err
	}
	go a.serve()
	return a, nil
}

func (a *acceptor) watch(fd int) error { return a.epoll.Add(fd, unix.EPOLLIN|unix.EPOLLRDHUP) }

// close ends all connections.
func (a *acceptor) close() {
	a.epoll.Close()
	<-a.done
}

func (a *acceptor) serve() {
	defer close(a.done)
	step := a.step
	for {
		a.epoll.File.SetReadDeadline(a.next())
		err := a.epoll.Raw.Read(step)
		if err != nil && a.epoll.Closed() {
			break
		}
		a.expire(time.Now())
	}
	for _, c := range a.clients {
		a.drop(c)
	}
}

// next returns when expire must be called next; zero: not at all.
func (a *acceptor) next() time.Time {
	next := a.paused
	if len(a.waiting) > 0 && (next.IsZero() || a.waiting[0].until.Before(next)) {
		next = a.waiting[0].until
	}
	return next
}

// expire drops connections that have sent no request in time, and ends a pause.
func (a *acceptor) expire(now time.Time) {
	for len(a.waiting) > 0 && !now.Before(a.waiting[0].until) {
		a.drop(a.waiting[0])
	}
	if !a.paused.IsZero() && !now.Before(a.paused) && a.watch(a.s.dir.listener) == nil {
		a.paused = time.Time{}
	}
}

// step handles events, without waiting. It accepts new connections last: a request that
// has arrived is not lost because many connect.
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
			a.drop(c) // it has left, or violates the protocol
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
			// Descriptors have run out: epoll would report the listener again and
			// again.
			a.epoll.Remove(a.s.dir.listener)
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
	a.epoll.Remove(c.fd)
	unix.Close(c.fd)
	delete(a.clients, c.fd)
	if c.port != nil {
		c.port.end()
		a.release()
		return
	}
	a.stopWaiting(c)
}

// stopWaiting removes a connection from those without a request.
func (a *acceptor) stopWaiting(c *controlConn) {
	a.waiting = slices.DeleteFunc(a.waiting, func(w *controlConn) bool { return w == c })
}

// admit reads the request of a client and answers it, or drops the client. As
// with other switches, the request comes in one piece.
func (a *acceptor) admit(c *controlConn) {
	n, _, err := unix.Recvfrom(c.fd, a.request[:], unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	var r request
	if err == nil {
		r, err = parseRequest(a.request[:n])
	}
	if err != nil || !a.reserve() { // the client takes this for a full switch
		a.drop(c)
		return
	}
	p, err := a.answer(c.fd, r)
	if err != nil {
		a.release()
		a.drop(c)
		return
	}
	a.stopWaiting(c)
	c.port = p
}

// clientCount is the number of clients of all switches of the process.
var clientCount atomic.Int32

// reserve counts a client, or reports false if there are too many.
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

// maxFiles returns the limit of the process's descriptors.
func maxFiles() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}

// answer connects the data sockets and makes a port for the client.
func (a *acceptor) answer(ctl int, request request) (*clientPort, error) {
	if request.gso && !WithoutGSO.Load() {
		if p, err := a.answerGSO(ctl); err == nil {
			return p, nil
		}
	}
	fd, err := sockio.LocalSocket(unix.SOCK_DGRAM)
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
	pair, err := sockio.GSOPair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	p := &clientPort{s: a.s, gso: true, data: sockio.PollFile{Brief: sockio.RefuseRights(pair[0])}}
	return p, a.enter(p, pair[0], ctl, unix.UnixRights(pair[1]))
}

func (a *acceptor) dataPath(ctl int) string { return fmt.Sprintf("%s/fd%d", a.s.dir.path, ctl) }

// enter joins p, whose data socket is fd, to the switch and answers its client.
func (a *acceptor) enter(p *clientPort, fd, ctl int, right []byte) (err error) {
	if a.ports <= roomyClients { // this one is counted
		size := sockio.SocketBuffer
		if p.gso {
			size = sockio.GSOBuffer
		}
		sockio.GrowBuffers(fd, size)
	}
	if err = p.watch(fd); err == nil {
		p.start() // before the answer: the client may send at once
		if err = unix.Sendmsg(ctl, makeUnixAddr(a.dataPath(ctl)), right, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err == nil {
			return nil
		}
		p.end()
	} else if p.name != "" {
		p.id.Unlink(p.name)
	}
	return err
}
