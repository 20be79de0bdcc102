// Package stack is one private TCP/IP stack: a network namespace of the kernel, its
// Ethernet interfaces, the plugs that carry their frames to networks, the sockets made
// in it and the commands that run in it.
//
// Programs use package vdestack, which adds names, dialers and listeners. Its
// documentation has the errors, and what becomes of stacks when a program changes its
// user. This package has the types that both share; its methods are the same, where
// nothing else is said.
package stack

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vdestack/vdestack/internal/errtext"
	"github.com/vdestack/vdestack/vdeplug"
)

const (
	// DefaultMTU is the MTU of interfaces that do not say theirs, in bytes.
	DefaultMTU = 1500
	// minMTU is the smallest that IPv4 allows, RFC 791.
	minMTU = 68
	// minMTU6 is the smallest that IPv6 allows, RFC 8200.
	minMTU6 = 1280
	// maxName is the longest name of an interface, IFNAMSIZ less its zero.
	maxName = 15
)

// Config describes a Stack, as that of package vdestack does. The zero Config makes one
// with a loopback interface only.
type Config struct {
	Name       string      // in errors and logs; empty means "stack"
	Interfaces []Interface // made in this order
	DNS        DNS         // for commands with Cmd.Names, and for package vdestack
	NetNS      string      // the path of a namespace to join; empty makes one
	Isolated   bool        // in a user namespace of its own
	Logger     *slog.Logger
}

// An Interface is an Ethernet interface of a stack. The zero Interface is
// called vde0, vde1, … by its place in the stack, and is not connected.
type Interface struct {
	// VNL is the locator of the network, see package vdeplug. Empty means not
	// connected: frames are dropped.
	VNL string
	// Name has 1 to 15 characters. Empty means vdeN, N its place in Config.Interfaces;
	// for AddInterface, the number of interfaces of the stack, or the next one whose
	// name no interface of the namespace has.
	Name string
	// MAC is the hardware address, six bytes. Nil means a random one, locally
	// administered.
	MAC net.HardwareAddr
	// MTU is the largest payload of a frame in bytes, 68 to 9216. 0 means 1500.
	// IPv6 needs 1280.
	MTU int
	// Addrs are the interface's addresses, with the length of their networks' prefixes.
	//
	//   - IPv6 addresses are usable at once: duplicate address detection is skipped.
	//   - So is the link-local one that the kernel makes. If one is given here, packets
	//     come from that.
	//   - The first address of a network (its own or, for IPv6, that of all its routers)
	//     and the last of an IPv4 network (for broadcasts) are refused, except in
	//     networks of one or two addresses.
	Addrs []netip.Prefix
	// Gateways are default routes, at most one for IPv4 and one for IPv6 in the
	// whole stack.
	Gateways []netip.Addr
	// Down leaves the interface down.
	Down bool
	// Capture, if it is not nil, gets a recording of all frames of the interface in the
	// format pcapng, as they cross the wire: no larger than the MTU of the sender, with
	// checksums.
	//
	//   - Interfaces with the same writer, of any stack of the process, are in one
	//     section.
	//   - The network does not wait for the writer. Frames that come while 16 MiB wait
	//     for it are not recorded, but counted, in the file and in [InterfaceStats].
	//   - An error or a panic of the writer ends the recording, and nothing else. It is
	//     logged, and Close returns it, unless it is [io.EOF]: then the writer has enough.
	//   - Close of the last stack that records to the writer waits until it has taken
	//     all, unless it takes nothing for five seconds. The writer stays open.
	Capture io.Writer
	// Kind is what the interface is made of, [KindTAP] or [KindVeth]. Empty means
	// a TAP, or a veth pair where there is no /dev/net/tun for this user.
	// Interfaces of mem:// and lan:// are veth pairs of another sort, and have no
	// Kind.
	Kind Kind
	// NoReconnect gives up a network that has gone, such as a switch that has ended.
	// Otherwise it is opened again as soon as that is possible, and connections go on:
	// see [vdeplug.Options].
	NoReconnect bool
	// NoOffload disables offloads, for debugging: without them each frame costs as much
	// as a whole packet.
	NoOffload Offload
}

// A Kind is what an interface is made of.
type Kind string

// Kinds of interfaces.
const (
	// KindTAP is a TAP, the device for programs that are networks.
	KindTAP Kind = "tap"
	// KindVeth is one end of a veth pair, whose other end a packet socket reads
	// and writes in a namespace that belongs to the process. It needs no device.
	KindVeth Kind = "veth"
)

// An Offload is a set of kinds of work that is done for many frames at once.
// The kernel's TCP and UDP make and take packets of up to 64 KiB, which are cut
// into frames on their way to a network, and joined from frames that come from
// there. Peers see ordinary frames.
type Offload uint8

