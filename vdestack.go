package vdestack

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/dns"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
)

// Config describes a Stack. The zero Config makes one with a loopback interface only.
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
	// Isolated gives the stack a user namespace of its own, for programs that run
	// commands on behalf of others. Commands in it have no capabilities over the other
	// stacks of the program and cannot trace their processes, nor the other way round;
	// Privileges says what remains. It needs user namespaces, takes another process,
	// which ends with the stack, and cannot be combined with NetNS.
	Isolated bool
	// Logger receives rare events: networks that are gone or back, captures that have
	// ended, what a command cannot have. Nil discards them.
	Logger *slog.Logger
}

// Types of package stack, which documents their fields and methods.
type (
	// An Interface is an Ethernet interface of a stack: VNL is the locator of its
	// network, Name, MAC and MTU, Addrs and Gateways are as in "ip link" and "ip addr";
	// Down, Capture (a recording for Wireshark), Kind, NoReconnect and NoOffload change
	// how it is made. Only VNL is needed.
	Interface = stack.Interface
	// A Kind is what an interface is made of: [KindTAP] or [KindVeth].
	Kind = stack.Kind
	// An Offload is work that the kernel and the stack leave to each other. A set of them
	// in Interface.NoOffload is switched off, for debugging.
	Offload = stack.Offload
	// DNS says how a stack resolves names: Servers, Search and Ndots as in resolv.conf,
	// and Hosts. Nothing of the host's configuration is used.
	DNS = stack.DNS
	// Stats are the counters of a stack: Interfaces, a list.
	Stats = stack.Stats
	// InterfaceStats are the counters of one interface, the error of its network in Err,
	// and whether it is Reconnecting.
	InterfaceStats = stack.InterfaceStats
	// SocketStats are what the kernel counts of the sockets of a stack: TCP and UDP.
	SocketStats = stack.SocketStats
	// An InterfaceError says which interface of a stack could not be made: Name, VNL,
	// Err.
	InterfaceError = stack.InterfaceError
	// A TUN is an interface that carries IP packets, which its owner reads and writes:
	// Read, Write, BatchSize, Name, MTU, File and Close. [Stack.TUN] makes it.
	TUN = stack.TUN
	// A TUNConfig describes the interface of a TUN: Name, MTU, Addrs, Down and Peers.
	TUNConfig = stack.TUNConfig
	// PeerStats are what the owner of a TUN knows about one of the other ends of its tunnel:
	// Name, Endpoint, LastHandshake, RxBytes and TxBytes.
	PeerStats = stack.PeerStats
	// A RefusedError says that the machine, or what confines the program, does not allow
	// an operation: Reason names the setting that is in the way, and the remedy.
	RefusedError = stack.RefusedError
)

// Kinds of interfaces and offloads.
const (
	KindTAP  = stack.KindTAP
	KindVeth = stack.KindVeth

	OffloadHeader   = stack.OffloadHeader
	OffloadChecksum = stack.OffloadChecksum
	OffloadTSO4     = stack.OffloadTSO4
	OffloadTSO6     = stack.OffloadTSO6
	OffloadUSO      = stack.OffloadUSO
	OffloadGRO      = stack.OffloadGRO
	OffloadUDPGRO   = stack.OffloadUDPGRO
)

// ErrNoStack is the error of the methods of a nil Stack, and of a [Dialer] or
// [ListenConfig] without one: mostly, nobody looked at the error of Open. A nil Stack
// is not the host.
var ErrNoStack = stack.ErrNoStack

// A Stack is a private TCP/IP stack of the process: the kernel's own, in a network
// namespace. Its methods may be called from several goroutines at once. Those of a nil
// Stack return [ErrNoStack]: it is not the host. A Stack lives until Close or the end
// of the program; the garbage collector does not close it.
type Stack struct {
	st      *stack.Stack
	dns     atomic.Pointer[dns.Client]
	setting sync.Mutex // held while the DNS is changed
	conns   connTracker
	sources sources // of forwards

	forwards list[Forward]

	beforeClose closeFuncs
}

var _ rtnl.SocketMaker = (*Stack)(nil)

// core returns the stack below, nil for a nil or zero Stack. Its methods then return
// ErrNoStack.
func (s *Stack) core() *stack.Stack {
	if s == nil {
		return nil
	}
	return s.st
}

// check refuses a Stack that Open or New did not make.
func (s *Stack) check() error {
	if s.core() == nil {
		return ErrNoStack
	}
	return nil
}

// closed is what calls report after Close, which nil says was not called.
func (s *Stack) closed() error {
	if !s.conns.isClosed() {
		return nil
	}
	return fmt.Errorf("%s: stack is closed: %w", s.st.Name(), net.ErrClosed)
}

