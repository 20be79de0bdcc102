//go:build amd64 || arm64

package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/rendezvous"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// Variables for tests.
var (
	// bridgePorts is how many interfaces a bridge takes. The kernel has numbers for 1023
	// ports; the rest joins bridges and takes the uplink.
	bridgePorts = 1000
	// maxBridges counts the first bridge and those joined to it.
	maxBridges = 20
)

// ErrMissing says that the kernel lacks what a switch is made of.
var ErrMissing = errors.New("mem:// does without, more slowly")

// explainMissing is Explain with an error that is ErrMissing.
func explainMissing(err error, kind string) error {
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return missingError{&netns.Explained{Err: err, Reason: missing(kind) + "; " + ErrMissing.Error(), Refused: true}}
}

type missingError struct{ *netns.Explained }

func (e missingError) Unwrap() []error { return []error{e.Explained, ErrMissing} }

// switches are the switches of the process.
var switches = struct {
	mu  sync.Mutex // guards all; held while a switch is made or ended
	all map[string]*Switch
}{all: make(map[string]*Switch)}

// A Switch is a bridge in a namespace of its own, with more bridges around it if it needs
// more ports.
type Switch struct {
	*hub
	users  int // guarded by switches.mu
	root   int // index of the first bridge
	uplink *uplink
	detach func() // ends the uplink; nil: there can be none
	ending atomic.Bool
	lent   atomic.Bool // others were in the namespace of a stack
	hosts  hosts

	// Of a switch that other processes share:
	path   string // of the rendezvous; "": no other process has it
	member *rendezvous.Member

	mu      sync.Mutex // guards the fields below; held while a bridge is made
	bridges []segment
	loud    []*Port // abandoned, and not yet silenced
	leaving []*Port // abandoned and silenced, and perhaps not removed yet
	reaper  *time.Timer

	silencing sync.Mutex // held while ports are silenced; before mu
}

// A segment is one of the bridges.
type segment struct {
	index int
	ports int // of interfaces
}

// join returns the switch with a name, which is made at the first call. The caller
// leaves it. attach, if it is not nil, gives a new switch its uplink.
func join(name string, attach func(memnet.Uplink) (detach func(), err error)) (_ *Switch, err error) {
	switches.mu.Lock()
	defer switches.mu.Unlock()
	s := switches.all[name]
	if s == nil {
		if s, err = newSwitch(name, attach); err != nil {
			return nil, fmt.Errorf("making the network %s: %w", name, err)
		}
		switches.all[name] = s
	}
	s.users++
	lastJoined.Store(s)
	return s, nil
}

// leave ends a use of the switch. The last one closes it.
func (s *Switch) leave() error {
	if s.path != "" {
		return s.leaveShared()
	}
	switches.mu.Lock()
	defer switches.mu.Unlock()
	if s.users--; s.users > 0 {
		return nil
	}
	delete(switches.all, s.name)
	return s.close()
}

// close ends the switch, but may leave its hub to the next one.
func (s *Switch) close() error {
	s.ending.Store(true)
	if s.detach != nil {
		s.detach()
	}
	if s.spare() {
		return nil
	}
	s.mu.Lock()
	if s.reaper != nil {
		s.reaper.Stop()
	}
	s.mu.Unlock()
	return s.hub.close()
}

