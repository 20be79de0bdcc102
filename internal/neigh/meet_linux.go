//go:build amd64 || arm64

package neigh

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A Party is an interface on a network, and its presumed address.
type Party struct {
	Space *Space
	Index int
	Addr  netip.Addr
}

// Introduce tells two parties on one network about each other, as if the first had
// asked for the second. A question would reach everybody there, and its answer take a
// place in the kernel's table until it is marked; these entries never do. It does
// nothing if either kernel would not answer for its address now.
func Introduce(a, b Party) error {
	fa, err := a.open()
	if err != nil {
		return err
	}
	defer unix.Close(fa)
	fb, err := b.open()
	if err != nil {
		return err
	}
	defer unix.Close(fb)
	va, err := a.look(fa, b.Addr)
	if err != nil {
		return err
	}
	vb, err := b.look(fb, a.Addr)
	if err != nil || va.mac == nil || vb.mac == nil {
		return err
	}
	b.learn(fb, a.Addr, va.mac, vb)
	a.learn(fa, b.Addr, vb.mac, va)
	return nil
}

func (p Party) open() (fd int, err error) {
	return p.Space.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
}

// A view is what a party sees.
type view struct {
	mac   []byte // its own; nil: it does not answer for its address
	other entry  // for the other party, if there is one
}

// skipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const skipStats = 1 << 3

// look asks the kernel, by a socket in the party's namespace. It answers each question at
// once.
func (p Party) look(fd int, other netip.Addr) (v view, err error) {
	route := make([]byte, unix.SizeofRtMsg)
	route[0], route[1] = family(p.Addr), byte(p.Addr.BitLen())
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(link[4:], uint32(p.Index))
	e := p.entry(other)
	b := message(nil, unix.RTM_GETROUTE, 0, route, attribute{unix.RTA_DST, p.Addr.AsSlice()})
	b = message(b, unix.RTM_GETLINK, 0, link, attribute{unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats)})
	b = message(b, unix.RTM_GETNEIGH, 0, e.header(0, 0), attribute{unix.NDA_DST, e.dst})
	if _, err := unix.Write(fd, b); err != nil {
		return v, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 4<<10)
	if route, err = answer(fd, buf, unix.SizeofRtMsg); err != nil {
		return v, err
	}
	local := route[7] == unix.RTN_LOCAL
	if link, err = answer(fd, buf, unix.SizeofIfInfomsg); err != nil {
		return v, err
	}
	if flags := binary.NativeEndian.Uint32(link[8:]); local && flags&(unix.IFF_RUNNING|unix.IFF_NOARP) == unix.IFF_RUNNING {
		v.mac = hardwareAddr(link[unix.SizeofIfInfomsg:])
	}
	known, err := answer(fd, buf, unix.SizeofNdMsg)
	if err == nil {
		v.other, _ = decode(known)
	} else if err != unix.ENOENT {
		return v, err
	}
	return v, nil
}

// hardwareAddr returns that of an Ethernet interface with the given attributes.
func hardwareAddr(attributes []byte) []byte {
	ad, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return nil
	}
	for ad.Next() {
		if b := ad.Bytes(); ad.Type() == unix.IFLA_ADDRESS && len(b) == 6 {
			return b
		}
	}
	return nil
}

// learn makes an entry for the other party, which the kernel confirms when it is used,
// like one that it learns from a question. A permanent entry stays. It is there when
// learn returns, unless the interface is gone.
func (p Party) learn(fd int, other netip.Addr, mac []byte, v view) {
	if v.other.state&uint16(rtnl.NeighborPermanent|rtnl.NeighborNoARP) != 0 || v.other.state&valid != 0 && bytes.Equal(v.other.mac, mac) {
		return
	}
	e := p.entry(other)
	_, err := unix.Write(fd, message(nil, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, e.header(uint16(rtnl.NeighborStale), unix.NTF_EXT_LEARNED),
		attribute{unix.NDA_DST, e.dst}, attribute{unix.NDA_LLADDR, mac}, byUs))
	if err == nil {
		p.Space.note()
	}
}

func (p Party) entry(of netip.Addr) entry {
	return entry{family: family(of), index: int32(p.Index), dst: of.AsSlice()}
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// note counts an entry that is not reported, and now and then has the keeper check
// whether there are too many.
func (s *Space) note() {
	if s.introduced.Add(1) != firstRoom {
		return
	}
	s.k.mu.Lock()
	s.k.noted = append(s.k.noted, s)
	s.k.mu.Unlock()
	s.k.reports.SetReadDeadline(time.Now())
}