const (
	// OffloadHeader is the header that makes all the others possible, of
	// linux/virtio_net.h. Kernels without it are used frame by frame.
	OffloadHeader Offload = 1 << iota
	// OffloadChecksum makes the checksums of TCP and UDP where frames are made,
	// or not at all where packets do not leave the process.
	OffloadChecksum
	// OffloadTSO4 and OffloadTSO6 let TCP send packets that are larger than a
	// frame.
	OffloadTSO4
	OffloadTSO6
	// OffloadUSO does the same for datagrams sent with UDP_SEGMENT, from Linux
	// 6.2 on.
	OffloadUSO
	// OffloadGRO joins received segments of TCP, if their checksums are right.
	OffloadGRO
	// OffloadUDPGRO joins received datagrams of a flow, from Linux 6.2 on.
	OffloadUDPGRO
)

// check completes and validates a configuration, and names the bad field.
func (c *Config) check() error {
	c.Name = cmp.Or(c.Name, "stack")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Isolated && c.NetNS != "" {
		return fmt.Errorf("field Isolated with NetNS %q: the namespace has its user namespace already; isolate the stack that makes it", c.NetNS)
	}
	if err := c.DNS.check(); err != nil {
		return err
	}
	c.Interfaces = slices.Clone(c.Interfaces)
	for i := range c.Interfaces {
		f := &c.Interfaces[i]
		if f.Name == "" {
			f.Name = fmt.Sprintf("vde%d", i)
		}
		err := f.check(vdeplug.MaxMTU)
		if err == nil {
			err = f.conflict(c.Interfaces[:i])
		}
		if err != nil {
			return &InterfaceError{f.Name, f.VNL, err}
		}
	}
	return nil
}

// conflict reports a name or default route that another interface has.
func (f *Interface) conflict(others []Interface) error {
	for _, o := range others {
		if f.Name == o.Name {
			return inUse(fmt.Errorf("name %q is that of another interface too", f.Name))
		}
		for _, gw := range f.Gateways {
			if slices.ContainsFunc(o.Gateways, func(other netip.Addr) bool { return gw.Is4() == other.Is4() }) {
				return fmt.Errorf("gateway %v: interface %s has the default route of its family already; add others by RTNL, with a metric", gw, o.Name)
			}
		}
	}
	return nil
}

func (f *Interface) check(maxMTU int) error {
	if err := checkName(f.Name); err != nil {
		return err
	}
	f.MTU = cmp.Or(f.MTU, DefaultMTU)
	switch {
	case f.Name == "lo":
		return fmt.Errorf("name %q belongs to loopback", f.Name)
	case f.Kind != "" && f.Kind != KindTAP && f.Kind != KindVeth:
		return fmt.Errorf("kind %q is neither %q nor %q", f.Kind, KindTAP, KindVeth)
	case f.MTU < minMTU || f.MTU > maxMTU:
		return fmt.Errorf("MTU %d is not within %d and %d", f.MTU, minMTU, maxMTU)
	case f.MAC == nil:
	case len(f.MAC) != 6:
		return fmt.Errorf("MAC %q has %d bytes, an Ethernet address has 6", f.MAC, len(f.MAC))
	case f.MAC[0]&1 != 0:
		return fmt.Errorf("MAC %q is a group address: the lowest bit of its first byte must be 0", f.MAC)
	case f.MAC.String() == "00:00:00:00:00:00":
		return fmt.Errorf("MAC %q is no address; leave it out for a random one", f.MAC)
	}
	for i, p := range f.Addrs {
		if err := f.checkAddr(p); err != nil {
			return err
		}
		// IPv4 has one address in two networks, IPv6 does not.
		if j := slices.IndexFunc(f.Addrs[:i], func(q netip.Prefix) bool { return p == q || p.Addr() == q.Addr() && p.Addr().Is6() }); j >= 0 {
			if q := f.Addrs[j]; q != p {
				return fmt.Errorf("addresses %v and %v: IPv6 has an address once on an interface", q, p)
			}
			return fmt.Errorf("address %v is given twice", p)
		}
	}
	families := map[bool]netip.Addr{}
	for _, gw := range f.Gateways {
		if err := f.checkGateway(gw); err != nil {
			return err
		}
		if other, ok := families[gw.Is4()]; ok {
			return fmt.Errorf("gateways %v and %v: one default route a family", other, gw)
		}
		families[gw.Is4()] = gw
	}
	return nil
}

