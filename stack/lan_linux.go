//go:build amd64 || arm64

package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
)

// The schemes of networks that the kernel switches. An interface on one is an
// end of a veth pair, whose other end is a port of a bridge in a namespace that
// belongs to the network alone; between stacks no frame enters user space.
// mem://NAME also has the plugs of package vdeplug, by an uplink; lan://NAME has
// none, and fails where the kernel cannot do it.
const (
	lanScheme = "lan"
	memScheme = "mem"
)

// Variables for tests.
var (
	// bridgePorts is how many interfaces a bridge gets. The kernel has numbers
	// for 1023 ports; what is left joins bridges and takes the uplink.
	bridgePorts = 1000
	// maxBridges is the first bridge and those joined to it.
	maxBridges = 20

	addLink = (*rtnl.Conn).LinkAdd
)

const (
	// smallLAN is how many interfaces may speak without being asked; a thousand
	// would keep the kernel busy.
	smallLAN = 32
	// portMTU is the MTU of what carries frames of all interfaces: bridges, ports,
	// what joins bridges, and the uplink. The MTU of a stack is its own affair.
	portMTU = vdeplug.MaxMTU
	// lanQueues is how many queues a veth interface has. They have no use here:
	// packets are handed to the other end at once.
	lanQueues = 1
)

// errNoLAN says that the kernel lacks what a lan is made of.
var errNoLAN = errors.New("mem:// does without, more slowly")

// explainLAN says what to do where the kernel does not know a kind of interface.
func explainLAN(err error, kind string) error {
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return fmt.Errorf("%w (the kernel has no %s interfaces: modprobe %s; %w)", err, kind, kind, errNoLAN)
}

// lans are the networks of the process.
var lans = struct {
	mu  sync.Mutex // guards all; held while a network is made or ended
	all map[string]*lan
}{all: make(map[string]*lan)}

// A lan is a bridge in a namespace of its own, and more bridges around it when
// it has more ports than one can have.
type lan struct {
	vnl    string
	ns     *netns.NS
	nl     *rtnl.Conn
	users  int          // guarded by lans.mu
	root   int          // index of the first bridge
	number atomic.Int32 // of the last interface made here; they are never used again
	detach func()       // ends the uplink; nil: there can be none
	ending atomic.Bool
	hosts  hosts

	mu      sync.Mutex // guards what follows; held while a bridge is made
	bridges []lanBridge
	loud    []lanPort // abandoned, and not yet silenced
	leaving []lanPort // abandoned, and maybe there yet
	reaper  *time.Timer

	silencing sync.Mutex // held while ports are silenced; before mu
}

type lanBridge struct {
	index int
	ports int // of interfaces
}

// A lanPort is the end of an interface that is a port of a bridge.
type lanPort struct {
	index  int
	bridge int // its place in the list
}

// joinLAN returns the network of a locator, made at the first call, for leave to
// give back.
func joinLAN(l vdeplug.Locator) (_ *lan, err error) {
	lans.mu.Lock()
	defer lans.mu.Unlock()
	n := lans.all[l.String()]
	if n == nil {
		if n, err = newLAN(l); err != nil {
			return nil, fmt.Errorf("making the network %s: %w", l, err)
		}
		lans.all[n.vnl] = n
	}
	n.users++
	return n, nil
}

// leave gives the network back. The last one ends it.
func (n *lan) leave() error {
	lans.mu.Lock()
	defer lans.mu.Unlock()
	if n.users--; n.users > 0 {
		return nil
	}
	delete(lans.all, n.vnl)
	return n.close()
}

// close ends the network. The kernel removes what is in the namespace, and the
// other ends, in its own time.
func (n *lan) close() error {
	n.ending.Store(true)
	if n.detach != nil {
		n.detach()
	}
	n.mu.Lock()
	if n.reaper != nil {
		n.reaper.Stop()
	}
	n.mu.Unlock()
	var err error
	if n.nl != nil {
		err = n.nl.Close()
	}
	return errors.Join(err, n.ns.Close())
}

