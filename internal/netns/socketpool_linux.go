//go:build amd64 || arm64

package netns

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quick is how soon the next socket is asked for where it pays to have it
	// nsPool: the way to the helper and back takes some 30 µs.
	quick = time.Millisecond
	// warmUp is how many trips come quickly one after the other before sockets
	// are made ahead.
	warmUp = 8
	// mostAhead bounds what one trip makes. Others wait for it meanwhile.
	mostAhead = 32
	// linger is how long sockets wait at least for somebody to take them. None
	// is there after twice that time.
	linger = 30 * time.Millisecond
)

// A socketPool keeps sockets ready for a namespace in which many are made one after
// the other: one trip to the helper makes several. One in which few are made
// has none.
type socketPool struct {
	mu      sync.Mutex         // guards all; not held across a trip
	first   map[socketType]int // made with the namespace, until they are asked for
	tap     TAP                // what the one among them is
	shelves map[socketType]*bucket
	timer   *time.Timer // sweeps while there is a bucket
}

// A socketType of socket, as socket(2) has it.
type socketType struct{ domain, typ, proto int }

var (
	// route is what configures a namespace.
	route = socketType{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}
	// watching stands for a second one, which waits for what comes of that.
	watching = socketType{domain: -2}
	// tcp is what most programs ask for first.
	tcp = socketType{unix.AF_INET, unix.SOCK_STREAM, 0}
	// tap stands for a TAP, which is no socket.
	tap = socketType{domain: -1}
)

// keeps says whether sockets of the kind can be made ahead: others receive
// something before they are bound, or are rarely made.
func (k socketType) keeps() bool {
	typ := k.typ &^ (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	return (k.domain == unix.AF_INET || k.domain == unix.AF_INET6) && (typ == unix.SOCK_STREAM || typ == unix.SOCK_DGRAM)
}

// A bucket has the sockets of one kind.
type bucket struct {
	kind socketType
	fds  []int
	// size is how many the last trip was to make, and trips how many trips came
	// quickly one after the other.
	size, trips int
	last        time.Time     // of the last trip
	filling     chan struct{} // closed when what is under way has arrived; nil: nothing is
	taken       bool          // since the last sweep
}

// next says how many sockets the trip that begins now should make: more if the
// last ones were taken quickly.
func (sh *bucket) next(now time.Time) int {
	if now.Sub(sh.last) > time.Duration(max(sh.size, 1))*quick {
		sh.trips = 0
	}
	sh.last = now
	sh.trips++
	sh.size = 1
	if ahead := sh.trips - warmUp; ahead > 0 {
		sh.size = min(1<<min(ahead, 8), mostAhead)
	}
	return sh.size
}

// Socket makes a socket in the namespace. It is close-on-exec and belongs to
// the caller. typ may contain SOCK_NONBLOCK.
func (n *NS) Socket(domain, typ, proto int) (fd int, err error) {
	k := socketType{domain, typ, proto}
	if !k.keeps() {
		if fd, ok := n.pool.takeFirst(k); ok {
			return fd, nil
		}
		return n.socket(k)
	}
	for {
		fd, sh, arrives, count := n.pool.take(k)
		switch {
		case fd >= 0:
			if count > 0 {
				go n.fill(sh, count, 0)
			}
			return fd, nil
		case arrives != nil:
			<-arrives
		case count > 1:
			return n.fill(sh, count, 1)
		default:
			return n.socket(k)
		}
	}
}

func (n *NS) socket(k socketType) (fd int, err error) {
	ret, err := n.do(socketCall(k.domain, k.typ, k.proto))
	if err != nil {
		return -1, explainSocket(os.NewSyscallError("socket", err), k.domain, k.typ, k.proto)
	}
	return int(ret), nil
}

// take returns a socket of the kind, -1 if there is none. Then, and when half of
// them are taken, count says how many are to be made, unless arrives tells that
// somebody does.
func (s *socketPool) take(k socketType) (fd int, sh *bucket, arrives <-chan struct{}, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh = s.shelves[k]; sh == nil {
		sh = s.add(k)
	}
	sh.taken = true
	if fd, ok := s.begun(k); ok {
		return fd, sh, nil, 0
	}
	fd = -1
	if last := len(sh.fds) - 1; last >= 0 {
		fd, sh.fds = sh.fds[last], sh.fds[:last]
		if last > sh.size/2 {
			return fd, sh, nil, 0
		}
	}
	if sh.filling != nil {
		return fd, sh, sh.filling, 0
	}
	if count = sh.next(time.Now()); count > 1 {
		sh.filling = make(chan struct{})
	} else if fd >= 0 {
		count = 0
	}
	return fd, sh, nil, count
}

// fill makes sockets for a bucket, and returns the first if one is for the caller.
func (n *NS) fill(sh *bucket, count, own int) (fd int, err error) {
	fds, err := n.sockets(sh, count, own)
	if len(fds) < own {
		return n.socket(sh.kind) // maybe there is room for one
	}
	if own > 0 {
		return fds[0], nil
	}
	return -1, err
}

func (n *NS) sockets(sh *bucket, count, own int) (fds []int, err error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		err = net.ErrClosed
	} else {
		r := newRequest(n)
		defer r.free()
		for range count {
			r.calls = append(r.calls, socketCall(sh.kind.domain, sh.kind.typ, sh.kind.proto))
		}
		n.h.do(r)
		for i := range count {
			var ret uintptr
			if ret, err = r.result(i); err != nil {
				break
			}
			fds = append(fds, int(ret))
		}
	}
	own = min(own, len(fds))
	n.pool.put(sh, fds[own:], err == nil)
	return fds[:own], err
}

