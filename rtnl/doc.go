// Package rtnl configures the network stack of Linux over netlink. It adds, removes,
// lists and watches links, addresses, routes and neighbours, and has the rules that choose
// routing tables.
//
// It works on any stack that can make a socket: a
// [github.com/vdestack/vdestack.Stack], the process's own with Dial(nil), or a
// [SocketMaker] of yours. A [Conn] stays in its stack, and any number of goroutines
// may use it.
//
//	c, err := rtnl.Dial(nil) // or a stack
//	…
//	defer c.Close()
//	eth, err := c.IfNameToIndex("vde0")
//	…
//	err = c.AddrAdd(eth, netip.MustParsePrefix("10.0.0.1/24"))
//	…
//	err = c.LinkSetUp(eth)
//	…
//	err = c.RouteAdd(netip.Prefix{}, netip.MustParseAddr("10.0.0.254"), 0)
//
// Methods name an interface by its index, which stays when the name changes.
// Loopback has index 1.
//
// # Replacing nlinline
//
// Each function of nlinline has a method that sends the same bytes, so C and Go
// programs see the same results and delete each other's routes:
//
//	if_nametoindex                Conn.IfNameToIndex
//	linksetupdown                 Conn.LinkSetUp, Conn.LinkSetDown
//	linksetaddr, linkgetaddr      Conn.LinkSetAddr, Conn.LinkAddr
//	linksetmtu                    Conn.LinkSetMTU
//	iplink_add, iplink_del        Conn.LinkAdd, Conn.LinkDel, Conn.LinkDelName
//	ipaddr_add, ipaddr_del        Conn.AddrAdd, Conn.AddrDel
//	iproute_add, iproute_del      Conn.RouteAdd, Conn.RouteDel
//	addrdata2prefix and others    AddrOption, RouteOption
//	nldialog                      Conn.Execute
//	getifaddrs (libioth)          Conn.Links, Conn.Addrs
//
// # Options
//
// Flags, scopes, tables and the like have types of their own, and each value is an
// option:
//
//	c.AddrAdd(eth, prefix, rtnl.NoDAD, rtnl.ScopeLink)
//	c.RouteAdd(dst, gateway, 0, rtnl.Table(100), rtnl.Metric(5))
//	c.RouteAdd(dst, gateway, 0, rtnl.Source(netip.MustParseAddr("10.0.0.2")))
//	c.RouteAdd(dst, netip.Addr{}, 0, rtnl.Blackhole)
//
// AddrReplace changes the lifetime of an address, and RouteAppend that of an IPv6 route.
// Nothing else is replaced: to change an address or a route, remove it and add it again.
//
// # Removing
//
//   - [Conn.AddrDel] and [Conn.RouteDel] send nlinline's requests. What a request
//     leaves out matches anything, so it may remove an entry of another program.
//   - [Conn.AddrRemove], [Conn.RouteRemove], [Conn.NeighborRemove] and [Conn.RuleDel]
//     take an entry as it was listed, and remove that one only.
//
// # Errors
//
// Every error is an [*Error]. It unwraps to the kernel's errno, so
// errors.Is(err, fs.ErrExist) and errors.Is(err, unix.ENODEV) work, and includes the
// kernel's explanation:
//
//	rtnl: add route default via 10.0.0.9: network is unreachable (Nexthop has invalid gateway)
//
// Arguments that do not fit into a message are not sent. The error has the errno that
// the kernel uses for them.
package rtnl