// Open makes a stack with the interface vde0 on the network vnl, with the given
// addresses ("10.0.0.50/24", "fc00::1:50/64"); loopback and vde0 are up, and the
// addresses usable when Open returns. An empty vnl gives a stack with loopback
// only. See package vdeplug for locators, and [New] for more. Close it when it is not
// needed any more.
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
	st, err := stack.New(ctx, stack.Config(cfg))
	if err != nil {
		return nil, err
	}
	s := &Stack{st: st}
	if err := s.resolve(st.DNS()); err != nil {
		st.Close()
		return nil, fmt.Errorf("%s: %w", st.Name(), err)
	}
	stacks.add(s)
	return s, nil
}

// Close ends the stack. It may be called twice, and with any other call; later calls
// report [net.ErrClosed].
//
//   - The functions of [Stack.BeforeClose] are called first.
//   - Commands are killed, connections and listeners closed, and plugs leave their
//     networks.
//   - Calls that wait return: with net.ErrClosed on connections and listeners that the
//     stack handed out; with an error or the end of the stream on accepted connections,
//     on sockets that joined by [Stack.Control] alone, and in child processes that
//     inherited a socket.
//   - Not ended are raw, packet and netlink sockets made by [Stack.Socket], unix
//     listeners that joined by Stack.Control alone, sockets of multipath TCP that only
//     another process has, and listeners that join by Stack.Control during Close. In a
//     namespace that was joined by path, only what the stack handed out is closed.
//   - When Close returns, all that is done, but for the interfaces, which take the
//     kernel long: they have left their networks, and vanish with the namespace when no
//     socket or process is in it any more. A program may exit before. Interfaces of a
//     namespace that was joined, or that NetNS has handed out, are gone when Close
//     returns.
func (s *Stack) Close() error {
	if err := s.check(); err != nil {
		return err
	}
	stacks.remove(s)
	s.beforeClose.run()
	s.conns.closeAll()
	return s.st.Close()
}

// Name returns the name that the stack was given, "stack" if it was given none.
func (s *Stack) Name() string { return s.core().Name() }

// String returns the name and the interfaces with their networks, such as
// "lab (vde0 mem://lan)", for logs.
func (s *Stack) String() string { return s.core().String() }

// Control is a Control function for [net.Dialer], [net.ListenConfig] and every library
// that lets its user set one: it moves the socket, which is neither bound nor connected
// yet, into the stack. The host has resolved names and zones before it is called;
// [Dialer] and [ListenConfig] resolve them in the stack.
func (s *Stack) Control(network, address string, c syscall.RawConn) error {
	return s.core().Control(network, address, c)
}

// ControlContext is [Stack.Control] for the ControlContext field.
func (s *Stack) ControlContext(ctx context.Context, network, address string, c syscall.RawConn) error {
	return s.core().ControlContext(ctx, network, address, c)
}

// Socket makes a socket of any domain, type and protocol in the stack, as
// socket(2). typ may contain SOCK_NONBLOCK. The file is close-on-exec and
// belongs to the caller. It replaces vde_msocket.
func (s *Stack) Socket(domain, typ, proto int) (*os.File, error) {
	return s.core().Socket(domain, typ, proto)
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
		return nil, s.closed()
	}
	return c, err
}

// Netlink opens a connection of any netlink family in the stack, such as
// unix.NETLINK_GENERIC, NETLINK_NETFILTER or NETLINK_SOCK_DIAG, for packages of messages
// that take a [netlink.Conn], as genetlink.NewConn does, and for messages of one's own.
// It belongs to the caller, and is closed with the stack: its errors are
// [net.ErrClosed] then, in a [netlink.OpError]. RTNL has links, addresses and routes.
func (s *Stack) Netlink(family int) (*netlink.Conn, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c, err := s.st.Netlink(family)
	if err == nil && !trackRef(&s.conns, c) {
		c.Close()
		return nil, s.closed()
	}
	return c, err
}

// Sysctl sets a setting of the stack, such as "net.ipv4.ip_forward" to "1".
// Parts are separated by dots or, where a part contains dots, by slashes. Only
// settings below net belong to a stack; others are refused.
func (s *Stack) Sysctl(name, value string) error {
	return s.core().Sysctl(name, value)
}

// ReadSysctl returns a setting of the stack, such as "net.ipv4.ip_forward", named as
// for [Stack.Sysctl]. Several values are separated as the kernel does it, by tabs or
// line ends; the last line end is left out. The error is [fs.ErrNotExist] where the
// kernel does not have the setting.
func (s *Stack) ReadSysctl(name string) (string, error) {
	return s.core().ReadSysctl(name)
}

