package vdestack

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vdestack/vdestack/internal/dns"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
)

// Config says how a Stack is made. The zero Config gives one with a loopback
// interface only.
type Config struct {
	// Name appears in errors and logs. Empty means "stack".
	Name string
	// Interfaces are made in this order. None: loopback only.
	Interfaces []Interface
	// DNS resolves the stack's names. The zero DNS knows literal addresses and
	// localhost only.
	DNS DNS
	// NetNS joins the namespace at this path instead of making one: of "ip netns"
	// (/run/netns/NAME), of a process (/proc/PID/ns/net), or one that a process
	// has open (/proc/PID/fd/N). It has to belong to this program or another one
	// of the same user; CAP_SYS_ADMIN opens all. Empty makes one.
	NetNS string
	// Isolated gives the stack a user namespace of its own: commands that run in it
	// have no capabilities over the other stacks of the program, nor may they trace
	// what is not theirs, and the other way round. It is for programs that run
	// commands of others, and costs a process more, which ends with the stack. It
	// takes user namespaces; NetNS cannot have it. See Privileges for what remains.
	Isolated bool
	// Logger receives rare events, never packets. Nil discards them.
	Logger *slog.Logger
}

// An Interface is an Ethernet interface of a stack.
type Interface = stack.Interface

// A Kind is what an interface is made of: [KindTAP] or [KindVeth].
type Kind = stack.Kind

// Kinds of interfaces; package stack says what they are.
const (
	KindTAP  = stack.KindTAP
	KindVeth = stack.KindVeth
)

// An Offload is work that the kernel and the stack leave to each other. A set of them
// in Interface.NoOffload is switched off, for debugging.
type Offload = stack.Offload

// Offloads; package stack says what they are.
const (
	OffloadHeader   = stack.OffloadHeader
	OffloadChecksum = stack.OffloadChecksum
	OffloadTSO4     = stack.OffloadTSO4
	OffloadTSO6     = stack.OffloadTSO6
	OffloadUSO      = stack.OffloadUSO
	OffloadGRO      = stack.OffloadGRO
	OffloadUDPGRO   = stack.OffloadUDPGRO
)

// Stats are the counters of a stack's interfaces.
type Stats = stack.Stats

// InterfaceStats are the counters of one interface.
type InterfaceStats = stack.InterfaceStats

// DNS says how a stack resolves names. Nothing of the host's configuration is
// used.
type DNS = stack.DNS

// A Stack is a private TCP/IP stack of the process: the kernel's own, in a
// network namespace. Its methods may be called from several goroutines at once.
// Those of a nil Stack return errors: it is not the host.
type Stack struct {
	st      *stack.Stack
	dns     atomic.Pointer[dns.Client]
	setting sync.Mutex // held while the DNS is changed
	conns   connTracker
}

var _ rtnl.SocketMaker = (*Stack)(nil)

// errNoStack is what the methods of a nil Stack return, whose maker has not
// looked at the error of Open or New. A nil Stack is not the host.
var errNoStack = fmt.Errorf("there is no stack, the error of Open or New says why: %w", os.ErrInvalid)

// check refuses a Stack that Open or New did not make.
func (s *Stack) check() error {
	if s == nil || s.st == nil {
		return errNoStack
	}
	return nil
}

// Open makes a stack with the interface vde0 on the network vnl, with the given
// addresses ("10.0.0.50/24", "fc00::1:50/64"); loopback and vde0 are up, and the
// addresses usable when Open returns. An empty vnl gives a stack with loopback
// only. See package vdeplug for locators, and [New] for more.
func Open(vnl string, prefixes ...string) (*Stack, error) {
	var cfg Config
	if vnl == "" && len(prefixes) > 0 {
		return nil, fmt.Errorf("stack: address %q has no interface: the network is empty", prefixes[0])
	}
	if vnl != "" {
		i := Interface{VNL: vnl}
		for _, text := range prefixes {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("stack: address %q is not ADDRESS/LENGTH, such as 10.0.0.50/24 or fc00::1:50/64", text)
			}
			i.Addrs = append(i.Addrs, p)
		}
		cfg.Interfaces = []Interface{i}
	}
	return New(context.Background(), cfg)
}

