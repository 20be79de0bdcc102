package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/sockio"
	"golang.org/x/sys/unix"
)

const (
	// joinTime bounds Join, if its context does not.
	joinTime = 10 * time.Second
	// leaveTime bounds how long Leave waits for the door. A newcomer that holds it for
	// longer removes what is left itself.
	leaveTime = time.Second
	// lookTime is how often the member that serves looks whether its socket is still there.
	lookTime = time.Second
	// maxPath is the longest path of a socket.
	maxPath = 107
)

// A Member is a member of what is shared at a path.
type Member struct {
	path  string
	dir   sockio.FileID // of the path
	lock  *lockFile
	fd    int    // to share
	hello []byte // comes with it

	life      context.Context
	leave     context.CancelFunc
	following sync.WaitGroup // follow
	serving   sync.WaitGroup // accept and greet

	mu     sync.Mutex    // guards the rest; held while the socket is made again
	server *net.UnixConn // to the one that serves; nil: this one
	conns  map[*net.UnixConn]struct{}
	// Of the member that serves:
	listener *net.UnixListener
	id       sockio.FileID // of its socket
}

// Join becomes a member at an absolute path. If there are no others, make makes what is
// shared, and returns a descriptor, which the Member takes over. Otherwise take gets the
// one that another member has sent, and takes it over, also if it returns an error.
// Nobody else can join meanwhile.
func Join(ctx context.Context, path string, make func() (fd int, err error), take func(fd int) error) (_ *Member, err error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("path %q has %d bytes, a socket's path at most %d", path, len(path), maxPath)
	}
	dir, err := directory(path)
	if err != nil {
		return nil, err
	}
	hello, err := newHello()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	lock, err := enter(ctx, path)
	if err != nil {
		return nil, err
	}
	m := &Member{path: path, dir: dir, lock: lock, fd: -1, hello: hello, conns: map[*net.UnixConn]struct{}{}}
	m.life, m.leave = context.WithCancel(context.Background())
	if err := m.join(ctx, make, take); err != nil {
		m.stop()
		m.end()
		return nil, err
	}
	if err := lock.set(door, unix.F_UNLCK); err != nil {
		m.Leave()
		return nil, err
	}
	return m, nil
}

// join is Join, at the door.
func (m *Member) join(ctx context.Context, make func() (int, error), take func(int) error) error {
	why := "" // of the attempts before
	for p := (pause{}); ; {
		conn, fd, err := m.dial(ctx)
		switch {
		case err == nil:
			return m.joinOthers(conn, fd, take)
		case errors.Is(err, errNobody):
			err = m.lock.set(members, unix.F_WRLCK)
			if err == nil {
				return m.joinFirst(make)
			}
			if !errors.Is(err, unix.EAGAIN) {
				return err
			}
			why = "there are members, but none of them serves it: they are stopped, or see another directory there (chroot); end them (fuser " + m.lock.Name() + " shows who)"
		case errors.Is(err, errBusy):
			why = "whoever serves it does not let newcomers in: it is leaving, or its connections take a quarter of its descriptors (ulimit -n)"
		case why == "" || ctx.Err() == nil && !os.IsTimeout(err):
			return err
		}
		if err := p.wait(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", m.path, why, err)
		}
	}
}

func (m *Member) joinOthers(conn *net.UnixConn, fd int, take func(int) error) (err error) {
	m.server = conn
	if m.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	if err := take(fd); err != nil {
		return fmt.Errorf("what the member that serves %s has sent: %w", m.path, err)
	}
	if err := m.lock.set(members, unix.F_RDLCK); err != nil {
		return err
	}
	m.following.Go(m.follow)
	return nil
}

func (m *Member) joinFirst(make func() (int, error)) (err error) {
	if m.fd, err = make(); err != nil {
		return err
	}
	if err := m.serve(); err != nil {
		return err
	}
	return m.lock.set(members, unix.F_RDLCK)
}

// serve tries to become the one that serves. EAGAIN says that another one is; ESTALE, that
// the path leads elsewhere than for newcomers, since a chroot perhaps.
func (m *Member) serve() error {
	if !m.placed() {
		return unix.ESTALE
	}
	if err := m.lock.set(serves, unix.F_WRLCK); err != nil {
		return err
	}
	l, id, err := listen(m.path)
	if err != nil {
		m.lock.set(serves, unix.F_UNLCK)
		return err
	}
	m.mu.Lock()
	m.listener, m.id = l, id
	m.mu.Unlock()
	m.serving.Go(func() { m.accept(l) })
	return nil
}

