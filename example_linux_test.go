package vdestack_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/vdestack/vdestack"
	"golang.org/x/sys/unix"
)

// What a stack has.
func Example_use() {
	ctx := context.Background()
	st, err := vdestack.Open("mem://lab", "10.0.0.2/24")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()

	// Dial, DialContext, Listen, ListenPacket: as in package net.
	conn, err := st.Dial("tcp", "10.0.0.1:5000")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	// Anything with a Dial function.
	client := &http.Client{Transport: &http.Transport{DialContext: st.DialContext}}
	defer client.CloseIdleConnections()

	// net.Dialer and net.ListenConfig with all their fields, or just the hook in
	// those of another library.
	d := vdestack.Dialer{Stack: st, Dialer: net.Dialer{Timeout: time.Second}}
	other := &net.Dialer{ControlContext: st.ControlContext}
	for _, dial := range []func(ctx context.Context, network, address string) (net.Conn, error){d.DialContext, other.DialContext} {
		if c, err := dial(ctx, "tcp", "10.0.0.1:5000"); err == nil {
			c.Close()
		}
	}

	// Programs in the stack, as with os/exec; ip, ping and tcpdump work for an ordinary user.
	out, err := st.Command(ctx, "ping", "-c", "1", "10.0.0.1").Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)

	// Configuration by netlink: links, addresses and routes; and any other family.
	nl, err := st.RTNL()
	if err != nil {
		log.Fatal(err)
	}
	err = nl.RouteAdd(netip.Prefix{}, netip.MustParseAddr("10.0.0.254"), 0)
	if err != nil {
		log.Fatal(err)
	}
	c, err := st.Netlink(unix.NETLINK_GENERIC)
	if err != nil {
		log.Fatal(err)
	}
	defer nl.Close()
	defer c.Close()

	// Ports that lead from the host to a server in the stack, and the other way.
	in, err := st.ForwardIn(ctx, "tcp", "127.0.0.1:8080", "10.0.0.2:80", nil)
	if err != nil {
		log.Fatal(err)
	}
	back, err := st.ForwardOut(ctx, "tcp", "10.0.0.2:5432", "unix:/run/db/socket", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(in.Addr(), back.Addr())

	// Names, as by a net.Resolver, from the stack's DNS alone.
	mxs, err := st.LookupMX(ctx, "example.org")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(mxs))

	// What works on this machine, why the rest does not, and what to do about it.
	r, err := vdestack.Check(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Err())
}

// A stack with several interfaces, and one that comes later.
func ExampleStack_AddInterface() {
	ctx := context.Background()
	addrs, gateways := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, []netip.Addr{netip.MustParseAddr("10.0.0.254")}
	more := []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}
	servers := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53")}
	file, err := os.Create("lab.pcapng")
	if err != nil {
		log.Fatal(err)
	}

	// Several interfaces, names, MTU, gateways, DNS, recordings. They can come and go while the
	// stack is in use.
	st, err := vdestack.New(ctx, vdestack.Config{
		Interfaces: []vdestack.Interface{
			{VNL: "vde:///run/switch[3]", Addrs: addrs, Gateways: gateways},
			{VNL: "mem://lab", Name: "lab0", MTU: 9000, Capture: file},
		},
		DNS: vdestack.DNS{Servers: servers},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = st.AddInterface(ctx, vdestack.Interface{VNL: "vxvde://234.0.0.1", Name: "vx0", Addrs: more})
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
}

// A search domain, next to what others set.
func ExampleStack_CompareAndSwapDNS() {
	st, err := vdestack.Open("")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	for swapped := false; !swapped && err == nil; {
		old := st.DNS()
		d := old
		d.Search = append(d.Search, "lab.example")
		swapped, err = st.CompareAndSwapDNS(old, d)
	}
	fmt.Println(st.DNS().Search, err)
	// Output: [lab.example] <nil>
}
