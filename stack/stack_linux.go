//go:build amd64 || arm64

package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/neigh"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nlsocket"
	"github.com/vdestack/vdestack/internal/sockets"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A Stack is a private TCP/IP stack. Its methods may be called from several goroutines at
// once. Those of a nil Stack return [ErrNoStack].
type Stack struct {
	name   string
	log    *slog.Logger
	ns     *netns.NS
	joined bool         // the namespace was joined by path
	lent   atomic.Bool  // NetNS was called: the namespace may outlive the stack
	inUse  atomic.Bool  // New has returned
	swaps  sync.RWMutex // held for reading while a socket is moved into the stack

	ifaces    atomic.Pointer[[]*iface]    // in use; written with mu held
	neighbors atomic.Pointer[neigh.Space] // nil: they are not marked
	keep      sync.Once                   // begins to mark them
	unscoped  unscoped
	dns       atomic.Pointer[dnsConfig] // written by named
	named     namedCommands
	sysfs     sync.Once // logs that commands have the machine's sysfs

	mu       sync.Mutex     // guards the rest
	changing []*iface       // being made or removed
	claimed  int            // how many were ever claimed
	changes  sync.WaitGroup // of interfaces; none begins when closed is set
	closed   bool
	commands map[*process]struct{}
	orphans  []int         // process groups that outlived their command
	done     chan struct{} // closed when Close has finished
}

var _ rtnl.SocketMaker = (*Stack)(nil)

// none is what a nil or zero Stack stands for: a stack that was closed from the
// beginning.
var none = func() *Stack {
	s := &Stack{log: slog.New(slog.DiscardHandler), ns: netns.Closed(), closed: true, done: make(chan struct{})}
	close(s.done)
	s.setDNS(DNS{})
	return s
}()

// orNone returns none for a nil or zero Stack.
func (s *Stack) orNone() *Stack {
	if s == nil || s.done == nil {
		return none
	}
	return s
}

// New makes a stack. ctx bounds the set-up, not the life of the stack. An error
// leaves nothing behind.
func New(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	s := &Stack{
		name:     cfg.Name,
		log:      cfg.Logger.With("stack", cfg.Name),
		commands: make(map[*process]struct{}),
		done:     make(chan struct{}),
	}
	s.setDNS(cfg.DNS)
	defer func() {
		if err != nil {
			err = netns.Limited(s.wrap(err))
			s.Close()
		}
	}()
	s.joined = cfg.NetNS != ""
	if s.joined {
		s.ns, err = netns.Join(cfg.NetNS)
	} else {
		// Before the networks are opened: it checks that the limit of descriptors allows
		// what the runtime needs.
		err = netns.Start()
	}
	if err != nil {
		return nil, err
	}
	networks, discard := s.plugNetworks(ctx, cfg.Interfaces)
	defer discard()
	var first netns.TAP
	if len(networks) > 0 && networks[0] != nil && cfg.Interfaces[0].Kind != KindVeth {
		first = cfg.Interfaces[0].tap(firstIndex)
	}
	create := netns.Create
	if cfg.Isolated {
		create = netns.CreateIsolated
	} else if !s.joined {
		s.ns = fromPool(first, cfg.Interfaces)
	}
	prepared := func() {}
	defer func() { prepared() }()
	begin := func(base netns.Base) {
		if len(networks) == 0 {
			return
		}
		prepared = neigh.Prepare(base)
		if s.ns == nil || len(networks) > 1 { // else the first is needed at once
			for _, n := range networks {
				n.begin()
			}
		}
	}
	if s.ns == nil {
		s.ns, err = create(first, begin)
	} else {
		begin(s.ns.Base())
	}
	if err != nil {
		return nil, err
	}
	defer s.ns.Settle()
	if len(cfg.Interfaces) == 0 {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		s.inUse.Store(true)
		return s, nil
	}
	ready, err := s.firstRTNL()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	for j, f := range cfg.Interfaces {
		i := &iface{cfg: f, cancel: func(error) {}}
		if j == 0 {
			i.ready = ready
		}
		if err := s.claim(i); err != nil {
			return nil, err
		}
		if err := s.add(ctx, ready.nl, i, networks[j]); err != nil {
			s.background(func() { i.remove(-1) })
			return nil, err
		}
		i.ready = nil
	}
	s.inUse.Store(true)
	return s, nil
}

// Name returns the name that the stack was given, "stack" if it was given none.
func (s *Stack) Name() string { return s.orNone().name }

// String returns the name and the interfaces with their networks, such as
// "lab (vde0 mem://lan)".
func (s *Stack) String() string {
	s = s.orNone()
	switch {
	case s == none:
		return "no stack"
	case s.isClosed():
		return s.name + " (closed)"
	}
	var all []string
	for _, i := range s.interfaces() {
		all = append(all, strings.TrimSpace(i.cfg.Name+" "+vdeplug.Redact(i.cfg.VNL)))
	}
	return s.name + " (" + cmp.Or(strings.Join(all, ", "), "loopback only") + ")"
}

