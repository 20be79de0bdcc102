package vdestack

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

func TestNetlinkErrors(t *testing.T) {
	s := open(t, "mem://"+t.Name(), "10.0.0.1/24")
	nl := func(f func(c *rtnl.Conn, index int) error) func() error {
		return func() error {
			c, err := s.RTNL()
			if err != nil {
				return err
			}
			defer c.Close()
			return f(c, s.Stats().Interfaces[0].Index)
		}
	}
	add := func(l rtnl.LinkSpec) func() error {
		return nl(func(c *rtnl.Conn, _ int) error { _, err := c.LinkAdd(l); return err })
	}
	null, err1 := os.Open("/dev/null")
	closed, err2 := os.Open("/dev/null")
	testenv.Check(t, errors.Join(err1, err2))
	defer null.Close()
	closed.Close()
	prefix, gw := testenv.Prefixes("10.0.0.1/24", "10.9.0.0/16", "fc09::/16"), testenv.Addrs("192.0.2.1")[0]
	mistakes(t, "\x00", []mistake{
		{"link", nl(func(c *rtnl.Conn, _ int) error { _, err := c.IfNameToIndex("eth9"); return err }), `rtnl: look up interface "eth9": no such device (there is no such interface)`},
		{"index", nl(func(c *rtnl.Conn, _ int) error { return c.LinkSetUp(99) }), `rtnl: set up interface 99: no such device (there is no such interface)`},
		{"MTU", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMTU(i, 1<<20) }), `rtnl: set MTU 1048576 of interface 1048576: invalid argument (…)`},
		{"MAC", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetAddr(i, net.HardwareAddr{2, 3}) }), `rtnl: set hardware address of interface 1048576: invalid argument (hardware address of 2 bytes, want 6)`},
		{"zero prefix", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, netip.Prefix{}) }), `rtnl: add address invalid Prefix on interface 1048576: invalid argument (the prefix is not valid)`},
		{"address twice", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, prefix[0]) }), `rtnl: add address 10.0.0.1/24 on interface 1048576: file exists (…)`},
		{"route without path", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[1], gw, 0) }), `rtnl: add route 10.9.0.0/16 via 192.0.2.1: network is unreachable (…)`},
		{"route without destination", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(netip.Prefix{}, netip.Addr{}, 0) }), `rtnl: add route without destination: invalid argument (neither a valid destination nor a gateway)`},
		{"no route", nl(func(c *rtnl.Conn, i int) error { return c.RouteDel(prefix[1], netip.Addr{}, i) }), `rtnl: delete route 10.9.0.0/16 on interface 1048576: no such process (…)`},
		{"no kind", add(rtnl.LinkSpec{}), `rtnl: add link: invalid argument (Kind is empty)`},
		{"kind", add(rtnl.LinkSpec{Kind: "nosuch"}), `rtnl: add nosuch link: operation not supported (…)`},
		{"name twice", add(rtnl.LinkSpec{Kind: "bridge", Name: "vde0"}), `rtnl: add bridge link vde0: file exists (…)`},
		{"name of 16", add(rtnl.LinkSpec{Kind: "bridge", Name: "abcdefghijklmnop"}), `rtnl: add bridge link abcdefghijklmnop: numerical result out of range (interface name "abcdefghijklmnop" is longer than 15 bytes)`},
		{"index, negative", nl(func(c *rtnl.Conn, _ int) error { return c.LinkSetUp(-1) }), `rtnl: set up interface -1: invalid argument (interface index -1)`},
		{"index, zero", nl(func(c *rtnl.Conn, _ int) error { return c.LinkSetDown(0) }), `rtnl: set down interface 0: invalid argument (…)`},
		{"index, large", nl(func(c *rtnl.Conn, _ int) error { return c.LinkSetUp(math.MaxInt) }), `rtnl: set up interface 9223372036854775807: invalid argument (interface index 9223372036854775807)`},
		{"index, get", nl(func(c *rtnl.Conn, _ int) error { _, err := c.Link(99); return err }), `rtnl: get interface 99: no such device (…)`},
		{"index, address of", nl(func(c *rtnl.Conn, _ int) error { _, err := c.LinkAddr(99); return err }), `rtnl: get hardware address of interface 99: no such device (…)`},
		{"look up, no name", nl(func(c *rtnl.Conn, _ int) error { _, err := c.IfNameToIndex(""); return err }), `rtnl: look up interface "": no such device (interface name is empty)`},
		{"look up, slash", nl(func(c *rtnl.Conn, _ int) error { _, err := c.IfNameToIndex("a/b"); return err }), `rtnl: look up interface "a/b": no such device ("a/b" cannot be an interface name)`},
		{"MTU, negative", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMTU(i, -1) }), `rtnl: set MTU -1 of interface 1048576: invalid argument (MTU -1)`},
		{"MTU, small", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMTU(i, 1) }), `rtnl: set MTU 1 of interface 1048576: invalid argument (…)`},
		{"MAC of a group", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetAddr(i, net.HardwareAddr{1, 2, 3, 4, 5, 6}) }), `rtnl: set hardware address of interface 1048576: cannot assign requested address (…)`},
		{"name, empty", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetName(i, "") }), `rtnl: set name "" of interface 1048576: invalid argument (interface name is empty)`},
		{"name, taken", nl(func(c *rtnl.Conn, _ int) error {
			// Not the stack's own: Linux before 6.2 first wants it down.
			i, err := c.LinkAdd(rtnl.LinkSpec{Kind: "bridge", Name: "b0"})
			if err != nil {
				return err
			}
			defer c.LinkDel(i)
			return c.LinkSetName(i, "lo")
		}), `rtnl: set name "lo" of interface …: file exists (…)`},
		{"name, slash", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetName(i, "a/b") }), `rtnl: set name "a/b" of interface 1048576: invalid argument ("a/b" cannot be an interface name)`},
		{"master", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMaster(i, 99) }), `rtnl: set master 99 of interface 1048576: invalid argument (…)`},
		{"master, no bridge", nl(func(c *rtnl.Conn, i int) error { return c.LinkSetMaster(i, 1) }), `rtnl: set master 1 of interface 1048576: operation not supported (…)`},
		{"delete loopback", nl(func(c *rtnl.Conn, _ int) error { return c.LinkDel(1) }), `rtnl: delete interface 1: operation not supported (…)`},
		{"delete nothing", nl(func(c *rtnl.Conn, _ int) error { return c.LinkDel(99) }), `rtnl: delete interface 99: no such device (…)`},

		{"peer of a bridge", add(rtnl.LinkSpec{Kind: "bridge", Peer: &rtnl.LinkSpec{}}), `rtnl: add bridge link: invalid argument (Peer is for the kind veth)`},
		{"index of a peer", add(rtnl.LinkSpec{Kind: "veth", Peer: &rtnl.LinkSpec{Index: 5}}), `rtnl: add veth link: invalid argument (the kernel takes Peer.Index only together with Index)`},
		{"names of both ends", add(rtnl.LinkSpec{Kind: "veth", Name: "v0", Peer: &rtnl.LinkSpec{Name: "v0"}}), `rtnl: add veth link v0: file exists (…)`},
		{"VLAN", add(rtnl.LinkSpec{Kind: "vlan", VLAN: 5000, Parent: 1}), `rtnl: add vlan link: invalid argument (VLAN 5000 is not 1 to 4094)`},
		{"VXLAN of a bridge", add(rtnl.LinkSpec{Kind: "bridge", VXLAN: &rtnl.VXLAN{}}), `rtnl: add bridge link: invalid argument (VXLAN is for the kind vxlan)`},
		{"index, taken", add(rtnl.LinkSpec{Kind: "bridge", Index: 1}), `rtnl: add bridge link: file exists (…)`},
		{"index of a link, negative", add(rtnl.LinkSpec{Kind: "bridge", Index: -1}), `rtnl: add bridge link: invalid argument (interface index -1)`},
		{"master of a link", add(rtnl.LinkSpec{Kind: "bridge", Master: 99}), `rtnl: add bridge link: invalid argument (…)`},
		{"MAC of a link", add(rtnl.LinkSpec{Kind: "bridge", MAC: net.HardwareAddr{1}}), `rtnl: add bridge link: invalid argument (hardware address of 1 bytes, want 6)`},
		{"group MAC of a link", add(rtnl.LinkSpec{Kind: "bridge", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}), `rtnl: add bridge link: cannot assign requested address (…)`},
		{"MTU of a link", add(rtnl.LinkSpec{Kind: "bridge", MTU: -1}), `rtnl: add bridge link: invalid argument (MTU -1)`},
		{"closed namespace", add(rtnl.LinkSpec{Kind: "bridge", NetNS: closed}), `rtnl: add bridge link: file already closed (NetNS)`},
		{"no namespace", add(rtnl.LinkSpec{Kind: "bridge", NetNS: null}), `rtnl: add bridge link: invalid argument (…)`},

		{"address, index", nl(func(c *rtnl.Conn, _ int) error { return c.AddrAdd(99, prefix[0]) }), `rtnl: add address 10.0.0.1/24 on interface 99: no such device (…)`},
		{"address, not there", nl(func(c *rtnl.Conn, i int) error { return c.AddrDel(i, prefix[1]) }), `rtnl: delete address 10.9.0.0/16 on interface 1048576: cannot assign requested address (…)`},
		{"lifetime", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, prefix[1], rtnl.Lifetime{Valid: 1}) }), `rtnl: add address 10.9.0.0/16 on interface 1048576: invalid argument (lifetime 1ns, preferred 0s)`},
		{"label of IPv6", nl(func(c *rtnl.Conn, i int) error { return c.AddrAdd(i, prefix[2], rtnl.Label("x")) }), `rtnl: add address fc09::/16 on interface 1048576: invalid argument (only IPv4 addresses have labels)`},
		{"route, neither gateway nor interface", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[1], netip.Addr{}, 0) }), `rtnl: add route 10.9.0.0/16: no such device (…)`},
		{"route, host bits", nl(func(c *rtnl.Conn, i int) error {
			return c.RouteAdd(testenv.Prefixes("10.9.0.1/16")[0], netip.Addr{}, i)
		}), `rtnl: add route 10.9.0.1/16 on interface 1048576: invalid argument (…)`},
		{"route, family", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[2], gw, 0) }), `rtnl: add route fc09::/16 via 192.0.2.1: invalid argument (gateway 192.0.2.1 is not of the family of the other address)`},
		{"route, index", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[1], netip.Addr{}, 99) }), `rtnl: add route 10.9.0.0/16 on interface 99: no such device (…)`},
		{"route, mapped gateway", nl(func(c *rtnl.Conn, _ int) error { return c.RouteAdd(prefix[1], testenv.Addrs("::ffff:10.0.0.2")[0], 0) }), `rtnl: add route 10.9.0.0/16 via ::ffff:10.0.0.2: invalid argument (gateway ::ffff:10.0.0.2: an IPv4 address in IPv6 form, use Unmap)`},
		{"route, source", nl(func(c *rtnl.Conn, i int) error { return c.RouteAdd(prefix[1], netip.Addr{}, i, rtnl.Source(gw)) }), `rtnl: add route 10.9.0.0/16 on interface 1048576: invalid argument (…)`},
		{"route twice", nl(func(c *rtnl.Conn, i int) error { return c.RouteAdd(prefix[0].Masked(), netip.Addr{}, i) }), `rtnl: add route 10.0.0.0/24 on interface 1048576: file exists (…)`},
		{"neighbour, zero", nl(func(c *rtnl.Conn, i int) error { return c.NeighborAdd(rtnl.Neighbor{IfIndex: i}) }), `rtnl: add neighbour invalid IP on interface 1048576: invalid argument (the address is not valid)`},
		{"neighbour, MAC", nl(func(c *rtnl.Conn, i int) error {
			return c.NeighborAdd(rtnl.Neighbor{IfIndex: i, Addr: gw, HardwareAddr: net.HardwareAddr{2}})
		}), `rtnl: add neighbour 192.0.2.1 on interface 1048576: invalid argument (hardware address of 1 bytes, want 6)`},
		{"neighbour, index", nl(func(c *rtnl.Conn, _ int) error {
			return c.NeighborAdd(rtnl.Neighbor{IfIndex: 99, Addr: gw, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
		}), `rtnl: add neighbour 192.0.2.1 on interface 99: no such device (…)`},
		{"neighbour, not there", nl(func(c *rtnl.Conn, i int) error { return c.NeighborDel(i, gw) }), `rtnl: delete neighbour 192.0.2.1 on interface 1048576: no such file or directory (…)`},
		{"closed", nl(func(c *rtnl.Conn, _ int) error { c.Close(); _, err := c.Links(); return err }), `rtnl: list links: use of closed network connection`},
		{"closed, watch", nl(func(c *rtnl.Conn, _ int) error {
			c.Close()
			for _, err := range c.Watch(t.Context()) {
				return err
			}
			return nil
		}), `rtnl: watch: use of closed network connection`},
	})
}
