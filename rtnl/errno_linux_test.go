package rtnl_test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

var (
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
	check  = testenv.Check
)

// addLink makes a link.
func addLink(t testing.TB, c *rtnl.Conn, l rtnl.LinkSpec) int {
	t.Helper()
	i, err := c.LinkAdd(l)
	check(t, err)
	return i
}

// upPair makes the veth pair v0, v1, both up, with 10.0.0.1/24 and fd00::1/64
// on v0, and sets loopback up.
func upPair(t testing.TB, c *rtnl.Conn) (v0, v1 int) {
	t.Helper()
	v0 = addLink(t, c, rtnl.LinkSpec{Name: "v0", Kind: "veth", Peer: &rtnl.LinkSpec{Name: "v1"}})
	v1, err := c.IfNameToIndex("v1")
	check(t, err)
	for _, i := range []int{1, v0, v1} {
		check(t, c.LinkSetUp(i))
	}
	check(t, c.AddrAdd(v0, prefix("10.0.0.1/24")))
	check(t, c.AddrAdd(v0, prefix("fd00::1/64"), rtnl.NoDAD))
	return v0, v1
}

// TestErrno compares results with those of C nlinline.
func TestErrno(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	var (
		none  netip.Prefix
		noGW  netip.Addr
		gw4   = addr("10.0.0.254")
		gw6   = addr("fd00::fe")
		dev   = prefix("10.7.0.0/16")
		mac   = net.HardwareAddr{2, 0, 0, 0, 0, 9}
		neigh = rtnl.Neighbor{IfIndex: v0, Addr: addr("10.0.0.2"), HardwareAddr: mac}
	)
	lookup := func(name string) error { _, err := c.IfNameToIndex(name); return err }
	linkAddr := func(i int) error { _, err := c.LinkAddr(i); return err }
	add := func(l rtnl.LinkSpec) error { _, err := c.LinkAdd(l); return err }
	vnl := []netlink.Attribute{{Type: 1, Data: []byte("vxvde://\x00")}}
	tests := []struct {
		name string
		err  error
		want error
	}{
		{"lookup of an unknown name", lookup("nosuch"), unix.ENODEV},
		{"up, unknown index", c.LinkSetUp(9999), unix.ENODEV},
		{"up, index 0", c.LinkSetUp(0), unix.EINVAL},
		{"hardware address", c.LinkSetAddr(v0, mac), nil},
		{"hardware address, unknown index", c.LinkSetAddr(9999, mac), unix.ENODEV},
		{"hardware address, multicast", c.LinkSetAddr(v0, net.HardwareAddr{1, 0, 0, 0, 0, 9}), unix.EADDRNOTAVAIL},
		{"hardware address of an unknown index", linkAddr(9999), unix.ENODEV},
		{"MTU 10", c.LinkSetMTU(v0, 10), unix.EINVAL},
		{"MTU, unknown index", c.LinkSetMTU(9999, 1400), unix.ENODEV},

		{"address", c.AddrAdd(v0, prefix("10.0.1.1/24")), nil},
		{"address twice", c.AddrAdd(v0, prefix("10.0.1.1/24")), unix.EEXIST},
		{"address twice, as fs.ErrExist", c.AddrAdd(v0, prefix("fd00::1/64")), fs.ErrExist},
		{"address with prefix 33", c.AddrAdd(v0, netip.PrefixFrom(gw4, 33)), unix.EINVAL},
		{"address, unknown index", c.AddrAdd(9999, prefix("10.0.2.1/24")), unix.ENODEV},
		{"delete address", c.AddrDel(v0, prefix("10.0.1.1/24")), nil},
		{"delete missing address", c.AddrDel(v0, prefix("10.0.1.1/24")), unix.EADDRNOTAVAIL},
		{"delete missing IPv6 address", c.AddrDel(v0, prefix("fd00::99/64")), unix.EADDRNOTAVAIL},

		{"route, gateway unreachable", c.RouteAdd(none, addr("192.168.9.9"), 0), unix.ENETUNREACH},
		{"IPv6 route, gateway unreachable", c.RouteAdd(none, addr("fd99::9"), 0), unix.EHOSTUNREACH},
		{"route", c.RouteAdd(none, gw4, 0), nil},
		{"route twice", c.RouteAdd(none, gw4, 0), unix.EEXIST},
		{"IPv6 route", c.RouteAdd(none, gw6, 0), nil},
		{"IPv6 route, other gateway", c.RouteAdd(none, addr("fd00::fd"), 0), unix.EEXIST},
		{"IPv6 link-local gateway without index", c.RouteAdd(prefix("fd77::/64"), addr("fe80::1"), 0), unix.EINVAL},
		{"IPv6 link-local gateway", c.RouteAdd(prefix("fd77::/64"), addr("fe80::1"), v0), nil},
		{"device route", c.RouteAdd(dev, noGW, v0), nil},
		{"gateway 0.0.0.0", c.RouteAdd(prefix("10.8.0.0/16"), addr("0.0.0.0"), 0), unix.ENODEV},
		{"route, bits after the prefix", c.RouteAdd(prefix("10.0.0.1/8"), gw4, 0), unix.EINVAL},
		{"route, unknown index", c.RouteAdd(prefix("10.8.0.0/16"), noGW, 9999), unix.ENODEV},
		{"delete route", c.RouteDel(none, gw4, 0), nil},
		{"delete missing route", c.RouteDel(none, gw4, 0), unix.ESRCH},
		{"delete missing IPv6 route", c.RouteDel(prefix("fd88::/64"), gw6, 0), unix.ESRCH},
		{"delete route of the kernel", c.RouteDel(prefix("10.0.0.0/24"), noGW, v0), unix.ESRCH},

		{"link, name used", add(rtnl.LinkSpec{Name: "v0", Kind: "bridge"}), unix.EEXIST},
		{"link, index used", add(rtnl.LinkSpec{Name: "new", Index: v0, Kind: "bridge"}), unix.EEXIST},
		{"link, unknown kind", add(rtnl.LinkSpec{Name: "x0", Kind: "nosuch"}), unix.EOPNOTSUPP},
		{"link, unknown kind, as ErrUnsupported", add(rtnl.LinkSpec{Name: "x0", Kind: "nosuch"}), errors.ErrUnsupported},
		{"link of kind vde", add(rtnl.LinkSpec{Name: "x0", Kind: "vde", Data: vnl}), unix.EOPNOTSUPP},
		{"vxlan without id", add(rtnl.LinkSpec{Name: "x0", Kind: "vxlan"}), unix.EINVAL},
		{"link, unknown parent", add(rtnl.LinkSpec{Name: "x0", Kind: "macvlan", Parent: 9999}), unix.ENODEV},
		{"delete unknown link", c.LinkDel(9999), unix.ENODEV},
		{"delete link 0", c.LinkDel(0), unix.EINVAL},
		{"delete loopback", c.LinkDel(1), unix.EOPNOTSUPP},
		{"unknown master", c.LinkSetMaster(v0, 9999), unix.EINVAL},
		// Linux before 6.2 renames no interface that is up.
		{"rename to a used name", c.LinkSetName(addLink(t, c, rtnl.LinkSpec{Name: "down", Kind: "bridge"}), "v1"), unix.EEXIST},

		{"neighbour", c.NeighborAdd(neigh), nil},
		{"neighbour twice", c.NeighborAdd(neigh), unix.EEXIST},
		{"delete neighbour", c.NeighborDel(v0, neigh.Addr), nil},
		{"delete missing neighbour", c.NeighborDel(v0, neigh.Addr), unix.ENOENT},
		{"delete missing neighbour, as fs.ErrNotExist", c.NeighborDel(v0, neigh.Addr), fs.ErrNotExist},
	}
	for _, tt := range tests {
		if !errors.Is(tt.err, tt.want) || tt.want == nil && tt.err != nil {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, tt.want)
		}
		if e, ok := errors.AsType[*rtnl.Error](tt.err); tt.err != nil && (!ok || e.Op == "") {
			t.Errorf("%s: %#v is not an *rtnl.Error with an operation", tt.name, tt.err)
		}
	}
}

// TestExtendedAck wants the kernel's explanation in the text.
func TestExtendedAck(t *testing.T) {
	c, _ := dial(t)
	upPair(t, c)
	err := c.RouteAdd(netip.Prefix{}, addr("192.168.9.9"), 0)
	want := "rtnl: add route default via 192.168.9.9: network is unreachable (Nexthop has invalid gateway)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

// TestUnprivileged wants EPERM where the process has no rights.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root may configure its own namespace")
	}
	c := dialTo(t, nil)
	lo, err := c.IfNameToIndex("lo")
	check(t, err)
	err = c.LinkSetUp(lo)
	if os.Geteuid() == 0 {
		check(t, err)
	} else if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}
