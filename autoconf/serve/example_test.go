package serve_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf"
	"github.com/vdestack/vdestack/autoconf/serve"
)

// A lab of several networks, whose hosts reach each other by the server.
func ExampleStart() {
	server, err := vdestack.Open("mem://lab", "10.0.0.1/24")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	err = server.AddInterface(context.Background(), vdestack.Interface{
		VNL:   "mem://other",
		Name:  "other0",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"vde0", "other0"} {
		if _, err := serve.Start(server, serve.Config{Interface: name}); err != nil {
			log.Fatal(err)
		}
	}
	err = server.Sysctl("net/ipv4/ip_forward", "1")
	if err != nil {
		log.Fatal(err)
	}
	err = server.Sysctl("net/ipv6/conf/all/forwarding", "1")
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	server, err := vdestack.Open("mem://lab", "10.0.0.1/24")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	s, err := serve.Start(server, serve.Config{Domain: "lab.example"})
	if err != nil {
		log.Fatal(err)
	}
	cfg, err := autoconf.Parse("vnl=mem://lab,auto4,fqdn=web.lab.example")
	if err != nil {
		log.Fatal(err)
	}
	web, err := autoconf.Open(context.Background(), cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer web.Close()
	if err := server.SetDNS(vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.LookupHost(context.Background(), "web.lab.example"))
	for _, l := range s.Leases() {
		fmt.Println(l.Name, l.Addr)
	}
	// Output:
	// [10.0.0.2] <nil>
	// web.lab.example 10.0.0.2
}
