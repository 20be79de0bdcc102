package vdestack_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"

	"github.com/vdestack/vdestack"
)

// Two stacks of one process on a switch inside it: a web server and its client.
func Example() {
	server, err := vdestack.Open("mem://example", "10.0.0.1/24")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := vdestack.Open("mem://example", "10.0.0.2/24")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ln, err := server.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s", host)
	}))

	resp, err := client.HTTPClient().Get("http://10.0.0.1/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n", body)
	// Output: hello 10.0.0.2
}

// A web server on a network.
func ExampleOpen() {
	handler := http.FileServer(http.Dir("."))

	st, err := vdestack.Open("vxvde://234.0.0.1", "10.0.0.50/24", "fc00::1:50/64")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	ln, err := st.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	http.Serve(ln, handler)
}

// A dialer of another library joins a stack by its hook.
func ExampleStack_ControlContext() {
	st, err := vdestack.Open("")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	ln, err := st.Listen("tcp", "127.0.0.1:80") // of the stack, not of the host
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	d := net.Dialer{ControlContext: st.ControlContext}
	c, err := d.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.RemoteAddr())
	// Output: 127.0.0.1:80
}

// Two stacks whose network is a loop of the program, as a VPN would be.
func ExampleStack_TUN() {
	var stacks [2]*vdestack.Stack
	var tuns [2]*vdestack.TUN
	for i, addr := range []string{"10.0.0.1/24", "10.0.0.2/24"} {
		st, err := vdestack.Open("")
		if err != nil {
			log.Fatal(err)
		}
		defer st.Close() // ends the TUN, and the loop that reads from it
		stacks[i] = st
		tuns[i], err = st.TUN(vdestack.TUNConfig{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
		if err != nil {
			log.Fatal(err)
		}
	}
	carry := func(from, to *vdestack.TUN) {
		bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 1500)
		}
		packets := make([][]byte, len(bufs))
		for {
			n, err := from.Read(bufs, sizes, 0)
			if err != nil {
				return
			}
			for i := range n {
				packets[i] = bufs[i][:sizes[i]]
			}
			to.Write(packets[:n], 0)
		}
	}
	go carry(tuns[0], tuns[1])
	go carry(tuns[1], tuns[0])

	ln, err := stacks[0].Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	conn, err := stacks[1].Dial("tcp", "10.0.0.1:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.LocalAddr().(*net.TCPAddr).IP)
	// Output: 10.0.0.2
}

// Names are the stack's own.
func ExampleNew() {
	st, err := vdestack.New(context.Background(), vdestack.Config{
		Name: "lab",
		Interfaces: []vdestack.Interface{{
			VNL:      "mem://lab",
			MTU:      9000,
			Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254")},
		}},
		DNS: vdestack.DNS{Hosts: map[string][]netip.Addr{"printer": {netip.MustParseAddr("10.0.0.9")}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	addrs, err := st.LookupNetIP(context.Background(), "ip", "printer")
	fmt.Println(addrs, err)
	// Output: [10.0.0.9] <nil>
}

// Programs run in the stack.
func ExampleStack_Command() {
	st, err := vdestack.Open("")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	err = st.Command(context.Background(), "ip", "link", "set", "lo", "mtu", "1500").Run()
	fmt.Println(err)
	// Output: <nil>
}
