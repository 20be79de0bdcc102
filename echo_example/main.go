// Echo_example is an echo server with a TCP/IP stack of its own.
//
//	go run ./echo_example vxvde://234.0.0.1
//
// listens on TCP port 5000 of 10.0.0.50/24 and fc00::1:50/64, with default
// gateways at 10.0.0.60 and fc00::1:60, until it is interrupted. Any other
// program on the network can be its client, such as one in a namespace of vdens:
//
//	vdens vxvde://234.0.0.1
//	ip addr add 10.0.0.1/24 dev vde0; ip link set vde0 up; nc 10.0.0.50 5000
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
	"os/signal"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
)

func main() {
	config := flag.String("config", "netlink", "`how` the interface is configured: by netlink, or by commands (ip, in the stack)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: echo_example [-config netlink|commands] [locator]")
		flag.PrintDefaults()
	}
	flag.Parse()
	configure := map[string]func(context.Context, *vdestack.Stack) error{
		"commands": byCommands, "netlink": byNetlink,
	}[*config]
	if configure == nil || flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), configure); err != nil {
		fmt.Fprintln(os.Stderr, "echo_example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, vnl string, configure func(context.Context, *vdestack.Stack) error) error {
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
	if err := configure(ctx, server); err != nil {
		return err
	}

	// An IPv6 socket, which takes IPv4 too.
	ln, err := server.Listen("tcp", "[::]:5000")
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Printf("listening on %v of 10.0.0.50 and fc00::1:50, on %s\n", ln.Addr(), vnl)

	failed := make(chan error, 1)
	go func() { failed <- serve(ln) }()
	if demo {
		return visit(ctx, vnl)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done(): // interrupted: Close says good-bye to the network
		return nil
	}
}

// byCommands configures the interface as one would at a shell. Without nodad,
// an IPv6 address is not reachable before duplicate address detection has
// ended, after one or two seconds.
func byCommands(ctx context.Context, s *vdestack.Stack) error {
	return s.Run(ctx, `
		ip link set vde0 up;
		ip addr add 10.0.0.50/24 dev vde0;
		ip addr add fc00::1:50/64 dev vde0 nodad;
		ip route add default via 10.0.0.60;
		ip -6 route add default via fc00::1:60`)
}

// byNetlink does the same without a program.
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
		nl.AddrAdd(vde0, netip.MustParsePrefix("10.0.0.50/24")),
		nl.AddrAdd(vde0, netip.MustParsePrefix("fc00::1:50/64"), rtnl.NoDAD),
		nl.RouteAdd(anywhere, netip.MustParseAddr("10.0.0.60"), vde0),
		nl.RouteAdd(anywhere, netip.MustParseAddr("fc00::1:60"), vde0),
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

// visit is a client in a stack of its own: it says something over IPv4 and over
// IPv6, and prints what comes back.
func visit(ctx context.Context, vnl string) error {
	client, err := vdestack.Open(vnl, "10.0.0.1/24", "fc00::1:1/64")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, server := range []string{"10.0.0.50:5000", "[fc00::1:50]:5000"} {
		if err := say(ctx, client, server, "hello from far away"); err != nil {
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
