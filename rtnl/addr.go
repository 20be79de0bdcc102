package rtnl

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// An Addr is an address of an interface.
type Addr struct {
	IfIndex int // of the interface
	// Name of the interface. Addrs fills it in; in an Event it is empty.
	Name string
	// Prefix is the address itself with the length of its network.
	Prefix netip.Prefix
	// Peer is the other end of a point-to-point link, or the zero Addr. With a peer
	// the length in Prefix is that of the peer's network. 0.0.0.0 is a peer too.
	Peer netip.Addr
	// Broadcast address, IPv4 only; the zero Addr if there is none.
	Broadcast netip.Addr
	// Label is the name under which ifconfig shows an IPv4 address.
	Label    string
	Scope    Scope
	Flags    AddrFlags
	Lifetime Lifetime
}

// String returns, for example, "10.0.0.1/24 on interface 3".
func (a Addr) String() string {
	s := a.Prefix.String()
	if a.Peer.IsValid() {
		s += " peer " + a.Peer.String()
	}
	return s + " on " + ifIndex(a.IfIndex).String()
}

// An AddrOption sets more of an address to add or delete: NoDAD and other AddrFlags, a
// Scope, Label, Broadcast, Peer or Lifetime.
type AddrOption interface{ setAddr(*Addr) }

var _ = []AddrOption{AddrFlags(0), Scope(0), Label(""), Broadcast{}, Peer{}, Lifetime{}}

// AddrFlags are the kernel's IFA_F_ flags. The flags of several options add up.
type AddrFlags uint32

// Some AddrFlags. Package unix has the others as IFA_F_ constants.
const (
	Secondary AddrFlags = 0x01 // IPv4: not the first of its network on the interface
	// NoDAD makes an IPv6 address usable at once. Without it duplicate address
	// detection takes a second or two. For IPv4 it is ignored.
	NoDAD          AddrFlags = 0x02
	Optimistic     AddrFlags = 0x04  // usable while detection runs
	DADFailed      AddrFlags = 0x08  // another host has the address
	Deprecated     AddrFlags = 0x20  // new connections avoid it
	Tentative      AddrFlags = 0x40  // detection runs, the address cannot be used yet
	Permanent      AddrFlags = 0x80  // listed: it has no Lifetime
	ManageTempAddr AddrFlags = 0x100 // the kernel makes temporary addresses of its network
	NoPrefixRoute  AddrFlags = 0x200 // add no route to the network
)

func (f AddrFlags) setAddr(a *Addr) { a.Flags |= f }

// Scope is how far an address or a route is valid. The default is ScopeUniverse.
type Scope uint8

// The scopes of the kernel.
const (
	ScopeUniverse Scope = 0
	ScopeSite     Scope = 200 // this site
	ScopeLink     Scope = 253 // this link
	ScopeHost     Scope = 254 // this stack
	ScopeNowhere  Scope = 255 // no destination
)

func (s Scope) setAddr(a *Addr)   { a.Scope = s }
func (s Scope) setRoute(r *Route) { r.Scope = s }

// String returns the name of the scope.
func (s Scope) String() string {
	names := map[Scope]string{
		ScopeUniverse: "universe", ScopeSite: "site", ScopeLink: "link", ScopeHost: "host", ScopeNowhere: "nowhere",
	}
	return cmp.Or(names[s], strconv.Itoa(int(s)))
}

// Label is the option for Addr.Label: the name of the interface, or the name with a
// colon and more text. IPv4 only.
type Label string

func (l Label) setAddr(a *Addr) { a.Label = string(l) }

// Broadcast is the option for Addr.Broadcast.
type Broadcast netip.Addr

func (b Broadcast) setAddr(a *Addr) { a.Broadcast = netip.Addr(b) }

// Peer is the option for Addr.Peer.
type Peer netip.Addr

func (p Peer) setAddr(a *Addr) { a.Peer = netip.Addr(p) }

// Lifetime is how long an address stays, in whole seconds. The zero Lifetime has no
// end.
type Lifetime struct {
	Valid     time.Duration // until it is removed; 0 means Forever, and Preferred does not count
	Preferred time.Duration // until new connections avoid it; at most Valid
}

// Forever is a time without end.
const Forever = forever * time.Second

const forever = 1<<32 - 1

func (l Lifetime) setAddr(a *Addr) { a.Lifetime = l }

// encode returns a struct ifa_cacheinfo, whose timestamps are zero, or nil without an end.
func (l Lifetime) encode() []byte {
	if l.Valid == 0 {
		return nil
	}
	b := make([]byte, sizeofCacheInfo)
	binary.NativeEndian.PutUint32(b, uint32(min(l.Preferred, Forever)/time.Second))
	binary.NativeEndian.PutUint32(b[4:], uint32(min(l.Valid, Forever)/time.Second))
	return b
}

