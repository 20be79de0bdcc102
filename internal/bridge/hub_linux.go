//go:build amd64 || arm64

package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

const (
	// portMTU is the MTU of bridges, ports, the pairs between bridges, and the uplink,
	// which carry frames of all interfaces. Interfaces of stacks have their own.
	portMTU = ether.MaxMTU
	// vethQueues is how many queues a veth interface has. More would be useless:
	// packets are passed to the other end at once.
	vethQueues = 1
	// firstIndex is the index of the first interface in a hub.
	firstIndex = 1 << 20
	// carrierWait bounds the wait for a carrier.
	carrierWait = 30 * time.Second
)

// reapDelay is how long the kernel has to remove a pair together with the namespace of
// its stack. It is a variable for tests.
var reapDelay = time.Second

// addLink is a variable for tests.
var addLink = (*rtnl.Conn).LinkAdd

// reaping is held while abandoned pairs are removed in the background, so that only one
// thread waits for the kernel.
var reaping sync.Mutex

// An End is the end of a veth pair that becomes an interface of a stack.
type End struct {
	NS      *netns.NS
	Netlink *rtnl.Conn // in NS
	Shared  bool       // NS has interfaces of others too
	Name    string
	Index   int // the kernel chooses another one if it is in use
	MTU     int
	MAC     net.HardwareAddr // nil: random
}

// A hub is a namespace of the process that holds the far ends of stacks' interfaces.
type hub struct {
	name   string
	ns     *netns.NS
	nl     *rtnl.Conn
	common bool // other processes make interfaces here too
	ended  atomic.Bool
	number atomic.Int32 // index of the last interface made here; none is used twice
}

// open makes the namespace. An error leaves nothing.
func (h *hub) open(name string) error {
	ns, err := netns.NewAside()
	if err != nil {
		return err
	}
	return h.openIn(name, ns)
}

// openIn is open in a new namespace, which it takes over.
func (h *hub) openIn(name string, ns *netns.NS) error {
	h.name, h.ns = name, ns
	h.number.Store(firstIndex - 1)
	err := h.quiet()
	if err == nil {
		err = h.dial()
	}
	if err != nil {
		h.close()
		return err
	}
	h.ns.Refresh() // the sockets that nobody asks for
	return nil
}

// dial opens the connection to the hub.
func (h *hub) dial() (err error) {
	h.nl, err = netns.WithRoom(func() (*rtnl.Conn, error) { return rtnl.Dial(h) })
	return err
}

// close ends the namespace. The kernel removes what is in it, and the other ends of
// pairs, in its own time.
func (h *hub) close() error {
	h.ended.Store(true)
	if s := lastJoined.Load(); s != nil && s.hub == h {
		lastJoined.CompareAndSwap(s, nil)
	}
	var err error
	if h.nl != nil {
		err = h.nl.Close()
	}
	return errors.Join(err, h.ns.Close())
}

// quiet keeps the hub from sending packets of its own and from filtering packets.
// Settings that the kernel does not have, or that a container keeps read-only, only
// cost time.
func (h *hub) quiet() error {
	settings := []netns.Setting{
		// A bridge and its ports would have link-local addresses.
		{Path: "net/ipv6/conf/default/disable_ipv6", Value: "1"},
		// Each packet would go through the router's filters, a tenth of the time.
		{Path: "net/bridge/bridge-nf-call-iptables", Value: "0"},
		{Path: "net/bridge/bridge-nf-call-ip6tables", Value: "0"},
		{Path: "net/bridge/bridge-nf-call-arptables", Value: "0"},
	}
	for i, err := range h.ns.SetSysctls(settings...) {
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%s: setting %s=%s: %w", h.name, settings[i].Path, settings[i].Value, err)
		}
	}
	return nil
}

// Socket makes a socket in the hub, for rtnl.
func (h *hub) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := h.socket(domain, typ, proto)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket:"+h.name), nil
}

// socket is Socket without a file. The hub may be older than the helper task of its
// newest stacks.
func (h *hub) socket(domain, typ, proto int) (fd int, err error) {
	if err := h.ns.Renew(); err != nil {
		return -1, err
	}
	return h.ns.Socket(domain, typ, proto)
}

// next returns the index of a new interface in the hub.
func (h *hub) next() int {
	if h.common {
		return 2*firstIndex + rand.IntN(1<<30)
	}
	return int(h.number.Add(1))
}

