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
	// quick is how soon the next socket must be asked for, so that it pays to make
	// sockets in advance: a round trip to the helper takes some 30 µs.
	quick = time.Millisecond
	// warmUp is how many round trips come quickly one after the other before sockets are
	// made in advance.
	warmUp = 8
	// mostAhead bounds what one round trip makes, for which others wait.
	mostAhead = 32
	// idleTimeout is how long unused sockets stay at least, and at most twice.
	idleTimeout = 30 * time.Millisecond
)

// A socketPool has sockets in advance for a namespace in which many are made one after
// the other: one round trip to the helper makes several. It is empty if few are made.
type socketPool struct {
	mu      sync.Mutex         // guards all; not held across a round trip
	first   map[socketType]int // made with the namespace, until they are asked for
	tap     TAP                // the one among them
	ready   Ready              // until it is taken
	buckets map[socketType]*bucket
	timer   *time.Timer // sweeps while there is a bucket
}

// A socketType has the arguments of socket(2).
type socketType struct{ domain, typ, proto int }

var (
	// route configures a namespace.
	route = socketType{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}
	// watching stands for a second one, which watches the changes.
	watching = socketType{domain: -2}
	// tcp is what most programs ask for first.
	tcp = socketType{unix.AF_INET, unix.SOCK_STREAM, 0}
	// tap stands for a TAP, which is no socket.
	tap = socketType{domain: -1}
)