func (l *Lifetime) decode(b []byte) error {
	if len(b) < sizeofCacheInfo {
		return fmt.Errorf("cache information of %d bytes", len(b))
	}
	*l = Lifetime{
		Preferred: time.Duration(uint32At(b, 0)) * time.Second,
		Valid:     time.Duration(uint32At(b, 4)) * time.Second,
	}
	if l.Valid == 0 || l.Valid == Forever && l.Preferred == Forever {
		*l = Lifetime{}
	}
	return nil
}

func (a *Addr) check() error {
	if err := ifIndex(a.IfIndex).check(); err != nil {
		return err
	}
	local := a.Prefix.Addr()
	if !a.Prefix.IsValid() {
		return invalid(syscall.EINVAL, "the prefix is not valid")
	}
	if a.Peer.IsValid() {
		if err := checkAddr("peer", a.Peer, family(local)); err != nil {
			return err
		}
	}
	if a.Broadcast.IsValid() {
		if !local.Is4() {
			return invalid(syscall.EINVAL, "IPv6 has no broadcast addresses")
		}
		if err := checkAddr("broadcast address", a.Broadcast, afInet); err != nil {
			return err
		}
	}
	switch l := a.Lifetime; {
	case a.Label != "" && !local.Is4():
		return invalid(syscall.EINVAL, "only IPv4 addresses have labels")
	case len(a.Label) > maxName:
		return invalid(syscall.ERANGE, "label %q is longer than %d bytes", a.Label, maxName)
	case l.Valid < 0 || l.Valid > 0 && l.Valid < time.Second || l.Preferred < 0:
		return invalid(syscall.EINVAL, "lifetime %v, preferred %v", l.Valid, l.Preferred)
	}
	return nil
}

func (a *Addr) encode() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	local := a.Prefix.Addr()
	b := make([]byte, sizeofIfAddr)
	b[0] = family(local)
	b[1] = uint8(a.Prefix.Bits())
	b[2] = uint8(a.Flags) // what does not fit follows as an attribute
	b[3] = uint8(a.Scope)
	binary.NativeEndian.PutUint32(b[4:], uint32(a.IfIndex))

	var wide AddrFlags
	if a.Flags > 0xff {
		wide = a.Flags
	}
	return encode(b,
		raw(ifaLocal, local.AsSlice()),
		raw(ifaAddress, cmp.Or(a.Peer, local).AsSlice()),
		raw(ifaBroadcast, a.Broadcast.AsSlice()),
		words(ifaLabel, a.Label),
		nonzero(ifaFlags, uint32(wide)),
		raw(ifaCacheInfo, a.Lifetime.encode()))
}

// decodeAddr returns false for addresses of other families.
func decodeAddr(b []byte) (Addr, bool, error) {
	const kind = "address message"
	var (
		a       Addr
		fam     uint8
		bits    int
		local   netip.Addr // IFA_LOCAL: always there for IPv4, for IPv6 with a peer
		address netip.Addr // IFA_ADDRESS: the peer if there is one
	)
	if len(b) >= sizeofIfAddr {
		fam, bits = b[0], int(b[1])
		a.Flags, a.Scope = AddrFlags(b[2]), Scope(b[3])
		a.IfIndex = indexAt(b, 4)
		if _, ok := unspecified(fam); !ok {
			return Addr{}, false, nil
		}
	}
	err := decode(kind, b, sizeofIfAddr, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case ifaLocal:
			addrAttr(ad, fam, &local)
		case ifaAddress:
			addrAttr(ad, fam, &address)
		case ifaBroadcast:
			addrAttr(ad, fam, &a.Broadcast)
		case ifaLabel:
			a.Label = ad.String()
		case ifaFlags:
			a.Flags = AddrFlags(ad.Uint32())
		case ifaCacheInfo:
			ad.Do(a.Lifetime.decode)
		}
	})
	if err != nil {
		return Addr{}, false, err
	}
	switch {
	case !local.IsValid():
		local = address
	case fam == afInet && !address.IsValid() && !local.IsUnspecified():
		a.Peer = netip.IPv4Unspecified() // the kernel leaves it out
	case address.IsValid() && address != local:
		a.Peer = address
	}
	if a.Prefix = netip.PrefixFrom(local, bits); !a.Prefix.IsValid() {
		return Addr{}, false, malformed(kind, fmt.Errorf("address %v, prefix length %d", local, bits))
	}
	return a, true, nil
}

// AddrAdd adds an address to an interface. EEXIST: the interface has it; ENODEV:
// there is no such interface. Without options an IPv4 address has no broadcast
// address, and an IPv6 address goes through duplicate address detection (see NoDAD).
// It replaces ipaddr_add, and its options what data2prefix packs.
func (c *Conn) AddrAdd(ifindex int, p netip.Prefix, opts ...AddrOption) error {
	a := newAddr(ifindex, p, opts)
	return fail("add address", a, c.send(rtmNewAddr, netlink.Excl|netlink.Create, &a))
}

