// Echo_example is an echo server with a TCP/IP stack of its own.
//
// It is the example of the Internet of Threads tutorial about libvdestack, in Go:
// both of its versions, which differ in how they configure the stack.
//
//	go run ./echo_example -config commands vxvde://234.0.0.1
//	go run ./echo_example -config netlink vxvde://234.0.0.1
//
// The first, vdestack6 of the tutorial, runs busybox or ip in the stack; it has the
// addresses 10.0.0.50/24 and fc00::1:50/64, and no gateway. The second, vdestack6nl and
// the default, uses netlink; it has 10.0.0.60/24 and fc00::1:60/64, and default gateways
// at 10.0.0.1 and fc00::1:1. Either listens on TCP port 5000 until it is interrupted. Any
// other program on the network can be its client, such as one in a namespace of vdens:
//
//	vdens vxvde://234.0.0.1
//	ip addr add 10.0.0.1/24 dev vde0
//	ip addr add fc00::1:1/64 dev vde0
//	ip link set vde0 up
//	nc 10.0.0.60 5000
//
// Without a locator a second stack of the same process is the client, on a
// network inside the process.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
)

func main() {
	config := flag.String("config", "netlink", "`how` the interface is configured: by netlink, or by commands (busybox or ip, in the stack)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: echo_example [-config netlink|commands] [locator]")
		flag.PrintDefaults()
	}
	flag.Parse()
	setup, ok := setups[*config]
	if !ok || flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// One that was interrupted has ended as it should.
	if err := run(ctx, flag.Arg(0), setup); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "echo_example:", err)
		os.Exit(1)
	}
}

// A setup is one of the tutorial's: the addresses of the server, and what gives them
// to it.
type setup struct {
	addr4, addr6 string
	configure    func(context.Context, *vdestack.Stack) error
}

var setups = map[string]setup{
	"commands": {"10.0.0.50", "fc00::1:50", byCommands},
	"netlink":  {"10.0.0.60", "fc00::1:60", byNetlink},
}

func run(ctx context.Context, vnl string, how setup) error {
	demo := vnl == ""
	if demo {
		vnl = "mem://echo_example"
	}
	// The interface is left down and without addresses, to show how it is
	// configured afterwards: see visit for the short way.
	server, err := vdestack.New(ctx, vdestack.Config{
		Name:       "echo server",
		Interfaces: []vdestack.Interface{{VNL: vnl, Name: "vde0", Down: true}},
	})
	if err != nil {
		return err
	}
	defer server.Close()
	if err := how.configure(ctx, server); err != nil {
		return err
	}

	// An IPv6 socket, which takes IPv4 too.
	ln, err := server.Listen("tcp", "[::]:5000")
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Printf("listening on %v of %s and %s, on %s\n", ln.Addr(), how.addr4, how.addr6, vnl)

	failed := make(chan error, 1)
	go func() { failed <- serve(ln) }()
	if demo {
		if err := usable(ctx, server, netip.MustParseAddr(how.addr6)); err != nil {
			return err
		}
		return visit(ctx, vnl, how)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done(): // interrupted: Close says good-bye to the network
		return nil
	}
}

// byCommands configures the interface as one would at a shell. The IPv6 address can
// be reached when duplicate address detection has ended, after one or two seconds.
func byCommands(ctx context.Context, s *vdestack.Stack) error {
	ip := "ip"
	if busybox, err := exec.LookPath("busybox"); err == nil {
		ip = busybox + " ip"
	}
	return s.Run(ctx, ip+" addr add 10.0.0.50/24 dev vde0;"+
		ip+" addr add fc00::1:50/64 dev vde0;"+
		ip+" link set vde0 up")
}

// byNetlink needs no program.
func byNetlink(_ context.Context, s *vdestack.Stack) error {
	nl, err := s.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	vde0, err := nl.IfNameToIndex("vde0")
	if err != nil {
		return err
	}
	var anywhere netip.Prefix // the zero destination is that of a default route
	return errors.Join(
		nl.LinkSetUp(vde0),
		nl.AddrAdd(vde0, netip.MustParsePrefix("10.0.0.60/24")),
		nl.RouteAdd(anywhere, netip.MustParseAddr("10.0.0.1"), 0),
		nl.AddrAdd(vde0, netip.MustParsePrefix("fc00::1:60/64"), rtnl.NoDAD), // usable at once
		nl.RouteAdd(anywhere, netip.MustParseAddr("fc00::1:1"), 0),
	)
}

// serve returns to every client what it sends, until it sends no more.
func serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// usable waits until duplicate address detection has ended for the address.
func usable(ctx context.Context, s *vdestack.Stack, addr netip.Addr) error {
	nl, err := s.RTNL()
	if err != nil {
		return err
	}
	defer nl.Close()
	changes := nl.Watch(ctx) // from before the look, so that none is missed
	addrs, err := nl.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() == addr && a.Flags&rtnl.Tentative == 0 {
			return nil
		}
	}
	for e, err := range changes {
		if err != nil {
			return err
		}
		if e.Addr != nil && e.Addr.Prefix.Addr() == addr && e.Addr.Flags&rtnl.Tentative == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

// visit is a client in a stack of its own: it says something over IPv4 and over
// IPv6, and prints what comes back.
func visit(ctx context.Context, vnl string, to setup) error {
	client, err := vdestack.Open(vnl, "10.0.0.1/24", "fc00::1:1/64")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, addr := range []string{to.addr4, to.addr6} {
		if err := say(ctx, client, net.JoinHostPort(addr, "5000"), "hello from far away"); err != nil {
			return err
		}
	}
	return nil
}

func say(ctx context.Context, client *vdestack.Stack, server, words string) error {
	conn, err := client.DialContext(ctx, "tcp", server)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Printf("%v says to %v: %s\n", conn.LocalAddr(), conn.RemoteAddr(), words)
	if _, err := fmt.Fprintln(conn, words); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Printf("%v answers: %s", conn.RemoteAddr(), answer)
	return nil
}
