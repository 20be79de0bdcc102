package rtnl

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
)

// maxQueues is the kernel's limit.
const maxQueues = 4096

// A LinkSpec describes the interface that LinkAdd makes. Only Kind is always
// required; some kinds require more.
type LinkSpec struct {
	// Name of the interface, at most 15 bytes. Empty: the kernel picks one, such as
	// bridge0.
	Name string
	// Kind is the type: "bridge", "veth", "vlan", "vxlan", "macvlan", "dummy", …
	Kind string
	// Index of the interface. 0: the kernel picks one, and one for a Peer.
	Index int
	// Parent is the index of the link below a vlan or macvlan.
	Parent int
	// Master is the index of the bridge that gets the link as a port. 0: no bridge.
	Master int
	// MTU in bytes. 0: the default of the kind.
	MTU int
	// MAC is the hardware address. Nil: random.
	MAC net.HardwareAddr
	// Queues is the number of queues in each direction. 0: the default of the kind,
	// which for a veth is one for each processor. Each takes memory and time.
	Queues int
	// Up sets the interface up at once. A Peer cannot be set up this way.
	Up bool
	// NetNS is the open network namespace that gets the interface. Nil: the Conn's
	// own. It needs CAP_NET_ADMIN there too.
	NetNS *os.File

	// Peer is the other end of a veth: its Name, Index, MTU, MAC, Queues and NetNS
	// are used. Nil: the kernel picks a name, in the same namespace as this end.
	Peer *LinkSpec
	// VLAN is the id of a vlan, 1 to 4094; it needs a Parent.
	VLAN int
	// VXLAN has the parameters of a vxlan.
	VXLAN *VXLAN
	// Data are other attributes of the kind (IFLA_INFO_DATA), with values in wire
	// format. Their lengths are filled in.
	Data []netlink.Attribute
}

// VXLAN are the parameters of a vxlan link. For more use LinkSpec.Data.
type VXLAN struct {
	ID    uint32     // network identifier, 24 bits
	Group netip.Addr // multicast group, or the only remote
	Local netip.Addr // source address
	Port  uint16     // UDP port; 0: the kernel's 8472 (IANA's is 4789)
	Link  int        // index of the interface for the group
	TTL   uint8      // 0: the system's default
}

// LinkAdd makes an interface, which is down unless l.Up is set, and returns its index.
// It replaces iplink_add.
//
//   - EEXIST: the name or the index is used.
//   - EOPNOTSUPP: the kernel does not have the kind.
//   - EINVAL: a parameter of the kind is missing.
//   - ERANGE: the name is too long.
//
// For an interface in another NetNS the result is l.Index, even if that is 0: indexes
// of that namespace mean nothing here. Of a vxlan, and before Linux 6.2 of any kind, the
// kernel does not report the index if it has picked the name, so LinkAdd gives the
// interface a large random one.
func (c *Conn) LinkAdd(l LinkSpec) (ifindex int, err error) {
	ifindex, err = c.linkAdd(l)
	return ifindex, fail("add", text(strings.TrimSpace(l.Kind+" link "+l.Name)), err)
}

func (c *Conn) linkAdd(l LinkSpec) (int, error) {
	// A name that the kernel picks cannot be looked up, so the kernel has to send the
	// new link back.
	echo := l.Index == 0 && l.NetNS == nil && (l.Name == "" || strings.Contains(l.Name, "%"))
	body, err := l.encode()
	if err != nil {
		return 0, err
	}
	// A vxlan never comes back: its driver reports it, before the kernel would.
	if echo && (c.noEcho || l.Kind == "vxlan") {
		return c.linkAddPicked(l)
	}
	flags := netlink.Acknowledge | netlink.Excl | netlink.Create
	if echo {
		flags |= netlink.Echo
	}
	answer, err := c.request(rtmNewLink, flags, body)
	runtime.KeepAlive(l) // its descriptors are in the message
	switch {
	case err != nil:
		return 0, err
	case l.Index != 0 || l.NetNS != nil:
		return l.Index, nil
	case echo:
		link, err := firstLink(answer)
		return link.Index, err
	}
	return c.ifNameToIndex(l.Name)
}

// linkAddPicked is linkAdd for kernels that do not send the new link back. It picks an
// index far above those of the kernel, which counts from 1.
func (c *Conn) linkAddPicked(l LinkSpec) (ifindex int, err error) {
	for range 4 {
		l.Index = 1<<24 + rand.IntN(1<<30)
		if ifindex, err = c.linkAdd(l); !errors.Is(err, syscall.EEXIST) {
			break
		}
	}
	return ifindex, err
}