// AddrReplace is AddrAdd, but an address that the interface has gets the Lifetime and the
// flags of this call, and is there all the time. Without a Lifetime it becomes permanent.
func (c *Conn) AddrReplace(ifindex int, p netip.Prefix, opts ...AddrOption) error {
	a := newAddr(ifindex, p, opts)
	return fail("replace address", a, c.send(rtmNewAddr, netlink.Replace|netlink.Create, &a))
}

func newAddr(ifindex int, p netip.Prefix, opts []AddrOption) Addr {
	a := Addr{IfIndex: ifindex, Prefix: p}
	for _, o := range opts {
		o.setAddr(&a)
	}
	if p.Addr().Is4() {
		a.Flags &^= NoDAD
	}
	return a
}

// AddrDel is nlinline's ipaddr_del; AddrRemove takes an address that was listed.
// EADDRNOTAVAIL: the interface does not have the address. Of the options the kernel
// looks at Peer and Label. With the first IPv4 address of a network it removes the
// others of that network too, unless the sysctl promote_secondaries is set.
func (c *Conn) AddrDel(ifindex int, p netip.Prefix, opts ...AddrOption) error {
	a := newAddr(ifindex, p, opts)
	return fail("delete address", a, c.send(rtmDelAddr, 0, &a))
}

// AddrRemove removes an address that Addrs listed, and no other; AddrDel is nlinline's.
// EADDRNOTAVAIL: the interface does not have the address any more. If other addresses
// are secondary to it, promote_secondaries of the interface is set meanwhile.
func (c *Conn) AddrRemove(a Addr) error {
	return fail("delete address", a, c.removeAddr(a))
}

func (c *Conn) removeAddr(a Addr) error {
	// The kernel looks at nothing else, except that it rejects another address's label.
	request := Addr{IfIndex: a.IfIndex, Prefix: a.Prefix, Peer: a.Peer}
	if err := request.check(); err != nil {
		return err
	}
	if a.Prefix.Addr().Is4() && a.Flags&Secondary == 0 {
		promote, err := c.promote(a.IfIndex)
		if err != nil {
			return err
		}
		if promote {
			defer c.setPromote(a.IfIndex, 0)
		}
	}
	return c.send(rtmDelAddr, 0, &request)
}

// promote makes an interface keep its secondary addresses when their primary
// goes. It returns true if that changed the setting.
func (c *Conn) promote(ifindex int) (bool, error) {
	addrs, err := list(c, "list addresses", rtmGetAddr, make([]byte, sizeofIfAddr), decodeAddr)
	if err != nil || !slices.ContainsFunc(addrs, func(a Addr) bool {
		return a.IfIndex == ifindex && a.Prefix.Addr().Is4() && a.Flags&Secondary != 0
	}) {
		return false, err
	}
	answer, err := c.request(rtmGetLink, 0, ifInfo{index: ifindex}.encode())
	if err != nil {
		return false, err
	}
	promotes := false
	err = decode("link message", answer[0].Data, sizeofIfInfo, nested(iflaAFSpec, nested(afInet, func(ad *netlink.AttributeDecoder) {
		const off = 4 * (devconfPromoteSecondary - 1)
		if b := ad.Bytes(); ad.Type() == iflaInetConf && len(b) >= off+4 {
			promotes = uint32At(b, off) != 0
		}
	})))
	if err != nil || promotes {
		return false, err
	}
	return true, c.setPromote(ifindex, 1)
}

func (c *Conn) setPromote(ifindex int, v uint32) error {
	const flag = netlink.Nested
	return c.setLink("set", nil, rtmSetLink, ifInfo{index: ifindex},
		nest(flag|iflaAFSpec, nest(flag|afInet, nest(flag|iflaInetConf, number(devconfPromoteSecondary, v)))))
}

// Addrs returns the IPv4 and IPv6 addresses of all interfaces. Together with Links it
// replaces getifaddrs, but Prefix is always the local address, even on a
// point-to-point link.
func (c *Conn) Addrs() ([]Addr, error) {
	const op = "list addresses"
	addrs, err := list(c, op, rtmGetAddr, make([]byte, sizeofIfAddr), decodeAddr)
	if err != nil {
		return nil, err
	}
	// After the addresses: an address without a link by now went with its link.
	links, err := list(c, op, rtmGetLink, make([]byte, sizeofIfInfo), decodeLink)
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	kept := addrs[:0]
	for _, a := range addrs {
		if name, ok := names[a.IfIndex]; ok {
			a.Name = name
			kept = append(kept, a)
		}
	}
	return kept, nil
}
