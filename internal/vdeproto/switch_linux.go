package vdeproto

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

// servers has the switches of the process. A switch exists as long as the process has
// plugs on it.
var servers struct {
	queues lockQueues // held while a switch is looked up, made or closed
	byDir  sync.Map   // *server by directory
}

// OpenSwitch returns a port of the switch in a directory. It makes the switch if the
// process has none there. The switch ends when its last port is closed.
func OpenSwitch(ctx context.Context, cfg SwitchConfig) (*fabric.LocalPort, error) {
	if err := cfg.locate(ctx); err != nil {
		return nil, err
	}
	exit, err := servers.queues.enter(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer exit()
	var s *server
	if found, ok := servers.byDir.Load(cfg.Dir); ok {
		s = found.(*server)
	}
	switch {
	case s == nil:
		if s, err = newServer(ctx, cfg); err != nil {
			return nil, err
		}
		servers.byDir.Store(cfg.Dir, s)
	case s.cfg.Kind != cfg.Kind:
		return nil, fmt.Errorf("this program has a %s in %s: %w", s.cfg.Kind, cfg.Dir, unix.EADDRINUSE)
	case !cfg.Plain && s.cfg != cfg:
		return nil, fmt.Errorf("this program has a %s in %s with other options: %w", s.cfg.Kind, cfg.Dir, unix.EADDRINUSE)
	}
	s.locals++
	return fabric.NewLocalPort(s.fabric, func() {
		exit, _ := servers.queues.enter(context.Background(), cfg.Dir)
		defer exit()
		if s.locals--; s.locals == 0 {
			servers.byDir.Delete(cfg.Dir)
			s.close()
		}
	}), nil
}

// Stats returns the counters of the switches of the process by their locators.
func Stats() map[string]fabric.Stats {
	all := make(map[string]fabric.Stats)
	servers.byDir.Range(func(_, found any) bool {
		s := found.(*server)
		all[string(s.cfg.Kind)+"://"+s.cfg.Dir] = s.fabric.Stats()
		return true
	})
	return all
}

// locate makes Dir an absolute path without links, which identifies the directory.
func (cfg *SwitchConfig) locate(ctx context.Context) error {
	if cfg.Dir == "" {
		name := sockio.UserName(ctx)
		if uid := strconv.Itoa(os.Geteuid()); name == uid {
			name = "u" + uid
		}
		cfg.Dir = "/tmp/vdenode_" + name
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	// Only the parent: a link in place of the directory is refused later.
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("where the directory %s should be: %w", dir, err)
	}
	cfg.Dir = filepath.Join(parent, filepath.Base(dir))
	if len(cfg.Dir) > maxSwitchDir {
		return fmt.Errorf("the path %s has %d bytes, that of a switch may have %d: %w", cfg.Dir, len(cfg.Dir), maxSwitchDir, unix.ENAMETOOLONG)
	}
	return nil
}

// A server is a switch that clients connect to.
type server struct {
	cfg      SwitchConfig // not Plain
	fabric   *fabric.Fabric
	locals   int // plugs of the process; guarded by servers.queues
	dir      *switchDir
	acceptor *acceptor
	ports    sync.WaitGroup // goroutines of clients
}

func newServer(ctx context.Context, cfg SwitchConfig) (*server, error) {
	dir, err := newSwitchDir(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cfg.Plain = false
	s := &server{cfg: cfg, fabric: fabric.New(cfg.Kind, cfg.Stations, cfg.Expire), dir: dir}
	if s.acceptor, err = newAcceptor(s); err != nil {
		dir.remove()
		return nil, err
	}
	return s, nil
}

// close ends all connections and removes the directory.
func (s *server) close() {
	teardown.Within(func() {
		s.acceptor.close()
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
	data  sockio.PollFile // not in the poller: see watch
	fd    int             // of data
	ready sockio.Epoll    // readable when data is
	gso   bool            // data is half of a pair of sockets for GSO packets
	name  string          // of the data socket; empty for a pair
	id    sockio.FileID   // of the name
}

var (
	_ fabric.Receiver = (*clientPort)(nil)
	_ packet.Receiver = (*clientPort)(nil)
	_ packet.Sending  = (*clientPort)(nil)
)

// start joins the port to the switch.
func (p *clientPort) start() {
	p.Receiver, p.Remote = p, true
	p.s.fabric.Join(&p.Port)
	p.s.ports.Go(p.receive)
}

// end removes the port. Its goroutine may still forward its last packets.
func (p *clientPort) end() {
	p.ended.Store(true)
	p.s.fabric.Leave(&p.Port)
	p.ready.Close()
	p.data.Close()
	if p.name != "" {
		p.id.Unlink(p.name)
	}
}

// receive carries the packets of the client until its port ends.
func (p *clientPort) receive() {
	b := packet.Buffer{Brief: p.data.Brief}
	p.ready.Receive(&b, p)
	b.Release()
}

// Receive implements [packet.Receiver]. It forwards packets until the port ends. After a
// single packet it waits for the poller; after several it reads again, as more have often
// arrived. While it waits it holds no memory, as there may be many clients.
func (p *clientPort) Receive(_ int, b *packet.Buffer) (bool, error) {
	var turn packet.Turn
	turn.Begin()
	for !p.ended.Load() {
		err := p.ReceiveData(p.fd, b, p.gso)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ECONNRESET && !p.gso || err != nil && sockio.Transient(err):
			continue // the client has closed its data socket, but not the connection
		case err != nil:
			return true, err
		}
		more := b.Full() || len(b.Packets) > 1
		r := routesPool.Get().(*fabric.Routes)
		bad, err := p.s.fabric.Forward(r, &p.Port, b.Packets, true)
		routesPool.Put(r)
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

// routesPool has routes for clients that forward packets.
var routesPool = sync.Pool{New: func() any { return fabric.NewRoutes() }}

// Deliver implements [fabric.Receiver].
func (p *clientPort) Deliver(packets []packet.Packet) {
	p.SendData(p.data, packets, p.gso, p, false)
}

// Dropped implements [fabric.Receiver].
func (p *clientPort) Dropped() (recv, send uint64) { return p.FrameCodec.Dropped() }

// TakesGSO implements [fabric.Receiver].
func (p *clientPort) TakesGSO() bool { return p.gso }

// HandleError implements [packet.Sending].
func (p *clientPort) HandleError(_ int, _ *packet.Sender, frames int, err error) (lost int, again bool, final error) {
	return frames, false, err // there is no receiver: the rest is lost too
}

// watch takes over the data socket. In the runtime's poller, it would wake up whenever the
// client has read a packet, too, as there is room to send. So the poller gets an epoll
// descriptor that reports only arrivals.
func (p *clientPort) watch(fd int) (err error) {
	// The poller ignores blocking descriptors. Calls that send and receive pass
	// MSG_DONTWAIT.
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
	if p.ready, err = sockio.NewEpoll("switch"); err != nil {
		return err
	}
	if err = p.ready.Add(fd, unix.EPOLLIN); err != nil {
		p.ready.Close()
	}
	return err
}
