//go:build amd64 || arm64

package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// lanScheme is the scheme of networks that the kernel switches: lan://NAME
// joins the stacks of the process that give the same name. A stack's interface
// is then an end of a veth pair, whose other end is a port of a bridge in a
// namespace that belongs to the network alone; no frame enters user space.
const lanScheme = "lan://"

func init() {
	vdeplug.Register("lan", func(_ context.Context, l vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
		return nil, fmt.Errorf("%q joins the interfaces of stacks, and has no plugs (mem:// has): %w", l, errors.ErrUnsupported)
	})
}

// lans are the networks of the process.
var lans = struct {
	mu  sync.Mutex // guards all; held while a network is made or ended
	all map[string]*lan
}{all: make(map[string]*lan)}

// A lan is a bridge in a namespace of its own.
type lan struct {
	name   string
	ns     *netns.NS
	nl     *rtnl.Conn
	bridge int
	users  int
	ports  int // made so far; numbers them
}

// joinLAN returns the network, made at the first call, for leave to give back.
func joinLAN(name string) (_ *lan, err error) {
	lans.mu.Lock()
	defer lans.mu.Unlock()
	l := lans.all[name]
	if l == nil {
		if l, err = newLAN(name); err != nil {
			return nil, fmt.Errorf("making the network %s%s: %w", lanScheme, name, err)
		}
		lans.all[name] = l
	}
	l.users++
	return l, nil
}

// leave gives the network back. The last one ends it.
func (l *lan) leave() error {
	lans.mu.Lock()
	defer lans.mu.Unlock()
	if l.users--; l.users > 0 {
		return nil
	}
	delete(lans.all, l.name)
	return l.close()
}

func (l *lan) close() error {
	var err error
	if l.nl != nil {
		err = l.nl.Close()
	}
	return errors.Join(err, l.ns.Close())
}

func newLAN(name string) (_ *lan, err error) {
	l := &lan{name: name}
	if l.ns, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	// A bridge and its ports would otherwise take part in IPv6 themselves.
	quiet := &Stack{name: "lan " + name, ns: l.ns}
	if err := quiet.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if l.nl, err = rtnl.Dial(quiet); err != nil {
		return nil, err
	}
	l.bridge, err = l.nl.LinkAdd(rtnl.LinkSpec{Name: "lan", Kind: "bridge", MTU: vdeplug.MaxMTU})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("%w (the kernel has no bridges: modprobe bridge; mem:// does without)", err)
	}
	if err != nil {
		return nil, err
	}
	return l, l.nl.LinkSetUp(l.bridge)
}

// plug makes a port of the network, with the interface as its other end.
func (l *lan) plug(s *Stack, cfg Interface) (port int, err error) {
	ns, err := s.ns.File()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	lans.mu.Lock()
	l.ports++
	number := l.ports
	lans.mu.Unlock()
	spec := rtnl.LinkSpec{
		// The kernel takes an index for the peer only if it gets both.
		Name: fmt.Sprintf("port%d", number), Index: firstIndex + number, Kind: "veth", Master: l.bridge, MTU: cfg.MTU,
		Peer: &rtnl.LinkSpec{Name: cfg.Name, Index: firstIndex + len(s.ifaces), MTU: cfg.MTU, MAC: cfg.MAC, NetNS: ns},
	}
	port, err = l.nl.LinkAdd(spec)
	if errors.Is(err, unix.EBUSY) {
		// A joined namespace can have the index already: 0 lets the kernel choose.
		spec.Index, spec.Peer.Index = 0, 0
		port, err = l.nl.LinkAdd(spec)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("%w (the kernel has no veth interfaces: modprobe veth; mem:// does without)", err)
	}
	if errors.Is(err, unix.EXFULL) {
		return 0, fmt.Errorf("%w (the network has as many interfaces as a bridge has ports, 1023: mem:// has no limit)", err)
	}
	if err != nil {
		return 0, err
	}
	return port, l.nl.LinkSetUp(port)
}

// newLANIface makes an interface on a network of the kernel.
func (s *Stack) newLANIface(ctx context.Context, nl *rtnl.Conn, cfg Interface) (_ *iface, err error) {
	i := &iface{s: s, cfg: cfg}
	if i.lan, err = joinLAN(strings.TrimPrefix(cfg.VNL, lanScheme)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	if i.port, err = i.lan.plug(s, cfg); err != nil {
		return nil, err
	}
	return i, i.configure(ctx, nl)
}

// lanStats are the kernel's counters of the port, which sees the interface from
// the other side.
func (i *iface) lanStats(st *InterfaceStats) {
	link, err := i.lan.nl.Link(i.port)
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			st.Err = err
		}
		return
	}
	k := link.Stats
	st.TxFrames, st.TxBytes, st.TxDropped = k.RxPackets, k.RxBytes, k.RxDropped
	st.RxFrames, st.RxBytes, st.RxDropped = k.TxPackets, k.TxBytes, k.TxDropped
}

// closeLAN removes both ends of the pair and leaves the network.
func (i *iface) closeLAN() error {
	var err error
	if i.port != 0 {
		if err = i.lan.nl.LinkDel(i.port); errors.Is(err, unix.ENODEV) {
			err = nil // it went with the stack's namespace
		}
	}
	return errors.Join(err, i.lan.leave())
}
