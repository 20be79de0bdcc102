package rtnl

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
)

// A Neighbor is an entry of the ARP (IPv4) or neighbour discovery (IPv6) table.
type Neighbor struct {
	IfIndex int // of the interface
	Addr    netip.Addr
	// HardwareAddr is nil while it is unknown.
	HardwareAddr net.HardwareAddr
	State        NeighborState
	Flags        NeighborFlags
}

// String returns, for example, "10.0.0.2 on interface 3".
func (n Neighbor) String() string {
	s := n.Addr.String() + " on " + ifIndex(n.IfIndex).String()
	if n.Flags&NeighborProxy != 0 {
		s = "proxy " + s
	}
	return s
}

// NeighborState is the state of an entry, one of the kernel's NUD_ bits.
type NeighborState uint16

// The states of an entry.
const (
	NeighborIncomplete NeighborState = 1 << iota // asked, not answered
	NeighborReachable                            // confirmed recently
	NeighborStale                                // checked at the next use
	NeighborDelay                                // in use, checked soon
	NeighborProbe                                // being checked
	NeighborFailed                               // did not answer
	NeighborNoARP                                // needs no resolution, such as multicast
	NeighborPermanent                            // added by hand, does not expire
)

// String returns the name of the state.
func (s NeighborState) String() string {
	names := [...]string{"incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent"}
	var set []string
	for i, name := range names {
		if s&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	if set == nil {
		return "none"
	}
	return strings.Join(set, "|")
}

// NeighborFlags are the kernel's NTF_ flags.
type NeighborFlags uint8

// Flags of an entry.
const (
	NeighborProxy      NeighborFlags = 0x08 // this stack answers for the address
	NeighborExtLearned NeighborFlags = 0x10 // kept, and not counted towards the kernel's limit; stacks set it on their own entries
	NeighborRouter     NeighborFlags = 0x80 // IPv6: the neighbour is a router
)

func (n *Neighbor) encode() ([]byte, error) {
	if err := ifIndex(n.IfIndex).check(); err != nil {
		return nil, err
	}
	if !n.Addr.IsValid() {
		return nil, invalid(syscall.EINVAL, "the address is not valid")
	}
	if err := checkAddr("address", n.Addr, family(n.Addr)); err != nil {
		return nil, err
	}
	b := make([]byte, sizeofNdMsg)
	b[0] = family(n.Addr)
	binary.NativeEndian.PutUint32(b[4:], uint32(n.IfIndex))
	binary.NativeEndian.PutUint16(b[8:], uint16(n.State))
	b[10] = uint8(n.Flags)
	return encode(b, raw(ndaDst, n.Addr.AsSlice()), raw(ndaLLAddr, n.HardwareAddr))
}

// decodeNeighbor returns false for other families, such as those of a bridge's
// forwarding table.
func decodeNeighbor(b []byte) (Neighbor, bool, error) {
	var (
		n   Neighbor
		fam uint8
	)
	if len(b) >= sizeofNdMsg {
		fam = b[0]
		if _, ok := unspecified(fam); !ok {
			return Neighbor{}, false, nil
		}
		n.IfIndex = indexAt(b, 4)
		n.State = NeighborState(binary.NativeEndian.Uint16(b[8:]))
		n.Flags = NeighborFlags(b[10])
	}
	err := decode("neighbour message", b, sizeofNdMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case ndaDst:
			addrAttr(ad, fam, &n.Addr)
		case ndaLLAddr:
			n.HardwareAddr = append(net.HardwareAddr(nil), ad.Bytes()...) // nil if there is none
		}
	})
	if err != nil {
		return Neighbor{}, false, err
	}
	return n, n.Addr.IsValid(), nil
}

// NeighborAdd adds an entry; EEXIST if the interface has one for the address.
// A zero State is NeighborPermanent. A proxy entry is for one interface: the kernel
// keeps one for every interface after the stack is closed, and a stack made later may
// have it.
func (c *Conn) NeighborAdd(n Neighbor) error {
	if n.State == 0 {
		n.State = NeighborPermanent
	}
	var err error
	switch {
	case n.Flags&NeighborProxy != 0 && n.IfIndex == 0:
		err = invalid(syscall.EINVAL, "a proxy entry for every interface outlives the stack; add one for each interface")
	case n.HardwareAddr != nil:
		err = checkMAC(n.HardwareAddr)
	}
	if err == nil {
		err = c.send(rtmNewNeigh, netlink.Excl|netlink.Create, &n)
	}
	return fail("add neighbour", n, err)
}

// NeighborDel deletes the entry of an address, even one that the kernel has learnt, but
// no proxy entry; ENOENT if there is no such entry.
func (c *Conn) NeighborDel(ifindex int, addr netip.Addr) error {
	return c.NeighborRemove(Neighbor{IfIndex: ifindex, Addr: addr})
}

// NeighborRemove deletes an entry that Neighbors listed: the proxy entry if n has that
// flag, else the neighbour's. ENOENT if it is gone.
func (c *Conn) NeighborRemove(n Neighbor) error {
	// The kernel looks at nothing else.
	n = Neighbor{IfIndex: n.IfIndex, Addr: n.Addr, Flags: n.Flags & NeighborProxy}
	return fail("delete neighbour", n, c.send(rtmDelNeigh, 0, &n))
}

// Neighbors returns the entries of all interfaces, in every state, and then proxy
// entries, which have no state and may be for every interface (IfIndex 0). It leaves
// out other families, such as the addresses that a bridge has learnt.
func (c *Conn) Neighbors() ([]Neighbor, error) {
	const op = "list neighbours"
	all, err := list(c, op, rtmGetNeigh, make([]byte, sizeofNdMsg), decodeNeighbor)
	if err != nil {
		return nil, err
	}
	body := make([]byte, sizeofNdMsg)
	body[10] = uint8(NeighborProxy)
	proxies, err := list(c, op, rtmGetNeigh, body, decodeNeighbor)
	if err != nil {
		return nil, err
	}
	for _, n := range proxies {
		if n.Flags&NeighborProxy != 0 { // stacks in user space may ignore the flag of the request
			all = append(all, n)
		}
	}
	return all, nil
}
