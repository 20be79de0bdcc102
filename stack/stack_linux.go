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
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vdestack/vdestack/internal/neigh"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A Stack is a private TCP/IP stack. Its methods may be called from several
// goroutines at once.
type Stack struct {
	name   string
	log    *slog.Logger
	ns     *netns.NS
	ifaces []*iface
	joined bool         // the namespace is not of our making
	lent   atomic.Bool  // NetNS was called: the namespace may outlive the stack
	swaps  sync.RWMutex // held for reading while a socket is moved into the stack

	neighbors *neigh.Space // nil: they are not looked after
	names     *names       // of commands
	tell      struct{ names, sysfs sync.Once }

	mu       sync.Mutex // guards closed, commands and orphans
	closed   bool
	commands map[*process]struct{}
	orphans  []int         // process groups that outlived their command
	done     chan struct{} // closed when Close has finished
}

var _ rtnl.SocketMaker = (*Stack)(nil)

// New makes a stack. ctx bounds the set-up, not the life of the stack. An error
// leaves nothing behind.
func New(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	s := &Stack{
		name:     cfg.Name,
		log:      cfg.Logger.With("stack", cfg.Name),
		names:    namesOf(&cfg.DNS),
		commands: make(map[*process]struct{}),
		done:     make(chan struct{}),
	}
	defer func() {
		if err != nil {
			s.Close()
			err = netns.Limited(fmt.Errorf("%s: %w", cfg.Name, err))
		}
	}()
	s.joined = cfg.NetNS != ""
	if s.joined {
		s.ns, err = netns.Join(cfg.NetNS)
	} else {
		// Before the networks are opened: it looks whether the limit of descriptors
		// allows what the runtime needs.
		err = netns.Start()
	}
	if err != nil {
		return nil, err
	}
	networks, discard := s.plugNetworks(ctx, cfg.Interfaces)
	defer discard()
	var first netns.TAP
	if len(networks) > 0 && networks[0] != nil && cfg.Interfaces[0].Kind != KindVeth {
		first = cfg.Interfaces[0].tap(0)
	}
	create := netns.Create
	if cfg.Isolated {
		create = netns.CreateIsolated
	} else if !s.joined {
		s.ns = netns.Ready(first)
	}
	begin := func() {
		for _, n := range networks {
			n.begin()
		}
	}
	if s.ns == nil {
		s.ns, err = create(first, begin)
	} else if len(networks) > 1 { // there is something to do meanwhile
		begin()
	}
	if err != nil {
		return nil, err
	}
	defer s.ns.Settle()
	if len(cfg.Interfaces) == 0 {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		return s, nil
	}
	nl, err := s.RTNL()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	if s.neighbors, err = neigh.Keep(s.ns, !s.joined); err != nil {
		s.log.Debug("neighbours take places of the machine's table", "error", err)
	}
	for j, f := range cfg.Interfaces {
		i, err := s.newIface(ctx, nl, f, networks[j])
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", f.Name, err)
		}
		s.ifaces = append(s.ifaces, i)
	}
	if len(s.ifaces) > 1 && !s.joined {
		if err := refuseUnscoped(nl, cfg.Interfaces); err != nil {
			s.log.Debug("link-local destinations without a zone go to the first interface", "error", err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	for _, i := range s.ifaces {
		i.start()
	}
	return s, nil
}

// refuseUnscoped makes link-local destinations without a zone unreachable. Package
// net knows the names of the host's interfaces only, and makes any other zone none;
// the kernel then takes the first interface, whose network may be another one. With
// a zone, or a socket that is bound to an interface, routes of other interfaces do not
// count, and these are loopback's. They come before the kernel's own: those of hosts have
// a lower metric, and the lengths of the addresses too; those of groups a longer prefix.
func refuseUnscoped(nl *rtnl.Conn, interfaces []Interface) (err error) {
	hosts := map[netip.Prefix]bool{netip.MustParsePrefix("fe80::/10"): true, netip.MustParsePrefix("fe80::/64"): true}
	for _, f := range interfaces {
		for _, p := range f.Addrs {
			if a := p.Addr(); a.Is6() && a.IsLinkLocalUnicast() && !p.IsSingleIP() {
				hosts[p.Masked()] = true
			}
		}
	}
	for p := range hosts {
		err = errors.Join(err, nl.RouteAdd(p, netip.Addr{}, 0, rtnl.Unreachable, rtnl.Metric(1)))
	}
	for _, flags := range []byte{0, 1, 3, 7} { // of multicast addresses, RFC 4291 and 7371
		group := netip.AddrFrom16([16]byte{0: 0xff, 1: flags<<4 | 2})
		err = errors.Join(err, nl.RouteAdd(netip.PrefixFrom(group, 16), netip.Addr{}, 0, rtnl.Unreachable, rtnl.Table(unix.RT_TABLE_LOCAL)))
	}
	return err
}

// Name returns the name that the stack was given, "stack" if it was given none.
func (s *Stack) Name() string { return s.name }

// String returns the name and the interfaces with their networks, such as
// "lab (vde0 mem://lan)".
func (s *Stack) String() string {
	if s.Closed() {
		return s.name + " (closed)"
	}
	var all []string
	for _, i := range s.ifaces {
		all = append(all, strings.TrimSpace(i.cfg.Name+" "+i.cfg.VNL))
	}
	return s.name + " (" + cmp.Or(strings.Join(all, ", "), "loopback only") + ")"
}

// Close ends the stack: its commands are killed, its sockets end, its plugs
// leave their networks and its interfaces vanish; the kernel removes those on
// mem:// and lan:// with the namespace, a little later. Calls that wait on a
// socket return; descriptors stay open until they are closed. Datagram sockets of
// other kinds than UDP are not reached. In a namespace that was joined by path the
// sockets stay as they are, for there is no telling whose they are.
//
// Close may be called twice and beside any other call; each call returns when
// all that is done, but for the interfaces, which take the kernel long. They are
// off their networks then. Soon after they are down, what began to connect during
// Close has ended, and they go with the namespace, when nobody has a socket or a
// process in it any more. Of a namespace that was joined, or that NetNS has handed
// out, they are gone when Close returns.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	defer close(s.done)

	s.killCommands()
	s.neighbors.Close()
	var errs []error
	for _, i := range s.ifaces {
		i.keepStats()
	}
	last := -1
	if s.ns != nil {
		var err error
		last, err = s.endSockets()
		errs = append(errs, err)
	}
	for _, i := range s.ifaces {
		i.drain()
		errs = append(errs, i.leave())
	}
	if len(s.ifaces) > 0 {
		s.behind(func() { s.removeAll(last) })
	} else if last >= 0 {
		unix.Close(last)
	}
	return errors.Join(errs...)
}

// behind calls f, after Close if nobody can see what it does to the namespace.
func (s *Stack) behind(f func()) {
	if s.joined || s.lent.Load() {
		f()
	} else {
		teardown.Go(f)
	}
}

// removeAll removes the interfaces. A socket that was not connected yet could not
// be ended, and may have begun to connect since: when there are no interfaces,
// where no other can begin, it is ended by last, a netlink socket in the
// namespace, which is closed; -1 if there is none.
func (s *Stack) removeAll(last int) {
	in := last
	if s.lent.Load() {
		in = -1 // somebody would see them
	}
	for _, i := range s.ifaces {
		if err := i.remove(in); err != nil {
			s.log.Debug("removing an interface", "interface", i.cfg.Name, "error", err)
		}
	}
	if !s.joined {
		endAll(s.ns.Cookie(), last)
	}
}

// Closed reports whether Close was called.
func (s *Stack) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// ErrClosed is what calls report then. It names the stack, and is net.ErrClosed.
func (s *Stack) ErrClosed() error { return s.wrap(net.ErrClosed) }

// endSockets gives the namespace up, so that no more sockets are made, and ends
// those that were. The interfaces are still there: peers are told. It returns a
// last socket in the namespace for removeAll, -1 if there is none.
func (s *Stack) endSockets() (last int, err error) {
	s.swaps.Lock() // what is being moved into the stack has arrived
	if s.joined {
		err = s.ns.Close()
		s.swaps.Unlock()
		return -1, err
	}
	last, idle := s.ns.CloseWith(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	s.swaps.Unlock()
	if idle {
		return last, nil // to look for them takes long
	}
	diag := last
	if last, err = unix.FcntlInt(uintptr(diag), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		last = -1 // the limit of descriptors is reached
	}
	endAll(s.ns.Cookie(), diag)
	return last, nil
}

// endAll ends the sockets in the namespace with the cookie, and closes the
// netlink socket diag in it, -1 if there is none.
func endAll(cookie uint64, diag int) {
	if diag >= 0 {
		destroySockets(diag)
	}
	shutDown(cookie, diag)
}

// Socket makes a socket of any domain, type and protocol in the stack, as
// socket(2). typ may contain SOCK_NONBLOCK. The file is close-on-exec and
// belongs to the caller. It replaces vde_msocket.
func (s *Stack) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := s.ns.Socket(domain, typ, proto)
	if err != nil {
		return nil, s.wrap(err)
	}
	return os.NewFile(uintptr(fd), "socket:"+s.name), nil
}

// wrap names the stack in an error.
func (s *Stack) wrap(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%s: stack is closed: %w", s.name, net.ErrClosed)
	}
	return fmt.Errorf("%s: %w", s.name, err)
}