func newSwitch(name string, attach func(memnet.Uplink) (detach func(), err error)) (_ *Switch, err error) {
	s := takeSpare()
	if s == nil {
		s = &Switch{hub: &hub{}}
		if err := s.open(name); err != nil {
			return nil, err
		}
		s.mu.Lock()
		_, err = s.addBridge()
		s.mu.Unlock()
	}
	s.name = name
	if err != nil {
		err = explainMissing(err, "bridge")
	} else if attach != nil {
		s.uplink = &uplink{sw: s}
		s.detach, err = attach(s.uplink)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// addBridge makes a bridge, and joins it to the first one. s.mu is held.
func (s *Switch) addBridge() (place int, err error) {
	flag := func(typ uint16, on byte) netlink.Attribute { return netlink.Attribute{Type: typ, Data: []byte{on}} }
	place = len(s.bridges)
	index, err := addLink(s.nl, rtnl.LinkSpec{
		Name: fmt.Sprintf("bridge%d", place), Index: s.next(), Kind: "bridge", MTU: portMTU, Up: true,
		Data: []netlink.Attribute{
			// Multicast goes to all: plugs do not tell which groups they want.
			flag(unix.IFLA_BR_MCAST_SNOOPING, 0),
			// So do frames that a bridge keeps to itself, such as LLDP, except for
			// three kinds that it must keep.
			{Type: unix.IFLA_BR_GROUP_FWD_MASK, Data: binary.NativeEndian.AppendUint16(nil, 0xfff8)},
			// Not through filters; see quiet.
			flag(unix.IFLA_BR_NF_CALL_IPTABLES, 0),
			flag(unix.IFLA_BR_NF_CALL_IP6TABLES, 0),
			flag(unix.IFLA_BR_NF_CALL_ARPTABLES, 0),
		},
	})
	if err != nil {
		return 0, err
	}
	if place == 0 {
		s.root = index
	} else {
		if err := s.connect(s.root, index); err != nil {
			return 0, errors.Join(err, s.nl.LinkDel(index))
		}
	}
	s.bridges = append(s.bridges, segment{index: index})
	return place, nil
}

// connect joins two bridges by a veth pair.
func (s *Switch) connect(a, b int) error {
	near, far, err := s.addPair("port", a)
	if err != nil {
		return err
	}
	err = s.nl.LinkSetMaster(far, b)
	if err == nil {
		err = s.nl.LinkSetUp(far)
	}
	for _, end := range []int{near, far} {
		if err == nil {
			_, err = AwaitCarrier(context.Background(), s.nl, end)
		}
	}
	if err != nil {
		return errors.Join(err, s.nl.LinkDel(near))
	}
	return nil
}

// reserve finds a bridge with room for another interface.
func (s *Switch) reserve() (place, bridge int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	place = slices.IndexFunc(s.bridges, func(b segment) bool { return b.ports < bridgePorts })
	if place < 0 {
		if len(s.bridges) == maxBridges {
			return 0, 0, fmt.Errorf("the network has %d interfaces, more do not fit", maxBridges*bridgePorts)
		}
		if place, err = s.addBridge(); err != nil {
			return 0, 0, err
		}
	}
	s.bridges[place].ports++
	return place, s.bridges[place].index, nil
}

func (s *Switch) unreserve(place int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		s.bridges[place].ports--
	}
}

// abandon leaves a port to the kernel, which removes it with the namespace of its
// stack. It does not wait: the kernel can be busy with interfaces for long.
func (s *Switch) abandon(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loud = append(s.loud, p)
	if s.reaper == nil {
		s.reaper = time.AfterFunc(reapDelay, s.reap)
	}
}

// silence stops flooding to abandoned ports, before a stack with their addresses may
// join: closed stacks cannot answer ARP or neighbour discovery any more. Frames that
// they have sent, such as resets of their connections, still arrive.
func (s *Switch) silence() {
	s.silencing.Lock()
	defer s.silencing.Unlock()
	s.mu.Lock()
	loud := s.loud
	s.loud = nil
	s.leaving = append(s.leaving, loud...)
	s.mu.Unlock()
	for _, p := range loud {
		// It fails if the port or the network is gone.
		s.flood(p.index, 0, func(link, _ *netlink.AttributeEncoder) { link.Uint32(unix.IFLA_GROUP, leavingGroup) })
	}
}

// flood sets whether a port of a bridge gets frames that go to all: 1, or 0 for not. more
// adds attributes of the port's interface and of the port.
func (s *Switch) flood(index int, on uint8, more func(link, port *netlink.AttributeEncoder)) error {
	return s.change(unix.RTM_NEWLINK, index, func(link *netlink.AttributeEncoder) {
		link.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
			info.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
			info.Nested(unix.IFLA_INFO_SLAVE_DATA, func(port *netlink.AttributeEncoder) error {
				for _, to := range []uint16{unix.IFLA_BRPORT_UNICAST_FLOOD, unix.IFLA_BRPORT_MCAST_FLOOD, unix.IFLA_BRPORT_BCAST_FLOOD} {
					port.Uint8(to, on)
				}
				more(link, port)
				return nil
			})
			return nil
		})
	})
}