// pooled reports whether sockets of the type can be made in advance: others receive
// something before they are bound, or are rarely made.
func (k socketType) pooled() bool {
	typ := k.typ &^ (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	return (k.domain == unix.AF_INET || k.domain == unix.AF_INET6) && (typ == unix.SOCK_STREAM || typ == unix.SOCK_DGRAM) && !k.pings()
}

// pings reports whether it is a type for which net.ipv4.ping_group_range counts.
func (k socketType) pings() bool {
	typ := k.typ &^ (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	return typ == unix.SOCK_DGRAM && (k.proto == unix.IPPROTO_ICMP || k.proto == unix.IPPROTO_ICMPV6)
}

// A bucket has the sockets of one type.
type bucket struct {
	typ socketType
	fds []int
	// size is how many sockets the last round trip was to make, and trips how many round
	// trips came quickly one after the other.
	size, trips int
	last        time.Time     // of the last round trip
	filling     chan struct{} // closed when the next sockets have arrived; nil: none are being made
	taken       bool          // since the last sweep
}

// next says how many sockets the round trip that begins now should make: more if the
// last ones were taken quickly.
func (b *bucket) next(now time.Time) int {
	if now.Sub(b.last) > time.Duration(max(b.size, 1))*quick {
		b.trips = 0
	}
	b.last = now
	b.trips++
	b.size = 1
	if ahead := b.trips - warmUp; ahead > 0 {
		b.size = min(1<<min(ahead, 8), mostAhead)
	}
	return b.size
}

// Socket makes a socket in the namespace. It is close-on-exec and belongs to
// the caller. typ may contain SOCK_NONBLOCK.
func (n *NS) Socket(domain, typ, proto int) (fd int, err error) {
	k := socketType{domain, typ, proto}
	if !k.pooled() {
		if fd, ok := n.pool.takeFirst(k); ok {
			return fd, nil
		}
		if k.pings() {
			n.AllowPing()
		}
		return n.socket(k)
	}
	for {
		fd, b, arrives, count := n.pool.take(k)
		switch {
		case fd >= 0:
			if count > 0 {
				go n.fill(b, count, 0)
			}
			return fd, nil
		case arrives != nil:
			<-arrives
		case count > 1:
			return n.fill(b, count, 1)
		default:
			return n.socket(k)
		}
	}
}

// Sockets makes sockets of a namespace as files, for package rtnl.
type Sockets struct{ *NS }

// Socket is that of NS, as a file.
func (s Sockets) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := s.NS.Socket(domain, typ, proto)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func (n *NS) socket(k socketType) (fd int, err error) {
	ret, err := n.do(socketCall(k.domain, k.typ, k.proto))
	if err != nil {
		return -1, explainSocket(os.NewSyscallError("socket", err), k.domain, k.typ, k.proto)
	}
	return int(ret), nil
}

// take returns a socket of the type; -1 if there is none. Then, and when half of them
// are taken, count says how many the caller should make, unless others are being made,
// for which arrives waits.
func (s *socketPool) take(k socketType) (fd int, b *bucket, arrives <-chan struct{}, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b = s.buckets[k]; b == nil {
		b = s.add(k)
	}
	b.taken = true
	if fd, ok := s.begun(k); ok {
		return fd, b, nil, 0
	}
	fd = -1
	if last := len(b.fds) - 1; last >= 0 {
		fd, b.fds = b.fds[last], b.fds[:last]
		if last > b.size/2 {
			return fd, b, nil, 0
		}
	}
	if b.filling != nil {
		return fd, b, b.filling, 0
	}
	if count = b.next(time.Now()); count > 1 {
		b.filling = make(chan struct{})
	} else if fd >= 0 {
		count = 0
	}
	return fd, b, nil, count
}

// fill makes sockets for a bucket, and returns the first if own is 1.
func (n *NS) fill(b *bucket, count, own int) (fd int, err error) {
	fds, err := n.sockets(b, count, own)
	if len(fds) < own {
		return n.socket(b.typ) // maybe there is room for one
	}
	if own > 0 {
		return fds[0], nil
	}
	return -1, err
}

func (n *NS) sockets(b *bucket, count, own int) (fds []int, err error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		err = net.ErrClosed
	} else {
		r := newRequest(n)
		defer r.free()
		for range count {
			r.calls = append(r.calls, socketCall(b.typ.domain, b.typ.typ, b.typ.proto))
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
	n.pool.put(b, fds[own:], err == nil)
	return fds[:own], err
}

// put adds sockets to a bucket, or closes them unless keep is set. It also closes
// sockets with high descriptors: the kernel gives the lowest that is free, so at least
// half of the table is left to the program.
func (s *socketPool) put(b *bucket, fds []int, keep bool) {
	limit := softLimit(unix.RLIMIT_NOFILE) / 2
	var over []int
	s.mu.Lock()
	for _, fd := range fds {
		if keep && uint64(fd) < limit && s.buckets[b.typ] == b {
			b.fds = append(b.fds, fd)
		} else {
			over = append(over, fd)
		}
	}
	s.mu.Unlock()
	closeAll(over) // before others need room
	s.mu.Lock()
	close(b.filling)
	b.filling = nil
	s.mu.Unlock()
}

// add adds an empty bucket.
func (s *socketPool) add(k socketType) *bucket {
	if s.buckets == nil {
		s.buckets = make(map[socketType]*bucket)
	}
	b := &bucket{typ: k}
	s.buckets[k] = b
	if len(s.buckets) == 1 {
		s.sweepLater()
	}
	return b
}

// sweepLater runs sweep after a while. mu is held.
func (s *socketPool) sweepLater() {
	if s.timer == nil {
		s.timer = time.AfterFunc(idleTimeout, s.sweep)
	} else {
		s.timer.Reset(idleTimeout)
	}
}

// sweep closes the sockets of buckets that were not used since it ran last. It holds mu
// until they are closed: a namespace that is closed meanwhile waits for that.
func (s *socketPool) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var old []int
	if fd, ok := s.first[tcp]; ok {
		old = append(old, fd)
		delete(s.first, tcp)
	}
	for k, b := range s.buckets {
		if !b.taken && b.filling == nil {
			old = append(old, b.fds...)
			delete(s.buckets, k)
		}
		b.taken = false
	}
	if len(s.buckets) > 0 {
		s.sweepLater()
	}
	closeAll(old)
}

// takeFirst returns a socket that was made with the namespace.
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

// begun is takeFirst for a socket of TCP, which may be non-blocking. mu is held.
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

// takeTAP is takeFirst for a TAP, if it is the wanted one.
func (s *socketPool) takeTAP(t TAP) (fd int, ok bool) {
	s.mu.Lock()
	fits := s.tap == t
	s.mu.Unlock()
	if !fits {
		return -1, false
	}
	return s.takeFirst(tap)
}

// hasTAP reports whether there is one to be taken.
func (s *socketPool) hasTAP() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.first[tap]
	return ok
}

// Settle says that the namespace is set up. It closes the sockets that were made for
// that, but leaves one of TCP for a while, unless many namespaces are made: then a close
// after Open would do what the kernel has to do for all their networks.
func (n *NS) Settle() {
	burst := settle()
	n.closeReady()
	s := &n.pool
	s.settle(CloseTAP)
	if burst {
		if fd, ok := s.takeFirst(tcp); ok {
			unix.Close(fd)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.first) > 0 {
		s.sweepLater()
	}
}

func (s *socketPool) settle(closeTAP func(fd int) error) {
	if dev, ok := s.takeFirst(tap); ok {
		closeTAP(dev)
	}
	for range 2 {
		if fd, ok := s.takeFirst(route); ok {
			unix.Close(fd)
		}
	}
}

// Refresh closes pooled sockets, so that the next ones begin with the current settings.
func (n *NS) Refresh() {
	n.closeReady()
	n.pool.drop(unix.Close)
}

// drop closes all, a TAP by closeTAP, and reports whether there were any.
func (s *socketPool) drop(closeTAP func(fd int) error) bool {
	s.mu.Lock()
	var all []int
	for _, b := range s.buckets {
		all = append(all, b.fds...)
	}
	dev, ok := s.first[tap]
	if ok {
		delete(s.first, tap)
		defer closeTAP(dev)
	}
	for _, fd := range s.first {
		all = append(all, fd)
	}
	clear(s.buckets)
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