// RTNL opens a connection that configures the stack by netlink. It belongs to
// the caller.
func (s *Stack) RTNL() (*rtnl.Conn, error) { return dialNetlink(s) }

// dialNetlink is rtnl.Dial, for which sockets that nobody has asked for yet make room
// where a descriptor is missing.
func dialNetlink(m rtnl.SocketMaker) (*rtnl.Conn, error) {
	return netns.WithRoom(func() (*rtnl.Conn, error) { return rtnl.Dial(m) })
}

// Sysctl sets a setting of the stack, such as "net.ipv4.ip_forward". Parts are
// separated by dots or, where a part contains dots, by slashes. Only settings
// below net belong to a stack; the others are the machine's and are refused.
func (s *Stack) Sysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return s.wrap(err)
	}
	// The path leads to the settings of the namespace of whoever opens it.
	fd, err := s.ns.Open(path, unix.O_WRONLY)
	if err != nil {
		return s.wrap(fmt.Errorf("sysctl %s: %w", name, err))
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	_, err = f.WriteString(value)
	s.ns.Refresh()
	if err != nil {
		why := "the kernel does not take this value"
		switch givenUp := netns.GivenUp(); {
		case errors.Is(err, unix.ENOENT):
			why = "the kernel does not have what the value names"
		case errors.Is(err, fs.ErrPermission) && givenUp != "":
			why = givenUp
		}
		return s.wrap(fmt.Errorf("sysctl %s=%.80q: %w (%s)", name, value, errors.Unwrap(err), why))
	}
	return nil
}