// leavingGroup is the kernel's mark of the ports that were abandoned.
const leavingGroup = 1

// reap removes abandoned ports that are left because the program or a command has a
// descriptor in the namespace. The kernel needs not much longer for all of them than for
// one.
func (s *Switch) reap() {
	reaping.Lock()
	defer reaping.Unlock()
	s.silence()
	s.mu.Lock()
	leaving := s.leaving
	s.leaving, s.reaper = nil, nil
	s.mu.Unlock()
	left := slices.ContainsFunc(leaving, func(p *Port) bool {
		_, err := s.nl.Link(p.index)
		return !errors.Is(err, unix.ENODEV)
	})
	if left {
		err := s.change(unix.RTM_DELLINK, 0, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_GROUP, leavingGroup) })
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
	for _, p := range leaving {
		s.unreserve(p.place)
	}
}

// A Port is the other end of an interface of a stack, in a switch.
type Port struct {
	sw    *Switch
	ns    *netns.NS // of the stack
	index int
	place int // of its bridge in the list
	host  *host
	awake bool // the bridge forwards its frames
}

// Plug makes an interface of a stack, down, on the named network. attach, if it is not
// nil, gives a new network its uplink. loose, if it is not nil, is such an interface already;
// it is used, and up, or deleted. Plug also returns the index of the interface; 0 if unknown.
func Plug(ctx context.Context, name string, attach func(memnet.Uplink) (detach func(), err error), end End, loose *Loose) (_ *Port, index int, err error) {
	s, err := join(name, attach)
	if err != nil {
		return nil, 0, err
	}
	return s.plug(ctx, end, loose)
}

// plug is Plug on a switch that was joined, which it leaves after an error.
func (s *Switch) plug(ctx context.Context, end End, loose *Loose) (_ *Port, index int, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.leave())
		}
	}()
	s.silence()
	if s.path != "" {
		return s.plugShared(ctx, end)
	}
	if loose != nil {
		if !s.uplink.plugged() && loose.Fits(Place{s.hub}, end) {
			p, err := s.plugLoose(loose)
			return p, end.Index, err
		}
		end.Netlink.LinkDel(end.Index)
	}
	place, bridge, err := s.reserve()
	if err != nil {
		return nil, 0, err
	}
	p := &Port{sw: s, ns: end.NS, index: s.next(), place: place}
	_, index, err = s.addEnd(ctx, rtnl.LinkSpec{Name: fmt.Sprintf("port%d", p.index), Index: p.index, Master: bridge}, end)
	if err != nil {
		s.unreserve(place)
		return nil, 0, explainMissing(err, "veth")
	}
	return p, index, nil
}

// Awake reports whether the interface is up, and the bridge forwards its frames.
func (p *Port) Awake() bool { return p.awake }

// Await waits until the bridge forwards the frames of the port, whose interface is up.
func (p *Port) Await(ctx context.Context) error {
	if p.awake {
		return nil
	}
	_, err := AwaitCarrier(ctx, p.sw.nl, p.index)
	return err
}

// Leave leaves the network. With remove, the interface is gone when it returns; otherwise
// the kernel removes it with the namespace of its stack.
func (p *Port) Leave(remove bool) error {
	var err error
	if !remove {
		p.sw.abandon(p)
	} else if err = p.sw.delete(p.index); err == nil {
		p.sw.unreserve(p.place)
	}
	if p.host != nil {
		p.sw.hosts.drop(p.host)
	}
	if p.ns.Lent() {
		p.sw.lent.Store(true)
	}
	return errors.Join(err, p.sw.leave())
}
