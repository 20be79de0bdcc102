package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/mdlayher/netlink"
)

// A Link is a network interface.
type Link struct {
	Index int
	Name  string
	// Kind is the kernel's name for the type, such as "veth" or "bridge"; empty for
	// hardware and loopback.
	Kind  string
	MTU   int // bytes
	Flags net.Flags
	// HardwareAddr is nil where the link has none (tun, some tunnels).
	HardwareAddr net.HardwareAddr
	// Master is the index of the bridge or bond that the link is a port of, or 0.
	Master int
	// Parent is the index of the link below (vlan, macvlan) or of the peer (veth), or
	// 0. That link may be in another stack, where the index belongs.
	Parent    int
	OperState OperState
	Stats     LinkStats
}

// LinkStats counts packets and bytes since the link was made.
type LinkStats struct {
	RxPackets, TxPackets uint64
	RxBytes, TxBytes     uint64
	RxErrors, TxErrors   uint64
	RxDropped, TxDropped uint64
}

// OperState is the operational state of a link (RFC 2863).
type OperState uint8

// The states of RFC 2863. Drivers that keep no state, such as loopback's, have
// OperUnknown, even when they are up.
const (
	OperUnknown OperState = iota
	OperNotPresent
	OperDown
	OperLowerLayerDown
	OperTesting
	OperDormant
	OperUp
)

// String returns the state in words.
func (s OperState) String() string {
	names := [...]string{"unknown", "not present", "down", "lower layer down", "testing", "dormant", "up"}
	if int(s) < len(names) {
		return names[s]
	}
	return "state " + strconv.Itoa(int(s))
}

// ifInfo is the fixed part of link messages.
type ifInfo struct {
	index         int
	flags, change uint32
}

func (i ifInfo) encode() []byte {
	b := make([]byte, sizeofIfInfo)
	binary.NativeEndian.PutUint32(b[4:], uint32(i.index))
	binary.NativeEndian.PutUint32(b[8:], i.flags)
	binary.NativeEndian.PutUint32(b[12:], i.change)
	return b
}

// decodeLink returns false for messages of other families: a bridge reports its ports
// in them.
func decodeLink(b []byte) (Link, bool, error) {
	var l Link
	if len(b) >= sizeofIfInfo {
		if b[0] != afUnspec {
			return Link{}, false, nil
		}
		l.Index = indexAt(b, 4)
		l.Flags = linkFlags(uint32At(b, 8))
	}
	err := decode("link message", b, sizeofIfInfo, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case iflaIfName:
			l.Name = ad.String()
		case iflaAddress:
			l.HardwareAddr = append(net.HardwareAddr(nil), ad.Bytes()...) // nil if there is none
		case iflaMTU:
			l.MTU = int(ad.Uint32())
		case iflaMaster:
			l.Master = int(ad.Int32())
		case iflaLink:
			l.Parent = int(ad.Int32())
		case iflaOperState:
			l.OperState = OperState(ad.Uint8())
		case iflaStats64:
			ad.Do(l.Stats.decode)
		case iflaLinkInfo:
			nested(iflaLinkInfo, func(ad *netlink.AttributeDecoder) {
				if ad.Type() == iflaInfoKind {
					l.Kind = ad.String()
				}
			})(ad)
		}
	})
	if err != nil {
		return Link{}, false, err
	}
	return l, true, nil
}

// decode reads a struct rtnl_link_stats64, which later kernels extend.
func (s *LinkStats) decode(b []byte) error {
	fields := []*uint64{
		&s.RxPackets, &s.TxPackets, &s.RxBytes, &s.TxBytes,
		&s.RxErrors, &s.TxErrors, &s.RxDropped, &s.TxDropped,
	}
	if len(b) < 8*len(fields) {
		return fmt.Errorf("link statistics of %d bytes", len(b))
	}
	for i, f := range fields {
		*f = binary.NativeEndian.Uint64(b[8*i:])
	}
	return nil
}

func linkFlags(iff uint32) net.Flags {
	var flags net.Flags
	for _, f := range []struct {
		iff  uint32
		flag net.Flags
	}{
		{iffUp, net.FlagUp},
		{iffBroadcast, net.FlagBroadcast},
		{iffLoopback, net.FlagLoopback},
		{iffPointToPoint, net.FlagPointToPoint},
		{iffMulticast, net.FlagMulticast},
		{iffRunning, net.FlagRunning},
	} {
		if iff&f.iff != 0 {
			flags |= f.flag
		}
	}
	return flags
}

// Links returns all interfaces of the stack, in the kernel's order. Together with
// Addrs it replaces getifaddrs.
func (c *Conn) Links() ([]Link, error) {
	return list(c, "list links", rtmGetLink, make([]byte, sizeofIfInfo), decodeLink)
}

// Link returns the interface with an index; ENODEV if there is no such interface.
func (c *Conn) Link(ifindex int) (Link, error) {
	l, err := c.link(ifindex)
	return l, fail("get", ifIndex(ifindex), err)
}

func (c *Conn) link(ifindex int) (Link, error) {
	if err := ifIndex(ifindex).check(); err != nil {
		return Link{}, err
	}
	return c.queryLink(0, ifInfo{index: ifindex}.encode())
}