// sysctlPath returns the file of a setting of a stack.
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
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\x00") {
			return "", fmt.Errorf("sysctl %q is not the name of a setting", name)
		}
	}
	return "/proc/sys/" + strings.Join(parts, "/"), nil
}

// NetNS returns a descriptor of the stack's network namespace, for setns of
// other libraries and programs. It belongs to the caller, and keeps the
// namespace alive, but not its interfaces, when the stack is closed. A program
// without privilege first enters the user namespace that owns it, as
// ioctl_ns(2) gives it: "nsenter --user --net".
func (s *Stack) NetNS() (*os.File, error) {
	s.lent.Store(true)
	f, err := s.ns.File()
	if err != nil {
		return nil, s.wrap(err)
	}
	return f, nil
}

// Emulator returns what changes the network of an interface that is on one of the
// scheme netemu, or nested on such, while it is in use.
func (s *Stack) Emulator(ifname string) (*vdeplug.Emulator, error) {
	if s.Closed() {
		return nil, s.ErrClosed()
	}
	for _, i := range s.ifaces {
		if i.name() != ifname {
			continue
		}
		if e := vdeplug.FindEmulator(i.plug); e != nil {
			return e, nil
		}
		return nil, s.wrap(fmt.Errorf("interface %s is not on a network of netemu:// (%q)", ifname, i.cfg.VNL))
	}
	return nil, s.wrap(fmt.Errorf("there is no interface %q", ifname))
}

// Stats returns the counters of the interfaces.
func (s *Stack) Stats() Stats {
	var st Stats
	for _, i := range s.ifaces {
		st.Interfaces = append(st.Interfaces, i.stats())
	}
	return st
}