// addEnd makes a veth pair: far in the hub, which is set up, and end in a stack, which is
// down. It returns the indexes of far and of the end; 0 if that is unknown.
func (h *hub) addEnd(ctx context.Context, far rtnl.LinkSpec, end End) (number, index int, err error) {
	ns, err := end.NS.File()
	if err != nil {
		return 0, 0, err
	}
	defer ns.Close()
	far.Kind, far.MTU, far.Queues, far.Up = "veth", portMTU, vethQueues, true
	far.Peer = &rtnl.LinkSpec{Name: end.Name, Index: end.Index, MTU: end.MTU, MAC: end.MAC, Queues: vethQueues, NetNS: ns}
	number, err = addLink(h.nl, far)
	if errors.Is(err, unix.EBUSY) || end.Shared && errors.Is(err, unix.EEXIST) {
		far.Peer.Index = 0
		if h.common {
			far.Name, far.Index = "port%d", 0 // it may be this one that is in use
		}
		err = retryTaken(ctx, end, func() (err error) { number, err = addLink(h.nl, far); return err })
	}
	return number, far.Peer.Index, err
}

// retryTaken calls add until a shared namespace has no interface of the same name. The
// kernel takes its time to remove the veth interfaces of a killed program: they have two
// seconds.
func retryTaken(ctx context.Context, end End, add func() error) error {
	limit := time.Now().Add(2 * time.Second)
	for {
		err := add()
		if !errors.Is(err, unix.EEXIST) || !end.Shared || time.Now().After(limit) || ctx.Err() != nil {
			return err
		}
		if index, ierr := end.Netlink.IfNameToIndex(end.Name); ierr == nil {
			if l, lerr := end.Netlink.Link(index); lerr == nil && l.Kind != "veth" {
				return err
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// addPair makes a veth pair within the hub, and sets the near end up.
func (h *hub) addPair(name string, master int) (near, far int, err error) {
	near, far = h.next(), h.next()
	_, err = addLink(h.nl, rtnl.LinkSpec{
		Name: fmt.Sprintf("port%d", near), Index: near, Kind: "veth", Master: master, MTU: portMTU, Queues: vethQueues, Up: true,
		Peer: &rtnl.LinkSpec{Name: fmt.Sprintf("%s%d", name, far), Index: far, MTU: portMTU, Queues: vethQueues},
	})
	return near, far, err
}

// delete removes a veth pair by its end in the hub, if that still exists. It takes the
// kernel some ten milliseconds.
func (h *hub) delete(index int) error {
	if err := h.nl.LinkDel(index); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// openFar opens the end of a veth pair in the hub.
func (h *hub) openFar(index int, o nic.Offload) (*nic.Device, error) {
	fd, err := h.socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	return nic.NewSocket(fd, index, o)
}

// change sends a request about an interface in the hub for which package rtnl has no
// method.
func (h *hub) change(typ netlink.HeaderType, index int, attrs func(*netlink.AttributeEncoder)) error {
	_, err := h.execute(netlink.Header{Type: typ}, index, attrs)
	return err
}

// execute is change, or another request, with its answer.
func (h *hub) execute(header netlink.Header, index int, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	body, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	info := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(info[4:], uint32(index))
	return h.nl.Execute(netlink.Message{Header: header, Data: append(info, body...)})
}

// AwaitCarrier waits until an end of a veth pair, both ends of which are up, has a
// carrier. The kernel tells the bridge of the end, or its addresses, later; since Linux
// 6.3, asking for the link makes it do so at once.
func AwaitCarrier(ctx context.Context, nl *rtnl.Conn, index int) (l rtnl.Link, err error) {
	for wait := 50 * time.Microsecond; wait < carrierWait; wait *= 2 {
		if l, err = nl.Link(index); err != nil || l.OperState == rtnl.OperUp {
			return l, err
		}
		select {
		case <-ctx.Done():
			return l, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
	return l, nil
}

// Explain says what to do where the kernel lacks a kind of interface.
func Explain(err error, kind string) error {
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return &netns.Explained{Err: err, Reason: missing(kind), Refused: true}
}

func missing(kind string) string {
	return fmt.Sprintf("the kernel has no %s interfaces: modprobe %[1]s", kind)
}
