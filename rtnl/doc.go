// Package rtnl configures the network stack of Linux over netlink: links,
// addresses, routes and neighbours are added, removed, listed and watched.
//
// It works on any stack that can make a socket: a
// [github.com/vdestack/vdestack.Stack], the stack of the process with Dial(nil), or any
// other [SocketMaker]. A [Conn] stays in its stack and serves any number of goroutines.
//
//	c, err := rtnl.Dial(stack)
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
// Flags, scopes, tables and so on have types of their own, and each value is an option:
//
//	c.AddrAdd(eth, prefix, rtnl.NoDAD, rtnl.ScopeLink)
//	c.RouteAdd(dst, gateway, 0, rtnl.Table(100), rtnl.Metric(5))
//	c.RouteAdd(dst, netip.Addr{}, 0, rtnl.Blackhole)
//
// # Errors
//
// Every error is an [*Error]. It unwraps to the errno of the kernel, so
// errors.Is(err, fs.ErrExist) and errors.Is(err, unix.ENETUNREACH) work, and has the
// kernel's own text:
//
//	rtnl: add route default via 10.0.0.9: network is unreachable (Nexthop has invalid gateway)
//
// Arguments that no message can hold are refused before one is sent, with the errno that
// the kernel has for them.
package rtnl