// placed reports whether the path leads to the directory where newcomers look.
func (m *Member) placed() bool {
	now, err := directory(m.path)
	return err == nil && now == m.dir
}

// relisten makes the socket again if somebody has removed it, and returns the one that
// serves. Without the lock file newcomers are not kept from a network of their own.
func (m *Member) relisten() *net.UnixListener {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.Err() != nil || sockio.IDAt(m.path) == m.id || !m.placed() || !m.lock.named() {
		return m.listener
	}
	l, id, err := listen(m.path)
	if err == nil {
		m.listener.Close()
		m.listener, m.id = l, id
	}
	return m.listener
}

// follow waits for the end of the member that serves, and then serves, or follows the
// next one.
func (m *Member) follow() {
	p := pause{}
	for server := m.server; server != nil; {
		since := time.Now()
		server.Read([]byte{0}) // it never sends any more
		server.Close()
		if time.Since(since) < lastPause && p.wait(m.life) != nil {
			return
		}
		server = m.succeed()
	}
}

// succeed returns the connection to the next member that serves; nil if this one does, or
// leaves.
func (m *Member) succeed() *net.UnixConn {
	for p := (pause{}); ; {
		if m.life.Err() != nil || m.serve() == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(m.life, joinTime)
		conn, fd, err := m.dial(ctx)
		cancel()
		if err == nil {
			unix.Close(fd) // it is the same
			m.mu.Lock()
			m.server = conn
			left := m.life.Err() != nil
			m.mu.Unlock()
			if left {
				conn.Close()
				return nil
			}
			return conn
		}
		if p.wait(m.life) != nil {
			return nil
		}
	}
}

// accept lets newcomers in.
func (m *Member) accept(l *net.UnixListener) {
	for p := (pause{}); ; {
		l.SetDeadline(time.Now().Add(lookTime))
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			p = pause{}
			m.serving.Go(func() { m.greet(conn) })
		case errors.Is(err, net.ErrClosed):
			return
		case os.IsTimeout(err):
			l = m.relisten()
		default: // mostly the limit of descriptors
			accepted.dropSilent()
			if p.wait(m.life) != nil {
				return
			}
		}
	}
}

// greet sends a newcomer the descriptor when it asks, and waits until it has left. Nothing
// is sent before: the kernel limits how many descriptors are sent and not received.
func (m *Member) greet(conn *net.UnixConn) {
	defer conn.Close()
	if _, err := checkPeer(conn, m.path); err != nil {
		return
	}
	place := accepted.add(conn)
	if place == nil {
		return
	}
	defer accepted.remove(place)
	m.mu.Lock()
	left := m.life.Err() != nil
	if !left {
		m.conns[conn] = struct{}{}
	}
	m.mu.Unlock()
	if left {
		return
	}
	defer func() {
		m.mu.Lock()
		delete(m.conns, conn)
		m.mu.Unlock()
	}()
	if !accepted.hear(conn, place) {
		return
	}
	conn.SetWriteDeadline(time.Now().Add(sendTime))
	if _, _, err := conn.WriteMsgUnix(m.hello, unix.UnixRights(m.fd), nil); err == nil {
		conn.Read([]byte{0}) // members send nothing more
	}
}

// Leave ends the membership. Another member serves then; the last one removes the files.
// It reports whether there are no others.
func (m *Member) Leave() (last bool) {
	m.stop()
	m.lock.set(members, unix.F_UNLCK) // a newcomer at the door may be waiting for that
	if m.lock.held(members) {
		m.close()
		return false // the last of the others sees nobody
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if m.lock.knock(ctx) == nil {
		return m.end()
	}
	m.close()
	return false
}

// stop ends all goroutines, and lets another member serve.
func (m *Member) stop() {
	m.mu.Lock()
	m.leave()
	if m.server != nil {
		m.server.Close()
	}
	m.mu.Unlock()
	m.following.Wait()
	if m.listener == nil {
		return
	}
	m.id.Unlink(m.path)
	m.lock.set(serves, unix.F_UNLCK)
	m.listener.Close()
	m.mu.Lock()
	for conn := range m.conns {
		conn.Close()
	}
	m.mu.Unlock()
	m.serving.Wait()
}

// end is close at the door. The last member removes the files.
func (m *Member) end() (last bool) {
	if last = m.lock.set(members, unix.F_WRLCK) == nil && m.lock.named(); last {
		removeDead(m.path)
		unix.Unlink(m.lock.Name())
	}
	m.close()
	return last
}

func (m *Member) close() {
	m.lock.close()
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}