// Close ends the stack. It may be called twice, and with any other call.
//
//   - Commands are killed, and plugs leave their networks.
//   - Calls that wait on a socket return; its descriptor stays open until it is closed.
//     Datagram sockets of other kinds than UDP are not reached. In a namespace that was
//     joined by path, sockets stay as they are: they may be those of others.
//   - When Close returns, all that is done, but for the interfaces, which take the
//     kernel long: they have left their networks and are soon down, and what began to
//     connect during Close has ended then. They vanish with the namespace, when no
//     socket or process is in it any more. Interfaces of a namespace that was joined,
//     or that NetNS has handed out, are gone when Close returns.
func (s *Stack) Close() error {
	if s = s.orNone(); s == none {
		return ErrNoStack
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	for _, i := range s.changing {
		i.cancel(net.ErrClosed)
	}
	s.mu.Unlock()
	defer close(s.done)

	s.killCommands()
	s.changes.Wait()
	s.neighbors.Load().Close()
	ifaces := s.interfaces()
	for _, i := range ifaces {
		i.link.stats(new(InterfaceStats)) // which remembers the kernel's
	}
	var errs []error
	last := -1
	var nl *rtnl.Conn
	if s.ns != nil && (s.joined || s.lent.Load()) {
		var err error
		if nl, err = s.RTNL(); err == nil {
			defer nl.Close()
		}
	}
	if s.ns != nil {
		var err error
		last, err = s.endSockets()
		errs = append(errs, err)
	}
	for _, i := range ifaces {
		errs = append(errs, i.leave(s.joined || s.lent.Load(), nl))
	}
	if len(ifaces) > 0 {
		s.background(func() { s.removeAll(last) })
	} else if last >= 0 {
		unix.Close(last)
	}
	return errors.Join(errs...)
}

// background runs f in the background, unless the namespace outlives the stack.
func (s *Stack) background(f func()) {
	if s.joined || s.lent.Load() {
		f()
	} else {
		teardown.Go(f)
	}
}

// removeAll removes the interfaces. A socket that was not connected yet could not be
// ended, and may have begun to connect since. Without interfaces no other can begin: it
// is ended by last, a netlink socket in the namespace, which is closed; -1 if there is
// none.
func (s *Stack) removeAll(last int) {
	in := last
	if s.lent.Load() {
		in = -1 // somebody would see them
	}
	for _, i := range s.interfaces() {
		if err := i.remove(in); err != nil {
			s.log.Debug("removing an interface", "interface", i.cfg.Name, "error", err)
		}
	}
	if !s.joined {
		endAll(s.ns.Cookie(), last)
	}
}

// isClosed reports whether Close was called.
func (s *Stack) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// errClosed is what calls report then.
func (s *Stack) errClosed() error {
	if s == none {
		return ErrNoStack
	}
	return fmt.Errorf("%s: stack is closed: %w", s.name, net.ErrClosed)
}

// endSockets gives the namespace up, so that no more sockets are made, and ends the
// existing ones. The interfaces are still there, so that peers get resets. It returns a
// last socket in the namespace for removeAll, -1 if there is none.
func (s *Stack) endSockets() (last int, err error) {
	s.swaps.Lock() // sockets that are being moved have arrived
	if s.joined {
		err = s.ns.Close()
		s.swaps.Unlock()
		return -1, err
	}
	last, idle := s.ns.CloseWith(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	s.swaps.Unlock()
	if idle {
		return last, nil // looking for sockets takes long
	}
	diag := last
	if last, err = unix.FcntlInt(uintptr(diag), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		last = -1 // the limit of descriptors is reached
	}
	endAll(s.ns.Cookie(), diag)
	return last, nil
}

// endAll ends the sockets in the namespace with the cookie, and closes diag, a netlink
// socket in it; -1 if there is none.
func endAll(cookie uint64, diag int) {
	if diag >= 0 {
		sockets.Destroy(diag)
	}
	sockets.ShutDown(cookie, diag)
}

// Socket makes a socket of any domain, type and protocol in the stack, as socket(2).
// typ may contain SOCK_NONBLOCK. The file is close-on-exec and belongs to the caller.
func (s *Stack) Socket(domain, typ, proto int) (*os.File, error) {
	s = s.orNone()
	fd, err := s.ns.Socket(domain, typ, proto)
	if err != nil {
		return nil, s.wrap(err)
	}
	return os.NewFile(uintptr(fd), "socket:"+s.name), nil
}

// wrap names the stack in an error, and exports the reason of one that was refused.
func (s *Stack) wrap(err error) error {
	switch {
	case s == none:
		return ErrNoStack
	case errors.Is(err, net.ErrClosed) && s.isClosed(): // not that of a plug or a recording
		return s.errClosed()
	}
	err = fmt.Errorf("%s: %w", s.name, err)
	if e, ok := errors.AsType[*netns.Explained](err); ok && e.Refused {
		return &RefusedError{e.Reason, err}
	}
	return err
}

// RTNL opens a connection that configures the stack by netlink. It belongs to
// the caller.
func (s *Stack) RTNL() (*rtnl.Conn, error) {
	c, err := netns.WithRoom(func() (*rtnl.Conn, error) { return rtnl.Dial(s) })
	return c, netns.Limited(err)
}

// Netlink opens a connection of any netlink family, such as unix.NETLINK_GENERIC. It belongs
// to the caller.
func (s *Stack) Netlink(family int) (*netlink.Conn, error) {
	s = s.orNone()
	const maxFamily = 31 // MAX_LINKS of linux/netlink.h
	if family < 0 || family > maxFamily {
		return nil, s.wrap(fmt.Errorf("netlink family %d is not from 0 to %d: %w", family, maxFamily, os.ErrInvalid))
	}
	c, err := netns.WithRoom(func() (*netlink.Conn, error) {
		fd, err := s.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, family)
		if err != nil {
			return nil, s.wrap(err)
		}
		c, err := nlsocket.Dial(fd)
		if err != nil {
			return nil, s.wrap(err)
		}
		return c, nil
	})
	return c, netns.Limited(err)
}

// Sysctl sets a setting of the stack, such as "net.ipv4.ip_forward" to "1". Parts are
// separated by dots or, where a part contains dots, by slashes. Only settings below net
// belong to a stack; others are refused.
func (s *Stack) Sysctl(name, value string) error {
	s = s.orNone()
	path, err := sysctlPath(name)
	if err != nil {
		return s.wrap(err)
	}
	err = s.ns.WriteSysctl(path, value)
	if call, ok := errors.AsType[*os.PathError](err); ok && call.Op == "write" {
		err = fmt.Errorf("sysctl %s=%.80q: %w", name, value, call.Err)
		if givenUp := netns.GivenUp(); errors.Is(err, fs.ErrPermission) && givenUp != "" {
			return s.wrap(refused(err, givenUp))
		}
		why := "the kernel does not take this value"
		if errors.Is(err, unix.ENOENT) {
			why = "the kernel does not have what the value names"
		}
		return s.wrap(fmt.Errorf("%w (%s)", err, why))
	}
	if err != nil {
		return s.wrap(fmt.Errorf("sysctl %s: %w", name, err))
	}
	return nil
}

// ReadSysctl returns a setting of the stack, named as for [Stack.Sysctl], as the kernel
// writes it without the last line end.
func (s *Stack) ReadSysctl(name string) (string, error) {
	s = s.orNone()
	path, err := sysctlPath(name)
	if err != nil {
		return "", s.wrap(err)
	}
	value, err := s.ns.ReadSysctl(path)
	if err != nil {
		return "", s.wrap(fmt.Errorf("sysctl %s: %w", name, err))
	}
	return strings.TrimSuffix(value, "\n"), nil
}

// sysctlPath returns the path of a setting of a stack below /proc/sys.
func sysctlPath(name string) (string, error) {
	sep := "."
	if strings.Contains(name, "/") {
		sep = "/"
	}
	parts := strings.Split(name, sep)
	if len(parts) < 2 || parts[0] != "net" {
		return "", fmt.Errorf("sysctl %q: only settings that begin with net. belong to a stack", name)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.Contains(p, "/") || !utf8.ValidString(p) ||
			strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "", fmt.Errorf("sysctl %q is not the name of a setting", name)
		}
	}
	return strings.Join(parts, "/"), nil
}