// AddInterface makes an interface in a stack that is in use, as [New] makes those of
// [Config]:
//
//   - When it returns, the addresses are usable and Stats lists the interface last.
//   - ctx bounds the set-up, not the life of the interface.
//   - An error leaves nothing behind. It is an [*InterfaceError], and [fs.ErrExist] if the
//     name is taken; after Close it is [net.ErrClosed] only.
//   - It may be called with any other call. Close ends it, with [net.ErrClosed].
//   - A stack has one default route a family; RTNL adds others, with a metric.
//   - In a namespace that was joined, the interface is removed with the stack.
func (s *Stack) AddInterface(ctx context.Context, i Interface) error {
	return s.core().AddInterface(ctx, i)
}

// RemoveInterface removes an interface that New or AddInterface made. name is the name
// that it has now or, if no interface has that now, the name that it was made with.
//
//   - It leaves its network, its capture ends, and its addresses and routes go with it.
//   - Sockets stay open: connections from its addresses get no answers any more, as if a
//     card was pulled out, and end by their time limits.
//   - Name and default route are free when it returns.
//   - The error is [fs.ErrNotExist] if there is no such interface. After an error of the
//     network or the capture, the interface is gone all the same.
//   - Interfaces that others made are removed by [Stack.RTNL].
func (s *Stack) RemoveInterface(name string) error {
	return s.core().RemoveInterface(name)
}

// TUN makes an interface that carries IP packets, without Ethernet headers, for programs
// that are the network behind it: a VPN, a tunnel, another stack in user space. See
// [TUN.Read] and [TUN.Write].
//
//   - When it returns, the addresses are usable and Stats lists the interface last.
//   - Name, MTU and addresses obey the rules of AddInterface, and so do the errors.
//   - Routes to what is behind it are added by RTNL, without a gateway.
//   - RemoveInterface and Close of the TUN or of the stack end it.
//   - It takes /dev/net/tun; there is nothing in its place.
func (s *Stack) TUN(cfg TUNConfig) (*TUN, error) { return s.core().TUN(cfg) }

// SetDNS changes how names are resolved, for lookups, resolvers that were handed out
// before, and commands with Cmd.Names, which see their files change.
func (s *Stack) SetDNS(d DNS) error {
	if err := s.check(); err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	return s.setDNS(d)
}

// CompareAndSwapDNS is SetDNS for who changes what others set too. If the DNS is no longer
// old, it does nothing and returns false: another one has set it meanwhile. old is what DNS
// has returned.
//
//	for swapped := false; !swapped && err == nil; {
//		old := st.DNS()
//		d := old
//		d.Search = append(d.Search, "lab.example")
//		swapped, err = st.CompareAndSwapDNS(old, d)
//	}
func (s *Stack) CompareAndSwapDNS(old, new DNS) (swapped bool, err error) {
	if err := s.check(); err != nil {
		return false, err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	if !reflect.DeepEqual(s.st.DNS(), old) {
		return false, nil
	}
	err = s.setDNS(new)
	return err == nil, err
}

// setDNS sets the DNS. s.setting is held.
func (s *Stack) setDNS(d DNS) error {
	if err := s.st.SetDNS(d); err != nil {
		return err
	}
	return s.resolve(s.st.DNS())
}

// DNS returns how names are resolved: a copy of Config.DNS, or of what SetDNS was given.
func (s *Stack) DNS() DNS { return s.core().DNS() }

// NetNS returns a descriptor of the stack's network namespace, for setns of
// other libraries and programs. It belongs to the caller, and keeps the
// namespace alive, but not its interfaces, when the stack is closed. A program
// without privilege first enters the user namespace that owns it, as
// ioctl_ns(2) gives it: "nsenter --user --net".
func (s *Stack) NetNS() (*os.File, error) {
	return s.core().NetNS()
}

// Emulator returns the controller of the netemu network under an interface, which
// changes delay, loss and the like while it is in use. ifname is as for
// [Stack.RemoveInterface]. It is an error if there is no such network.
func (s *Stack) Emulator(ifname string) (*vdeplug.Emulator, error) {
	return s.core().Emulator(ifname)
}

// Stats returns the counters of the interfaces. After Close, it returns the last ones.
func (s *Stack) Stats() Stats { return s.core().Stats() }

// SocketStats returns what the kernel counts of the sockets of the stack: how many there are,
// retransmissions, connections refused. It takes some 0.2 ms. After Close, the error is
// [net.ErrClosed].
func (s *Stack) SocketStats() (SocketStats, error) { return s.core().SocketStats() }

// defaultStack is the stack of the package functions; nil is the host.
var defaultStack atomic.Pointer[Stack]

// SetDefault makes s the stack of the functions [Dial], [DialContext], [Listen] and
// [ListenPacket] of this package, not of package net; nil means the host. It replaces
// vde_default_stack. A default stack that is closed stays the default: the
// functions then return errors until SetDefault is called again.
func SetDefault(s *Stack) { defaultStack.Store(s) }

// Default returns the stack of the package functions; nil is the host.
func Default() *Stack { return defaultStack.Load() }