// put adds what was made for a bucket, if it is to be kept. A socket with a high
// descriptor is not: the kernel gives the lowest that is free, so at least half
// of the table is left to the program.
func (s *socketPool) put(sh *bucket, fds []int, keep bool) {
	limit := softLimit(unix.RLIMIT_NOFILE) / 2
	var over []int
	s.mu.Lock()
	for _, fd := range fds {
		if keep && uint64(fd) < limit && s.shelves[sh.kind] == sh {
			sh.fds = append(sh.fds, fd)
		} else {
			over = append(over, fd)
		}
	}
	s.mu.Unlock()
	closeAll(over) // before others look for room
	s.mu.Lock()
	close(sh.filling)
	sh.filling = nil
	s.mu.Unlock()
}

// add adds an empty bucket.
func (s *socketPool) add(k socketType) *bucket {
	if s.shelves == nil {
		s.shelves = make(map[socketType]*bucket)
	}
	sh := &bucket{kind: k}
	s.shelves[k] = sh
	if len(s.shelves) == 1 {
		s.sweepLater()
	}
	return sh
}

// sweepLater runs sweep after a while. mu is held.
func (s *socketPool) sweepLater() {
	if s.timer == nil {
		s.timer = time.AfterFunc(linger, s.sweep)
	} else {
		s.timer.Reset(linger)
	}
}

// sweep closes what nobody took since it ran the last time.
func (s *socketPool) sweep() {
	s.mu.Lock()
	var old []int
	if fd, ok := s.first[tcp]; ok {
		old = append(old, fd)
		delete(s.first, tcp)
	}
	for k, sh := range s.shelves {
		if !sh.taken && sh.filling == nil {
			old = append(old, sh.fds...)
			delete(s.shelves, k)
		}
		sh.taken = false
	}
	if len(s.shelves) > 0 {
		s.sweepLater()
	}
	s.mu.Unlock()
	closeAll(old)
}

// takeFirst returns what was made with the namespace.
func (s *socketPool) takeFirst(k socketType) (fd int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, ok = s.first[k]
	if k == route && !ok {
		k = watching
		fd, ok = s.first[k]
	}
	delete(s.first, k)
	return fd, ok
}

// begun is takeFirst for a socket of TCP, which may be one that does not block. mu
// is held.
func (s *socketPool) begun(k socketType) (fd int, ok bool) {
	nonblock := k.typ&unix.SOCK_NONBLOCK != 0
	k.typ &^= unix.SOCK_NONBLOCK
	if k.proto == unix.IPPROTO_TCP {
		k.proto = tcp.proto
	}
	fd, ok = s.first[k]
	delete(s.first, k)
	if ok && nonblock {
		unix.SetNonblock(fd, true)
	}
	return fd, ok
}

// takeTAP is takeFirst for a TAP, if it is the one that is wanted.
func (s *socketPool) takeTAP(t TAP) (fd int, ok bool) {
	s.mu.Lock()
	fits := s.tap == t
	s.mu.Unlock()
	if !fits {
		return -1, false
	}
	return s.takeFirst(tap)
}

// Settle closes what was made with the namespace to set it up. A socket of TCP is
// left for a while.
func (n *NS) Settle() {
	s := &n.pool
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.first) > 0 {
		s.sweepLater()
	}
}

func (s *socketPool) settle() {
	if dev, ok := s.takeFirst(tap); ok {
		CloseTAP(dev)
	}
	for range 2 {
		if fd, ok := s.takeFirst(route); ok {
			unix.Close(fd)
		}
	}
}

// Refresh closes what nobody has asked for yet. Sockets are made when they are
// asked for then, as they must when a setting with which they begin has changed.
func (n *NS) Refresh() { n.pool.drop() }

// drop closes all, and reports whether there was any.
func (s *socketPool) drop() bool {
	s.mu.Lock()
	var all []int
	for _, sh := range s.shelves {
		all = append(all, sh.fds...)
	}
	dev, ok := s.first[tap]
	if ok {
		delete(s.first, tap)
		defer CloseTAP(dev)
	}
	for _, fd := range s.first {
		all = append(all, fd)
	}
	clear(s.shelves)
	clear(s.first)
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	closeAll(all)
	return ok || len(all) > 0
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