// New makes a stack. ctx bounds the set-up, not the life of the stack. An error
// leaves nothing behind.
func New(ctx context.Context, cfg Config) (*Stack, error) {
	st, err := stack.New(ctx, stack.Config{
		Name: cfg.Name, Interfaces: cfg.Interfaces, DNS: cfg.DNS, NetNS: cfg.NetNS, Isolated: cfg.Isolated, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	s := &Stack{st: st}
	if err := s.resolve(st.DNS()); err != nil {
		st.Close()
		return nil, fmt.Errorf("%s: %w", st.Name(), err)
	}
	return s, nil
}

// Close ends the stack: its commands are killed, its connections and listeners
// are closed, its plugs leave their networks and its interfaces vanish. Calls
// that wait return: on connections and listeners that the stack handed out with
// [net.ErrClosed]; on accepted connections, on sockets that joined by a bare hook
// and in child processes that inherited a socket, with an error or the end of the
// stream. Not reached are raw, packet and netlink sockets made by [Stack.Socket],
// unix listeners that joined by a bare hook, sockets of multipath TCP that only
// another process has, and listeners that join by a bare hook at the very moment
// of Close. In a namespace that was joined by path only what the stack handed out
// is closed.
//
// Close may be called twice and concurrently with any other call, and returns when all that
// is done, but for the interfaces, which take the kernel long: they are off their
// networks, and soon after down. They go with the namespace, when nobody has a
// socket or a process in it any more; a program may exit before. Of a namespace
// that was joined, or that NetNS has handed out, they are gone when Close
// returns. Later calls report net.ErrClosed.
func (s *Stack) Close() error {
	if err := s.check(); err != nil {
		return err
	}
	s.conns.closeAll()
	return s.st.Close()
}

// Name returns the name that the stack was given, "stack" if it was given none.
func (s *Stack) Name() string {
	if s.check() != nil {
		return ""
	}
	return s.st.Name()
}

// String returns the name and the interfaces with their networks, such as
// "lab (vde0 mem://lan)", for logs.
func (s *Stack) String() string {
	if s.check() != nil {
		return "no stack"
	}
	return s.st.String()
}

// Control is a Control function of [net.Dialer] and [net.ListenConfig], and of
// every library that lets its user set one: the socket, which is neither bound
// nor connected yet, moves into the stack. Names and zones are resolved before
// it is called, by the host; [Dialer] and [ListenConfig] resolve them in the
// stack.
func (s *Stack) Control(network, address string, c syscall.RawConn) error {
	return s.ControlContext(context.Background(), network, address, c)
}

// ControlContext is [Stack.Control] for the ControlContext field.
func (s *Stack) ControlContext(ctx context.Context, network, address string, c syscall.RawConn) error {
	if err := s.check(); err != nil {
		return err
	}
	s.meet(ctx, address)
	return s.st.Control(network, address, c)
}

// Socket makes a socket of any domain, type and protocol in the stack, as
// socket(2). typ may contain SOCK_NONBLOCK. The file is close-on-exec and
// belongs to the caller. It replaces vde_msocket.
func (s *Stack) Socket(domain, typ, proto int) (*os.File, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.st.Socket(domain, typ, proto)
}

// RTNL opens a connection that configures the stack by netlink. It belongs to
// the caller, and is closed with the stack.
func (s *Stack) RTNL() (*rtnl.Conn, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c, err := s.st.RTNL()
	if err == nil && !trackRef(&s.conns, c) {
		c.Close()
		return nil, s.st.ErrClosed()
	}
	return c, err
}

// Sysctl sets a setting of the stack, such as "net.ipv4.ip_forward" to "1".
// Parts are separated by dots or, where a part contains dots, by slashes. Only
// settings below net belong to a stack; others are refused.
func (s *Stack) Sysctl(name, value string) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.st.Sysctl(name, value)
}

// ReadSysctl returns a setting of the stack, such as that of "net.ipv4.ip_forward", named
// as for [Stack.Sysctl]. Several values are separated as the kernel does it, by tabs or
// line ends; the last line end is left out. The error is [fs.ErrNotExist] where the kernel
// does not have the setting.
func (s *Stack) ReadSysctl(name string) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	return s.st.ReadSysctl(name)
}

// AddInterface makes an interface in a stack that is in use, as [New] makes those of
// [Config]:
//
//   - When it returns, the addresses are usable and Stats lists the interface last.
//   - ctx bounds the set-up, not the life of the interface.
//   - An error leaves nothing behind. It is [fs.ErrExist] if the name is taken.
//   - It may be called with any other call. Close ends it, with [net.ErrClosed].
//   - A default route that another interface of the stack has cannot be had twice.
//   - In a namespace that was joined, the interface is removed with the stack.
func (s *Stack) AddInterface(ctx context.Context, i Interface) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.st.AddInterface(ctx, i)
}

// RemoveInterface removes an interface that New or AddInterface made. name is the name
// that it has now or, if no interface has that now, the name that it was made with.
//
//   - It leaves its network, its capture ends, and its addresses and routes go with it.
//   - Sockets stay open: connections from its addresses get no answers any more, as if a
//     card was pulled out, and end by their time limits.
//   - Name and default route are free when it returns.
//   - It returns an error of the network or the capture; the interface is gone all the
//     same. Interfaces that others made are removed by [Stack.RTNL].
func (s *Stack) RemoveInterface(name string) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.st.RemoveInterface(name)
}

// SetDNS changes how names are resolved, for lookups, resolvers that were handed out
// before, and commands with Cmd.Names that begin from now on.
func (s *Stack) SetDNS(d DNS) error {
	if err := s.check(); err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	if err := s.st.SetDNS(d); err != nil {
		return err
	}
	return s.resolve(s.st.DNS())
}

// DNS returns how names are resolved: a copy of Config.DNS, or of what SetDNS was given.
func (s *Stack) DNS() DNS {
	if s.check() != nil {
		return DNS{}
	}
	return s.st.DNS()
}

// NetNS returns a descriptor of the stack's network namespace, for setns of
// other libraries and programs. It belongs to the caller, and keeps the
// namespace alive, but not its interfaces, when the stack is closed. A program
// without privilege first enters the user namespace that owns it, as
// ioctl_ns(2) gives it: "nsenter --user --net".
func (s *Stack) NetNS() (*os.File, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.st.NetNS()
}

// Emulator returns what changes the network of an interface that is on one of the
// scheme netemu, or nested on such, while it is in use.
func (s *Stack) Emulator(ifname string) (*vdeplug.Emulator, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.st.Emulator(ifname)
}

// Stats returns the counters of the interfaces.
func (s *Stack) Stats() Stats {
	if s.check() != nil {
		return Stats{}
	}
	return s.st.Stats()
}

// defaultStack is the stack of the package functions; nil is the host.
var defaultStack atomic.Pointer[Stack]

// SetDefault makes s the stack of the package functions [Dial], [DialContext],
// [Listen] and [ListenPacket]; nil means the host. It replaces
// vde_default_stack. A default stack that is closed stays the default: the
// functions then return errors until SetDefault is called again.
func SetDefault(s *Stack) { defaultStack.Store(s) }

// Default returns the stack of the package functions; nil is the host.
func Default() *Stack { return defaultStack.Load() }