func (l *LinkSpec) encode() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	info := ifInfo{index: l.Index}
	if l.Up {
		info.flags, info.change = iffUp, iffUp
	}
	return encode(info.encode(), append(l.device(),
		nonzero(iflaLink, uint32(l.Parent)),
		nonzero(iflaMaster, uint32(l.Master)),
		nest(iflaLinkInfo, words(iflaInfoKind, l.Kind), nest(iflaInfoData, l.data()...)))...)
}

// device returns the attributes that both an interface and its peer have.
func (l *LinkSpec) device() []netlink.Attribute {
	attrs := []netlink.Attribute{
		words(iflaIfName, l.Name),
		nonzero(iflaMTU, uint32(l.MTU)),
		raw(iflaAddress, l.MAC),
		nonzero(iflaNumTxQueues, uint32(l.Queues)),
		nonzero(iflaNumRxQueues, uint32(l.Queues)),
	}
	if l.NetNS != nil {
		attrs = append(attrs, number(iflaNetNSFd, uint32(l.NetNS.Fd())))
	}
	return attrs
}

// data returns the attributes in IFLA_INFO_DATA.
func (l *LinkSpec) data() (attrs []netlink.Attribute) {
	if l.Peer != nil {
		info := ifInfo{index: l.Peer.Index}.encode()
		attrs = append(attrs, raw(vethInfoPeer, append(info, marshal(l.Peer.device()...)...)))
	}
	if l.VLAN != 0 {
		attrs = append(attrs, raw(iflaVLANID, binary.NativeEndian.AppendUint16(nil, uint16(l.VLAN))))
	}
	if l.VXLAN != nil {
		attrs = append(attrs, l.VXLAN.attributes()...)
	}
	for _, a := range l.Data {
		attrs = append(attrs, raw(a.Type, append([]byte{}, a.Data...))) // flags have no data
	}
	return attrs
}

func (v *VXLAN) attributes() []netlink.Attribute {
	address := func(a netip.Addr, v4, v6 uint16) netlink.Attribute {
		if a.Is6() {
			v4 = v6
		}
		return raw(v4, a.AsSlice())
	}
	attrs := []netlink.Attribute{
		number(iflaVXLANID, v.ID),
		address(v.Group, iflaVXLANGroup, iflaVXLANGroup6),
		address(v.Local, iflaVXLANLocal, iflaVXLANLocal6),
		nonzero(iflaVXLANLink, uint32(v.Link)),
	}
	if v.TTL != 0 {
		attrs = append(attrs, raw(iflaVXLANTTL, []byte{v.TTL}))
	}
	if v.Port != 0 {
		attrs = append(attrs, raw(iflaVXLANPort, binary.BigEndian.AppendUint16(nil, v.Port)))
	}
	return attrs
}

func (l *LinkSpec) check() error {
	for _, f := range []struct {
		field, kind string
		used        bool
	}{
		{"Peer", "veth", l.Peer != nil},
		{"VLAN", "vlan", l.VLAN != 0},
		{"VXLAN", "vxlan", l.VXLAN != nil},
	} {
		if f.used && l.Kind != f.kind {
			return invalid(syscall.EINVAL, "%s is for the kind %s", f.field, f.kind)
		}
	}
	switch {
	case l.Peer != nil && l.Peer.Up:
		return invalid(syscall.EINVAL, "the kernel does not set a Peer up")
	case l.Peer != nil && l.Peer.Index != 0 && l.Index == 0:
		return invalid(syscall.EINVAL, "the kernel takes Peer.Index only together with Index")
	case l.Kind == "":
		return invalid(syscall.EINVAL, "Kind is empty")
	case l.VLAN < 0 || l.VLAN > 4094:
		return invalid(syscall.EINVAL, "VLAN %d is not 1 to 4094", l.VLAN)
	}
	indexes := []int{l.Parent, l.Master}
	if l.VXLAN != nil {
		indexes = append(indexes, l.VXLAN.Link)
	}
	for _, i := range indexes {
		if err := ifIndex(i).check(); err != nil {
			return err
		}
	}
	if l.Peer != nil {
		if err := l.Peer.checkDevice(); err != nil {
			return err
		}
	}
	return l.checkDevice()
}

// checkDevice checks what device encodes.
func (l *LinkSpec) checkDevice() error {
	if err := ifIndex(l.Index).check(); err != nil {
		return err
	}
	if err := checkMTU(l.MTU); err != nil {
		return err
	}
	if l.MAC != nil {
		if err := checkMAC(l.MAC); err != nil {
			return err
		}
	}
	if l.Queues < 0 || l.Queues > maxQueues {
		return invalid(syscall.EINVAL, "Queues %d is not 0 to %d", l.Queues, maxQueues)
	}
	if l.NetNS != nil && l.NetNS.Fd() == ^uintptr(0) {
		return invalid(os.ErrClosed, "NetNS")
	}
	if l.Name == "" {
		return nil
	}
	return checkName(l.Name)
}