// newHub makes a network without a bridge.
func newHub(vnl string) (_ *lan, err error) {
	n := &lan{vnl: vnl}
	n.number.Store(firstIndex - 1)
	if n.ns, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if err := n.quiet(); err != nil {
		return nil, err
	}
	n.nl, err = dialNetlink(n)
	return n, err
}

func newLAN(l vdeplug.Locator) (_ *lan, err error) {
	n, err := newHub(l.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	n.mu.Lock()
	_, err = n.addBridge()
	n.mu.Unlock()
	if err != nil {
		return nil, explainLAN(err, "bridge")
	}
	if l.Scheme() == memScheme {
		n.detach, err = memnet.Attach(l.Body(), &uplink{lan: n})
	}
	return n, err
}

// quiet keeps the network's namespace out of the traffic: it has no addresses,
// and no rules for packets. What the kernel does not have, or a container keeps
// read-only, costs time and does no harm.
func (n *lan) quiet() error {
	s := &Stack{name: n.vnl, ns: n.ns} // its Sysctl, not more
	for _, set := range []struct{ name, value string }{
		// A bridge and its ports would have link-local addresses.
		{"net.ipv6.conf.default.disable_ipv6", "1"},
		// Each packet would be looked at as a router does, a tenth of the time.
		{"net.bridge.bridge-nf-call-iptables", "0"},
		{"net.bridge.bridge-nf-call-ip6tables", "0"},
		{"net.bridge.bridge-nf-call-arptables", "0"},
	} {
		err := s.Sysctl(set.name, set.value)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

// Socket makes a socket in the namespace of the network, for rtnl.
func (n *lan) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := n.socket(domain, typ, proto)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket:"+n.vnl), nil
}

// socket is Socket without a file. The network may be older than the helper task
// of its newest stacks.
func (n *lan) socket(domain, typ, proto int) (fd int, err error) {
	if err := n.ns.Renew(); err != nil {
		return -1, err
	}
	return n.ns.Socket(domain, typ, proto)
}

// next returns the index of a new interface in the namespace of the network.
func (n *lan) next() int { return int(n.number.Add(1)) }

// addBridge makes a bridge, and joins it to the first one. n.mu is held.
func (n *lan) addBridge() (place int, err error) {
	flag := func(typ uint16, on byte) netlink.Attribute { return netlink.Attribute{Type: typ, Data: []byte{on}} }
	place = len(n.bridges)
	index, err := addLink(n.nl, rtnl.LinkSpec{
		Name: fmt.Sprintf("bridge%d", place), Index: n.next(), Kind: "bridge", MTU: portMTU, Up: true,
		Data: []netlink.Attribute{
			// Multicast goes to all: plugs do not tell which they want.
			flag(unix.IFLA_BR_MCAST_SNOOPING, 0),
			// So do the frames that a bridge keeps to itself, as LLDP, but for
			// the three kinds that it must.
			{Type: unix.IFLA_BR_GROUP_FWD_MASK, Data: binary.NativeEndian.AppendUint16(nil, 0xfff8)},
			// Not through the rules for packets, see quiet.
			flag(unix.IFLA_BR_NF_CALL_IPTABLES, 0),
			flag(unix.IFLA_BR_NF_CALL_IP6TABLES, 0),
			flag(unix.IFLA_BR_NF_CALL_ARPTABLES, 0),
		},
	})
	if err != nil {
		return 0, err
	}
	if place == 0 {
		n.root = index
	} else {
		if err := n.join(n.root, index); err != nil {
			return 0, errors.Join(err, n.nl.LinkDel(index))
		}
	}
	n.bridges = append(n.bridges, lanBridge{index: index})
	return place, nil
}

// join makes a cable from one bridge to another.
func (n *lan) join(a, b int) error {
	near, far := n.next(), n.next()
	_, err := addLink(n.nl, rtnl.LinkSpec{
		Name: fmt.Sprintf("port%d", near), Index: near, Kind: "veth", Master: a, MTU: portMTU, Queues: lanQueues, Up: true,
		Peer: &rtnl.LinkSpec{Name: fmt.Sprintf("port%d", far), Index: far, MTU: portMTU, Queues: lanQueues},
	})
	if err != nil {
		return err
	}
	err = n.nl.LinkSetMaster(far, b)
	if err == nil {
		err = n.nl.LinkSetUp(far)
	}
	if err == nil {
		err = errors.Join(n.await(near), n.await(far))
	}
	if err != nil {
		return errors.Join(err, n.nl.LinkDel(near))
	}
	return nil
}

// await waits until a bridge forwards the frames of a port, whose both ends are
// up.
func (n *lan) await(port int) error {
	_, err := await(n.nl, port)
	return err
}

// await waits until an end of a veth pair, whose both ends are up, has a carrier.
// The kernel's news of it reaches its bridge, or its addresses, later; since Linux
// 6.3 the question brings it there.
func await(nl *rtnl.Conn, index int) (l rtnl.Link, err error) {
	for wait := 50 * time.Microsecond; wait < localWait; wait *= 2 {
		if l, err = nl.Link(index); err != nil || l.OperState == rtnl.OperUp {
			return l, err
		}
		time.Sleep(wait)
	}
	return l, nil
}

// reserve finds a bridge with room for another interface.
func (n *lan) reserve() (place, bridge int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	place = slices.IndexFunc(n.bridges, func(b lanBridge) bool { return b.ports < bridgePorts })
	if place < 0 {
		if len(n.bridges) == maxBridges {
			return 0, 0, fmt.Errorf("the network has %d interfaces, more do not fit", maxBridges*bridgePorts)
		}
		if place, err = n.addBridge(); err != nil {
			return 0, 0, err
		}
	}
	n.bridges[place].ports++
	return place, n.bridges[place].index, nil
}

func (n *lan) unreserve(place int) {
	n.mu.Lock()
	n.bridges[place].ports--
	n.mu.Unlock()
}

// plug makes the interface cfg of a stack, down, with its other end as a port of
// the network. It returns the index of the interface too, 0 if that is not known.
func (n *lan) plug(ctx context.Context, s *Stack, nl *rtnl.Conn, cfg Interface) (_ lanPort, index int, err error) {
	ns, err := s.ns.File()
	if err != nil {
		return lanPort{}, 0, err
	}
	defer ns.Close()
	n.silence()
	place, bridge, err := n.reserve()
	if err != nil {
		return lanPort{}, 0, err
	}
	number := n.next()
	spec := rtnl.LinkSpec{
		Name: fmt.Sprintf("port%d", number), Index: number, Kind: "veth", Master: bridge, MTU: portMTU, Queues: lanQueues, Up: true,
		Peer: &rtnl.LinkSpec{Name: cfg.Name, Index: firstIndex + len(s.ifaces), MTU: cfg.MTU, MAC: cfg.MAC, Queues: lanQueues, NetNS: ns},
	}
	_, err = addLink(n.nl, spec)
	if errors.Is(err, unix.EBUSY) || s.joined && errors.Is(err, unix.EEXIST) {
		// A joined namespace can have the index already: 0 lets the kernel choose.
		spec.Peer.Index = 0
		err = retryTaken(ctx, nl, cfg.Name, func() error { _, err := addLink(n.nl, spec); return err })
	}
	if err != nil {
		n.unreserve(place)
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w (%s)", err, taken)
		}
		return lanPort{}, 0, explainLAN(err, "veth")
	}
	return lanPort{number, place}, spec.Peer.Index, nil
}

// retryTaken calls add until there is no interface of the same name in a joined
// namespace. One of a network whose program was killed is removed by the kernel
// in its own time, so a veth interface gets two seconds to go.
func retryTaken(ctx context.Context, nl *rtnl.Conn, name string, add func() error) error {
	limit := time.Now().Add(2 * time.Second)
	for {
		err := add()
		if !errors.Is(err, unix.EEXIST) || time.Now().After(limit) || ctx.Err() != nil {
			return err
		}
		if index, ierr := nl.IfNameToIndex(name); ierr == nil {
			if l, lerr := nl.Link(index); lerr == nil && l.Kind != "veth" {
				return err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// remove removes a port and the interface at its other end. It takes the kernel
// some ten milliseconds.
func (n *lan) remove(p lanPort) error {
	err := n.nl.LinkDel(p.index)
	if err == nil || errors.Is(err, unix.ENODEV) {
		n.unreserve(p.bridge)
		return nil
	}
	return err
}

// abandon leaves a port to the kernel, which removes it with the namespace of
// its stack. It waits for nothing: the kernel can be busy with interfaces for
// long.
func (n *lan) abandon(p lanPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loud = append(n.loud, p)
	if n.reaper == nil {
		n.reaper = time.AfterFunc(reapDelay, n.reap)
	}
}

// silence keeps from the stacks of abandoned ports all that is not sent to them
// alone, before somebody joins who may have their addresses: they do not answer
// any more who looks for these. What they have sent, such as the resets of their
// connections, still arrives.
func (n *lan) silence() {
	n.silencing.Lock()
	defer n.silencing.Unlock()
	n.mu.Lock()
	loud := n.loud
	n.loud = nil
	n.leaving = append(n.leaving, loud...)
	n.mu.Unlock()
	for _, p := range loud {
		// An error is that of a port or a network that is gone.
		n.flood(p.index, false, func(link, _ *netlink.AttributeEncoder) { link.Uint32(unix.IFLA_GROUP, leavingGroup) })
	}
}

// flood says whether a port of a bridge gets the frames that go to all. more
// adds attributes of the port's interface and of the port.
func (n *lan) flood(index int, on bool, more func(link, port *netlink.AttributeEncoder)) error {
	return n.change(unix.RTM_NEWLINK, index, func(link *netlink.AttributeEncoder) {
		link.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
			info.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
			info.Nested(unix.IFLA_INFO_SLAVE_DATA, func(port *netlink.AttributeEncoder) error {
				for _, to := range []uint16{unix.IFLA_BRPORT_UNICAST_FLOOD, unix.IFLA_BRPORT_MCAST_FLOOD, unix.IFLA_BRPORT_BCAST_FLOOD} {
					if on {
						port.Uint8(to, 1)
					} else {
						port.Uint8(to, 0)
					}
				}
				more(link, port)
				return nil
			})
			return nil
		})
	})
}

const (
	// leavingGroup is the kernel's mark of the ports that were abandoned.
	leavingGroup = 1
	// reapDelay is how long the kernel has for what it does by itself.
	reapDelay = time.Second
)

// reaping is held by what goes on behind Close: one thread waits for the kernel,
// whatever the number of networks.
var reaping sync.Mutex

// reap removes the abandoned ports that are still there, because the program or
// a command has a descriptor in the namespace. The kernel needs for all of them
// not much longer than for one.
func (n *lan) reap() {
	reaping.Lock()
	defer reaping.Unlock()
	n.silence()
	n.mu.Lock()
	leaving := n.leaving
	n.leaving, n.reaper = nil, nil
	n.mu.Unlock()
	left := slices.ContainsFunc(leaving, func(p lanPort) bool {
		_, err := n.nl.Link(p.index)
		return !errors.Is(err, unix.ENODEV)
	})
	if left {
		err := n.change(unix.RTM_DELLINK, 0, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_GROUP, leavingGroup) })
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
	for _, p := range leaving {
		n.unreserve(p.bridge)
	}
}

// change sends a request about an interface of the network's namespace that
// package rtnl has no method for.
func (n *lan) change(typ netlink.HeaderType, index int, attrs func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	body, err := ae.Encode()
	if err != nil {
		return err
	}
	info := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(info[4:], uint32(index))
	_, err = n.nl.Execute(netlink.Message{Header: netlink.Header{Type: typ}, Data: append(info, body...)})
	return err
}

// newLANIface makes an interface on a network of the kernel. It returns nil if
// the locator is not of one, or, for mem://, the kernel has none.
func (s *Stack) newLANIface(ctx context.Context, nl *rtnl.Conn, cfg Interface) (_ *iface, err error) {
	l, err := vdeplug.Parse(cfg.VNL)
	mem := l.Scheme() == memScheme
	if err != nil || l.Scheme() != lanScheme && !mem || mem && memnet.UserSpace.Load() {
		return nil, nil
	}
	if err := context.Cause(ctx); err != nil {
		return nil, &vdeplug.Error{Op: "open", VNL: cfg.VNL, Err: err}
	}
	i := &iface{s: s, cfg: cfg}
	defer func() {
		if err == nil {
			return
		}
		i.leave()
		if mem && errors.Is(err, errNoLAN) {
			memnet.UserSpace.Store(true) // it will not have it the next time
			s.log.Debug("the network is switched in user space", "interface", cfg.Name, "reason", err)
			err = nil
		}
	}()
	if i.lan, err = joinLAN(l); err != nil {
		return nil, err
	}
	if i.port, i.index, err = i.lan.plug(ctx, s, nl, cfg); err != nil {
		return nil, err
	}
	if i.port.index-firstIndex > smallLAN {
		// Hosts would ask for routers for ever, less and less often, which
		// wakes all others each time. RFC 4861 asks three times.
		s.Sysctl("net/ipv6/conf/"+cfg.Name+"/router_solicitations", "3")
	}
	if err := i.startCapture(nl); err != nil {
		return i, err
	}
	if err := i.configure(ctx, nl); err != nil {
		return i, err
	}
	i.lan.hosts.add(i)
	if cfg.Down {
		return i, nil
	}
	return i, i.lan.await(i.port.index)
}

// lanStats are the kernel's counters of the interface; of one that is closed,
// the last ones.
func (i *iface) lanStats() InterfaceStats {
	if last := i.lanLast.Load(); last != nil {
		return *last
	}
	st := InterfaceStats{Name: i.cfg.Name, Index: i.index, VNL: i.cfg.VNL}
	if err := i.readCounters(&st); err != nil && !errors.Is(err, net.ErrClosed) {
		st.Err = err
	}
	return st
}

// readCounters reads the name and the counters of the interface. Not by netlink,
// which waits when the kernel is busy with interfaces.
func (i *iface) readCounters(st *InterfaceStats) error {
	socket, err := i.s.ns.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	fd, err := i.s.ns.Open("/proc/net/dev", unix.O_RDONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "/proc/net/dev")
	defer f.Close()
	for range renames {
		name, err := netns.IfName(socket, i.index)
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("interface %s: %w", i.cfg.Name, nic.ErrRemoved)
		}
		var text []byte
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err == nil {
			text, err = io.ReadAll(f)
		}
		if err != nil {
			return err
		}
		// The file has names: they must have been the same before and after.
		if after, err := netns.IfName(socket, i.index); err != nil || after != name || !st.decode(string(text), name) {
			continue
		}
		st.Name = name
		return nil
	}
	return fmt.Errorf("interface %s gets new names all the time", i.cfg.Name)
}

// renames bounds how often the counters are read while the interface is renamed.
const renames = 10

// decode reads the counters of the interface with a name in /proc/net/dev, and
// reports false if it is not there.
func (st *InterfaceStats) decode(text, name string) bool {
	for line := range strings.Lines(text) {
		who, counters, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || who != name {
			continue
		}
		// Received and sent: bytes, packets, errs, drop, fifo, frame, compressed,
		// multicast; the second with its own words for the last four.
		var k [12]uint64
		for at, field := range strings.Fields(counters) {
			if at < len(k) {
				k[at], _ = strconv.ParseUint(field, 10, 64)
			}
		}
		st.RxBytes, st.RxFrames, st.RxDropped = k[0], k[1], k[3]
		st.TxBytes, st.TxFrames, st.TxDropped = k[8], k[9], k[11]
		return true
	}
	return false
}

// closeLAN leaves the network. The interface goes with its namespace, unless
// others have that too.
func (i *iface) closeLAN() error {
	var err error
	if i.port.index != 0 {
		if i.s.joined || i.s.lent.Load() {
			err = i.lan.remove(i.port)
		} else {
			i.lan.abandon(i.port)
		}
	}
	if i.lan != nil {
		i.lan.hosts.drop(i)
		err = errors.Join(err, i.lan.leave())
	}
	return err
}

// keepStats keeps the counters for after Close.
func (i *iface) keepStats() {
	if i.lan != nil {
		last := i.lanStats()
		i.lanLast.Store(&last)
	}
}