// NetNS returns a descriptor of the stack's network namespace, for setns of other
// libraries and programs. It belongs to the caller, and keeps the namespace alive, but
// not its interfaces, when the stack is closed.
func (s *Stack) NetNS() (*os.File, error) {
	s = s.orNone()
	s.lent.Store(true)
	s.ns.Lend()
	s.ns.AllowPing()
	f, err := s.ns.File()
	if err != nil {
		return nil, s.wrap(err)
	}
	return f, nil
}

// Emulator returns the controller of the netemu network under an interface. It is an
// error if there is no such network.
func (s *Stack) Emulator(ifname string) (*vdeplug.Emulator, error) {
	s = s.orNone()
	if s.isClosed() {
		return nil, s.errClosed()
	}
	i, err := s.find(ifname)
	if err != nil {
		return nil, s.wrap(err)
	}
	if p, ok := i.link.(interface{ emulator() *vdeplug.Emulator }); ok {
		if e := p.emulator(); e != nil {
			return e, nil
		}
	}
	return nil, s.wrap(fmt.Errorf("interface %s is not on a network of netemu:// (%q)", ifname, vdeplug.Redact(i.cfg.VNL)))
}

// Stats returns the counters of the interfaces. After Close, it returns the last ones.
func (s *Stack) Stats() Stats {
	var st Stats
	for _, i := range s.orNone().interfaces() {
		st.Interfaces = append(st.Interfaces, i.stats())
	}
	return st
}
