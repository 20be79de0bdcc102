package vdeplug

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
	// maxClients is how many clients a switch has at most: each costs the
	// process descriptors, and what it does not read the kernel's memory.
	maxClients = 1024
	// clientFiles is how many descriptors a client has: its connection, its data
	// socket, and what watches that. The clients of all switches have a quarter of
	// those that the process may have, and connections without a request an eighth.
	clientFiles = 3
	// roomyClients is how many of them have large socket buffers.
	roomyClients = 64
	// maxWaiting is how many may have connected and not said what they want, at
	// most. The next takes the place of the first of them.
	maxWaiting = 128
	// requestWait is how long they have.
	requestWait = 3 * time.Second
	// acceptBatch is how many are let in before those who are in are heard.
	acceptBatch = 16
	// acceptPause is how long nobody is let in when descriptors have run out.
	acceptPause = 100 * time.Millisecond
)

// A door lets clients in and out. One goroutine does all of it, and waits for
// nobody: a client that does nothing costs others nothing.
type door struct {
	s     *server
	epoll int
	poll  sockio.PollFile // of epoll
	done  chan struct{}

	// The fields below are those of the goroutine.
	clients map[int]*doorClient // by descriptor
	waiting []*doorClient       // without a request, in the order in which they came
	ports   int
	paused  time.Time // until when nobody is let in; zero: the door is open
	request [vdeRequestMax]byte
}

// A doorClient is a control connection.
type doorClient struct {
	fd    int
	until time.Time   // for the request
	port  *clientPort // nil until then
}

func newDoor(s *server) (_ *door, err error) {
	d := &door{s: s, clients: make(map[int]*doorClient), done: make(chan struct{})}
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.SetNonblock(d.epoll, true); err == nil { // or the poller does not take it
		err = d.watch(s.dir.listener)
	}
	if err != nil {
		unix.Close(d.epoll)
		return nil, err
	}
	if d.poll, err = sockio.NewPollFile(d.epoll, "switch"); err != nil {
		return nil, err
	}
	go d.serve()
	return d, nil
}

func (d *door) watch(fd int) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}))
}