func (f *Interface) checkAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !a.IsValid():
		return errors.New("an address is the zero Prefix: write ADDRESS/LENGTH, such as 10.0.0.50/24")
	case !p.IsValid():
		return fmt.Errorf("address %v has no length from 0 to %d: write ADDRESS/LENGTH, such as 10.0.0.50/24", a, a.BitLen())
	case a.Is4In6():
		return fmt.Errorf("address %v is IPv4 written as IPv6: write it as %v", p, a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("address %v cannot be that of an interface: it is not of a single host", p)
	case a == netip.IPv6Loopback():
		return fmt.Errorf("address %v belongs to loopback, which has it", p)
	case p.Bits() >= a.BitLen()-1: // RFC 3021 and RFC 6164: all are of hosts
	case p == p.Masked() && a.Is4():
		return fmt.Errorf("address %v is that of the network, not of a host in it: the first host has %v", p, netip.PrefixFrom(a.Next(), p.Bits()))
	case p == p.Masked():
		return fmt.Errorf("address %v is that of all routers of the network (RFC 4291, section 2.6.1), not of a host in it: the first host has %v", p, netip.PrefixFrom(a.Next(), p.Bits()))
	case a.Is4() && !p.Contains(a.Next()):
		return fmt.Errorf("address %v is for broadcasts in the network, not of a host in it: the last host has %v", p, netip.PrefixFrom(a.Prev(), p.Bits()))
	}
	if a.Is6() && f.MTU < minMTU6 {
		return fmt.Errorf("address %v: IPv6 needs an MTU of %d, this one is %d", p, minMTU6, f.MTU)
	}
	return nil
}

func (f *Interface) checkGateway(gw netip.Addr) error {
	switch {
	case !gw.IsValid():
		return errors.New("a gateway is the zero Addr: give the address of a router")
	case gw.Is4In6():
		return fmt.Errorf("gateway %v is IPv4 written as IPv6: write it as %v", gw, gw.Unmap())
	case gw.WithZone("").IsUnspecified(), gw.IsMulticast():
		return fmt.Errorf("gateway %v is not the address of a host", gw)
	case gw.Zone() != "" && gw.Zone() != f.Name:
		return fmt.Errorf("gateway %v: its zone is another interface, this is %s", gw, f.Name)
	case f.Down:
		return fmt.Errorf("gateway %v needs the interface up", gw)
	case slices.ContainsFunc(f.Addrs, func(p netip.Prefix) bool { return p.Addr() == gw.WithZone("") }):
		return fmt.Errorf("gateway %v is the interface's own address", gw)
	}
	return nil
}

func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("name %q has %d bytes, at most %d are allowed", name, len(name), maxName)
	case name == "all", name == "default":
		return fmt.Errorf("name %q means all interfaces to the kernel (net.ipv4.conf.%s): take another", name, name)
	case name == ".", name == "..", !utf8.ValidString(name), strings.ContainsAny(name, "/:%"), strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}):
		return fmt.Errorf("name %q must be text without blanks, / : and %%, and not . or .. alone", name)
	}
	return nil
}

// Stats are the counters of a stack.
type Stats struct {
	Interfaces []InterfaceStats // in the order of the configuration
}

// InterfaceStats count what passed between an interface and its network. "Tx" is what
// the stack sent, without what was dropped. On networks that the kernel switches,
// mem:// and lan://, the counters are the kernel's, for which a packet that stands for
// several frames is one. No counter goes down.
type InterfaceStats struct {
	Name  string // its current one
	Index int    // of the kernel
	VNL   string // the locator of its network, as [vdeplug.Redact] shows it; empty for a TUN

	TxFrames, TxBytes, TxDropped uint64
	RxFrames, RxBytes, RxDropped uint64

	// GRORejected counts packets of joined frames that the kernel did not take. After
	// the first, frames are not joined any more (see [OffloadGRO]).
	GRORejected uint64

	// Err says why the network is gone, or why it cannot be opened again yet; nil
	// while it is there.
	Err error
	// Reconnecting is true while a network that is gone is being opened again. One
	// with an Err and without Reconnecting is gone for good.
	Reconnecting bool
	// Reconnects counts how often it was opened again.
	Reconnects uint64

	// Capturing is true while frames are recorded. CaptureFrames counts those that were,
	// CaptureDropped those that were not, and CaptureErr says why the recording has ended;
	// nil while it goes on. On mem:// and lan:// the socket of the capture counts dropped
	// packets, which may stand for many frames.
	Capturing                     bool
	CaptureFrames, CaptureDropped uint64
	CaptureErr                    error

	// Peers are the other ends of a tunnel, in the order of its owner; nil if the interface
	// is none.
	Peers []PeerStats
}

// counters returns the fields that count.
func (s *InterfaceStats) counters() [10]*uint64 {
	return [...]*uint64{
		&s.TxFrames, &s.TxBytes, &s.TxDropped, &s.RxFrames, &s.RxBytes, &s.RxDropped,
		&s.GRORejected, &s.Reconnects, &s.CaptureFrames, &s.CaptureDropped,
	}
}

// MarshalJSON writes the errors as text, and null where there is none.
func (s InterfaceStats) MarshalJSON() ([]byte, error) {
	type fields InterfaceStats // without this method
	return json.Marshal(struct {
		fields
		Err, CaptureErr *string
	}{fields(s), errtext.Of(s.Err), errtext.Of(s.CaptureErr)})
}
