package vdeplug

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/teardown"
)

// servers are the switches of the process that have a directory. A switch is
// there as long as the process has plugs on it.
var servers = struct {
	gate  chan struct{} // has room for one: who makes or ends a switch
	byDir map[string]*server
}{make(chan struct{}, 1), make(map[string]*server)}

// openServer joins the switch of the process in a directory, or makes it.
func openServer(ctx context.Context, cfg switchConfig) (*fabric.LocalPort, error) {
	if err := cfg.locate(ctx); err != nil {
		return nil, err
	}
	select {
	case servers.gate <- struct{}{}:
		defer func() { <-servers.gate }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s := servers.byDir[cfg.dir]
	switch {
	case s == nil:
		var err error
		if s, err = newServer(ctx, cfg); err != nil {
			return nil, err
		}
		servers.byDir[cfg.dir] = s
	case s.cfg.kind != cfg.kind:
		return nil, fmt.Errorf("this program has a %s in %s: %w", s.cfg.kind, cfg.dir, unix.EADDRINUSE)
	case !cfg.plain && !s.cfg.equal(cfg):
		return nil, fmt.Errorf("this program has a %s in %s with other options: %w", s.cfg.kind, cfg.dir, unix.EADDRINUSE)
	}
	s.locals++
	return fabric.NewLocalPort(s.fabric, func() {
		servers.gate <- struct{}{}
		defer func() { <-servers.gate }()
		if s.locals--; s.locals == 0 {
			delete(servers.byDir, cfg.dir)
			s.close()
		}
	}), nil
}

// locate makes the directory an absolute path, the same for all who mean it.
func (cfg *switchConfig) locate(ctx context.Context) error {
	if cfg.dir == "" {
		name := sockio.UserName(ctx)
		if uid := strconv.Itoa(os.Geteuid()); name == uid {
			name = "u" + uid
		}
		cfg.dir = "/tmp/vdenode_" + name
	}
	dir, err := filepath.Abs(cfg.dir)
	if err != nil {
		return err
	}
	// A link in place of the directory itself is none of the switch's.
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("where the directory %s should be: %w", dir, err)
	}
	cfg.dir = filepath.Join(parent, filepath.Base(dir))
	if len(cfg.dir) > maxSwitchDir {
		return fmt.Errorf("the path %s has %d bytes, that of a switch may have %d: %w", cfg.dir, len(cfg.dir), maxSwitchDir, unix.ENAMETOOLONG)
	}
	return nil
}

// equal reports whether two locators of the same directory say the same.
func (cfg switchConfig) equal(other switchConfig) bool {
	cfg.plain = other.plain
	return cfg == other
}

// A server is a switch that clients of the vde protocol connect to.
type server struct {
	cfg    switchConfig
	fabric *fabric.Fabric
	locals int // plugs of the process; guarded by servers.gate
	dir    *switchDir
	door   *door
	ports  sync.WaitGroup // goroutines that receive from clients
}

func newServer(ctx context.Context, cfg switchConfig) (*server, error) {
	dir, err := newSwitchDir(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, fabric: fabric.New(cfg.kind, cfg.stations, cfg.expire), dir: dir}
	if s.door, err = newDoor(s); err != nil {
		dir.remove()
		return nil, err
	}
	return s, nil
}

// close ends all connections and removes the directory.
func (s *server) close() {
	teardown.Within(func() {
		s.door.close()
		s.ports.Wait()
		s.dir.remove()
	})
}

// A clientPort is a client of a server.
type clientPort struct {
	sockio.FrameCodec
	fabric.Port
	s     *server
	ended atomic.Bool
	data  sockio.PollFile // not in the poller, see watch
	fd    int             // of data
	ready sockio.PollFile // says that data has something
	whole bool            // data is half of a pair
	name  string          // of the data socket; empty: a pair
	id    fileID          // of the name
}

var (
	_ fabric.Receiver = (*clientPort)(nil)
	_ packet.Receiver = (*clientPort)(nil)
	_ packet.Sending  = (*clientPort)(nil)
)

// start makes the client a port of the switch.
func (p *clientPort) start() {
	p.Receiver, p.Remote = p, true
	p.s.fabric.Join(&p.Port)
	p.s.ports.Go(p.receive)
}

// end takes it away. What the goroutine of the port is about to do with its
// last packets may still happen.
func (p *clientPort) end() {
	p.ended.Store(true)
	p.s.fabric.Leave(&p.Port)
	p.ready.Close()
	p.data.Close()
	if p.name != "" {
		p.s.dir.unlink(p.name, p.id)
	}
}

// receive carries the packets of the client until its port ends.
func (p *clientPort) receive() {
	b := packet.Buffer{Brief: p.data.Brief}
	p.ready.Receive(&b, p)
	b.Release()
}

// Receive implements [packet.Receiver]. It forwards what it receives, and is not
// done before the port ends: a socket that had one message needs no second look,
// for the poller notes what comes after the first. After several, more have often
// come meanwhile. Whoever waits has no memory, as there may be many.
func (p *clientPort) Receive(_ int, b *packet.Buffer) (bool, error) {
	var turn packet.Turn
	turn.Begin()
	for !p.ended.Load() {
		err := p.ReceiveData(p.fd, b, p.whole)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ECONNRESET && !p.whole || err != nil && sockio.Transient(err):
			continue // the end of the client's socket is not that of the connection
		case err != nil:
			return true, err
		}
		more := b.Full() || len(b.Packets) > 1
		r := routings.Get().(*fabric.Routes)
		bad, err := p.s.fabric.Forward(r, &p.Port, b.Packets, true)
		routings.Put(r)
		p.DroppedRecv.Add(uint64(bad))
		if err != nil {
			return true, err
		}
		if !more {
			return false, nil
		}
		if turn.Over() {
			b.Release()
			turn.Yield()
		}
	}
	return true, nil
}

// routings are those of clients at work.
var routings = sync.Pool{New: func() any { return fabric.NewRoutes() }}

// Deliver is that of [Receiver].
func (p *clientPort) Deliver(packets []packet.Packet) {
	p.SendData(&p.data, packets, p.whole, p, false)
}

func (p *clientPort) TakesGSO() bool { return p.whole }

// Refused implements [packet.Sending].
func (p *clientPort) Refused(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	switch err {
	case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return frames, false, nil
	}
	return frames, false, err // there is nobody: the rest is lost too
}

// watch takes over the data socket. The runtime's poller would also tell that
// there is room in it, whenever the other side has read something: a wake-up for
// each packet sent, for nobody. So what it gets is an epoll descriptor that knows
// only of what arrives.
func (p *clientPort) watch(fd int) (err error) {
	// The poller leaves out what blocks. What sends and receives does not wait,
	// and says so itself.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	p.fd, p.data.File = fd, os.NewFile(uintptr(fd), "switch")
	defer func() {
		if err != nil {
			p.data.Close()
		}
	}()
	if p.data.Raw, err = p.data.File.SyscallConn(); err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.SetNonblock(epoll, true); err == nil { // or the poller does not take it
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		unix.Close(epoll)
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.ready, err = sockio.NewPollFile(epoll, "switch")
	return err
}