// unwatch comes before closing: a child process that is about to start may have
// a copy of the descriptor, and events would go on.
func (d *door) unwatch(fd int) { unix.EpollCtl(d.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// close sends everybody away.
func (d *door) close() {
	d.poll.Close()
	<-d.done
}

func (d *door) serve() {
	defer close(d.done)
	step := d.step
	for {
		d.poll.File.SetReadDeadline(d.next())
		err := d.poll.Raw.Read(step)
		if err != nil && d.poll.Closed() {
			break
		}
		d.expire(time.Now())
	}
	d.epoll = -1
	for _, c := range d.clients {
		d.drop(c)
	}
}

// next is when something is to be done though nothing happens.
func (d *door) next() time.Time {
	next := d.paused
	if len(d.waiting) > 0 && (next.IsZero() || d.waiting[0].until.Before(next)) {
		next = d.waiting[0].until
	}
	return next
}

func (d *door) expire(now time.Time) {
	for len(d.waiting) > 0 && !now.Before(d.waiting[0].until) {
		d.drop(d.waiting[0])
	}
	if !d.paused.IsZero() && !now.Before(d.paused) && d.watch(d.s.dir.listener) == nil {
		d.paused = time.Time{}
	}
}

// step does what can be done without waiting. Those who are in come before those
// who want to: a request that is there is not lost because many come.
func (d *door) step(epoll uintptr) bool {
	var events [64]unix.EpollEvent
	n, err := unix.EpollWait(int(epoll), events[:], 0)
	if n <= 0 {
		return err == unix.EINTR
	}
	knock := false
	for _, e := range events[:n] {
		c := d.clients[int(e.Fd)]
		switch {
		case int(e.Fd) == d.s.dir.listener:
			knock = true
		case c == nil: // it was dropped a moment ago
		case c.port != nil:
			d.drop(c) // it has left, or talks though there is nothing to say
		default:
			d.admit(c)
		}
	}
	if knock {
		d.accept(time.Now())
	}
	return true
}

func (d *door) accept(now time.Time) {
	for range acceptBatch {
		fd, _, err := unix.Accept4(d.s.dir.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return
		default:
			// Descriptors have run out, which an event would tell without end.
			d.unwatch(d.s.dir.listener)
			d.paused = now.Add(acceptPause)
			return
		}
		if len(d.waiting) >= min(maxWaiting, maxFiles()/8) {
			d.drop(d.waiting[0])
		}
		c := &doorClient{fd: fd, until: now.Add(requestWait)}
		if d.watch(fd) != nil {
			unix.Close(fd)
			continue
		}
		d.clients[fd] = c
		d.waiting = append(d.waiting, c)
	}
}

// drop ends a connection.
func (d *door) drop(c *doorClient) {
	d.unwatch(c.fd)
	unix.Close(c.fd)
	delete(d.clients, c.fd)
	if c.port != nil {
		c.port.end()
		d.release()
		return
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(w *doorClient) bool { return w == c })
}

// admit reads the request of a client and answers it, or drops the client. As
// with other switches, the request comes in one piece.
func (d *door) admit(c *doorClient) {
	n, _, err := unix.Recvfrom(c.fd, d.request[:], unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil {
		d.drop(c)
		return
	}
	request, err := parseVDERequest(d.request[:n])
	if err != nil {
		d.drop(c)
		return
	}
	if !d.reserve() {
		d.drop(c) // which its client takes for a switch that is full
		return
	}
	p, err := d.answer(c.fd, request)
	if err != nil {
		d.release()
		d.drop(c)
		return
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(w *doorClient) bool { return w == c })
	c.port = p
}

// inside counts the clients of all switches of the process.
var inside atomic.Int32

// reserve counts a client, unless there are as many as there may be.
func (d *door) reserve() bool {
	if n := inside.Add(1); d.ports == maxClients || int(n) > maxFiles()/4/clientFiles {
		inside.Add(-1)
		return false
	}
	d.ports++
	return true
}

func (d *door) release() {
	d.ports--
	inside.Add(-1)
}

// maxFiles is how many descriptors the process may have.
func maxFiles() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}

// answer connects the data sockets and makes the client a port.
func (d *door) answer(ctl int, request vdeRequest) (*clientPort, error) {
	if request.whole && wholeVDE {
		if p, err := d.answerWhole(ctl); err == nil {
			return p, nil
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p := &clientPort{s: d.s, name: d.dataPath(ctl), data: sockio.PollFile{Brief: sockio.RefuseRights(fd)}}
	if err = connectOwned(fd, ctl, request.path, true); err == nil {
		p.id, err = d.s.dir.bind(fd, p.name)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, d.enter(p, fd, ctl, nil)
}

// answerWhole gives the client its half of a pair of sockets.
func (d *door) answerWhole(ctl int) (*clientPort, error) {
	pair, err := sockio.WholePair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	p := &clientPort{s: d.s, whole: true, data: sockio.PollFile{Brief: sockio.RefuseRights(pair[0])}}
	return p, d.enter(p, pair[0], ctl, unix.UnixRights(pair[1]))
}

func (d *door) dataPath(ctl int) string { return fmt.Sprintf("%s/fd%d", d.s.dir.path, ctl) }

// enter makes p, whose data socket is fd, a port and answers its client.
func (d *door) enter(p *clientPort, fd, ctl int, right []byte) (err error) {
	if d.ports <= roomyClients { // this one is counted
		size := sockio.SocketBuffer
		if p.whole {
			size = sockio.WholeBuffer
		}
		sockio.GrowBuffers(fd, size)
	}
	if err = p.watch(fd); err == nil {
		p.start() // before the client knows: it may send at once
		if err = unix.Sendmsg(ctl, makeUnixAddr(d.dataPath(ctl)), right, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err == nil {
			return nil
		}
		p.end()
	} else if p.name != "" {
		d.s.dir.unlink(p.name, p.id)
	}
	return err
}