// queryLink asks for one link.
func (c *Conn) queryLink(flags netlink.HeaderFlags, body []byte) (Link, error) {
	answer, err := c.request(rtmGetLink, flags, body)
	if err != nil {
		return Link{}, err
	}
	return firstLink(answer)
}

// firstLink finds the link in an answer.
func firstLink(answer []netlink.Message) (Link, error) {
	for _, m := range answer {
		if m.Header.Type != rtmNewLink {
			continue
		}
		if l, ok, err := decodeLink(m.Data); ok || err != nil {
			return l, err
		}
	}
	return Link{}, malformed("answer", errors.New("there is no link in it"))
}

// IfNameToIndex returns the index of the interface with a name; ENODEV if there is no
// such interface. It replaces if_nametoindex.
func (c *Conn) IfNameToIndex(name string) (int, error) {
	i, err := c.ifNameToIndex(name)
	return i, fail("look up", text("interface "+strconv.Quote(name)), err)
}

func (c *Conn) ifNameToIndex(name string) (int, error) {
	if err := checkName(name); err != nil {
		// Whatever is wrong with the name, no interface has it.
		if errors.Is(err, syscall.EINVAL) {
			err = invalid(syscall.ENODEV, "%s", err.(*Error).Msg)
		}
		return 0, err
	}
	l, err := c.queryLink(netlink.Acknowledge, append(ifInfo{}.encode(), marshal(words(iflaIfName, name))...))
	return l.Index, err
}

// LinkAddr returns the hardware address of an interface; EADDRNOTAVAIL if it
// has none. It replaces linkgetaddr.
func (c *Conn) LinkAddr(ifindex int) (net.HardwareAddr, error) {
	l, err := c.link(ifindex)
	if err == nil && l.HardwareAddr == nil {
		err = invalid(syscall.EADDRNOTAVAIL, "the interface has no hardware address")
	}
	return l.HardwareAddr, fail("get hardware address of", ifIndex(ifindex), err)
}

// LinkSetUp sets an interface up. It replaces linksetupdown(…, 1).
func (c *Conn) LinkSetUp(ifindex int) error {
	return c.setLink("set up", nil, rtmSetLink, ifInfo{ifindex, iffUp, iffUp})
}

// LinkSetDown sets an interface down. The kernel then removes its routes and its IPv6
// addresses. It replaces linksetupdown(…, 0).
func (c *Conn) LinkSetDown(ifindex int) error {
	return c.setLink("set down", nil, rtmSetLink, ifInfo{ifindex, 0, iffUp})
}

// LinkSetAddr sets the hardware address of an interface, 6 bytes. It replaces
// linksetaddr.
func (c *Conn) LinkSetAddr(ifindex int, mac net.HardwareAddr) error {
	return c.setLink("set hardware address of", checkMAC(mac), rtmNewLink, ifInfo{index: ifindex}, raw(iflaAddress, mac))
}

// LinkSetMTU sets the MTU of an interface, in bytes; EINVAL if the interface does not
// take it. It replaces linksetmtu.
func (c *Conn) LinkSetMTU(ifindex, mtu int) error {
	return c.setLink(fmt.Sprintf("set MTU %d of", mtu), checkMTU(mtu), rtmNewLink, ifInfo{index: ifindex}, number(iflaMTU, uint32(mtu)))
}

// LinkSetMaster makes an interface a port of the bridge, bond or vrf with the index
// master; 0 takes it out again.
func (c *Conn) LinkSetMaster(ifindex, master int) error {
	op := fmt.Sprintf("set master %d of", master)
	return c.setLink(op, ifIndex(master).check(), rtmSetLink, ifInfo{index: ifindex}, number(iflaMaster, uint32(master)))
}

// LinkSetName renames an interface. Before Linux 6.2 it must be down (EBUSY).
func (c *Conn) LinkSetName(ifindex int, name string) error {
	return c.setLink(fmt.Sprintf("set name %q of", name), checkName(name), rtmSetLink, ifInfo{index: ifindex}, words(iflaIfName, name))
}

// setLink sends a request about a link, unless err says that an argument is invalid.
func (c *Conn) setLink(op string, err error, typ netlink.HeaderType, info ifInfo, attrs ...netlink.Attribute) error {
	if err == nil {
		err = ifIndex(info.index).check()
	}
	if err == nil {
		body, bad := encode(info.encode(), attrs...)
		err = c.change(typ, 0, body, bad)
	}
	return fail(op, ifIndex(info.index), err)
}

// LinkDel removes an interface, and the other end of a veth with it; EOPNOTSUPP for
// interfaces that the kernel keeps, such as loopback. It replaces iplink_del.
func (c *Conn) LinkDel(ifindex int) error {
	return c.setLink("delete", nil, rtmDelLink, ifInfo{index: ifindex})
}

// LinkDelName is LinkDel by name, in one message; ENODEV if there is no such interface.
func (c *Conn) LinkDelName(name string) error {
	const op = "delete"
	err := c.setLink(op, checkName(name), rtmDelLink, ifInfo{}, words(iflaIfName, name))
	return fail(op, text("interface "+strconv.Quote(name)), err)
}
