package rtnl_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/netip"
	"os"
	"syscall"

	"github.com/vdestack/vdestack/rtnl"
)

// Give an interface an address and a default route.
func Example() {
	c, err := rtnl.Dial(nil) // or a stack
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	eth, err := c.IfNameToIndex("vde0")
	if err != nil {
		log.Fatal(err)
	}
	err = c.AddrAdd(eth, netip.MustParsePrefix("10.0.0.1/24"))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		log.Fatal(err)
	}
	err = c.LinkSetUp(eth)
	if err != nil {
		log.Fatal(err)
	}
	err = c.RouteAdd(netip.Prefix{}, netip.MustParseAddr("10.0.0.254"), 0)
	if err != nil {
		log.Fatal(err)
	}
}

// An address that can be used at once, and routes of all kinds.
func Example_options() {
	c, err := rtnl.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	eth, prefix := 2, netip.MustParsePrefix("fc00::1/64")
	dst, gateway := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.0.0.254")

	c.AddrAdd(eth, prefix, rtnl.NoDAD, rtnl.ScopeLink)
	c.RouteAdd(dst, gateway, 0, rtnl.Table(100), rtnl.Metric(5))
	c.RouteAdd(dst, gateway, 0, rtnl.Source(netip.MustParseAddr("10.0.0.2")))
	c.RouteAdd(dst, netip.Addr{}, 0, rtnl.Blackhole)
}

// Join two network namespaces with a veth pair.
func ExampleConn_LinkAdd() {
	c, err := rtnl.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	other, err := os.Open("/run/netns/other")
	if err != nil {
		log.Fatal(err)
	}
	defer other.Close()
	index, err := c.LinkAdd(rtnl.LinkSpec{
		Name: "left",
		Kind: "veth",
		Peer: &rtnl.LinkSpec{Name: "right", NetNS: other},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("left has index", index)
}

// Routes with options: in a table of their own, and one that drops packets.
func ExampleConn_RouteAdd() {
	c, err := rtnl.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	gateway := netip.MustParseAddr("10.0.0.254")
	if err := c.RouteAdd(netip.MustParsePrefix("10.1.0.0/16"), gateway, 0, rtnl.Table(100), rtnl.Metric(5)); err != nil {
		log.Fatal(err)
	}
	if err := c.RouteAdd(netip.MustParsePrefix("192.168.0.0/16"), netip.Addr{}, 0, rtnl.Blackhole); err != nil {
		log.Fatal(err)
	}
}

// Follow the addresses of a stack: all there are, then all that change.
func ExampleConn_Watch() {
	c, err := rtnl.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := c.Watch(ctx)

	list := func() {
		addrs, err := c.Addrs()
		if err != nil {
			log.Fatal(err)
		}
		for _, a := range addrs {
			fmt.Println(a.Name, a.Prefix)
		}
	}
	list()
	for e, err := range events {
		switch {
		case errors.Is(err, syscall.ENOBUFS):
			list() // changes were lost
		case err != nil:
			log.Print(err)
		case e.Addr != nil && e.Deleted:
			fmt.Println("gone:", e.Addr.Prefix)
		case e.Addr != nil:
			fmt.Println("new:", e.Addr.Prefix)
		}
	}
}

func ExampleError() {
	err := error(&rtnl.Error{
		Op:   "add address",
		What: "10.0.0.1/24 on interface 2",
		Err:  syscall.EEXIST,
		Msg:  "Address already assigned",
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, fs.ErrExist))
	// Output:
	// rtnl: add address 10.0.0.1/24 on interface 2: file exists (Address already assigned)
	// true
}
