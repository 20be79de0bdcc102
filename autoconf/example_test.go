package autoconf_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf"
)

func Example() {
	ctx := context.Background()
	st, err := vdestack.Open("vxvde://234.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	cfg, err := autoconf.Parse("auto,slaac,fqdn=host.example.org")
	if err != nil {
		log.Fatal(err)
	}
	c, err := autoconf.Start(ctx, st, cfg)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range c.Leases() {
		fmt.Println(l.Source, l.Addrs)
	}
	for e, err := range c.Watch(ctx) {
		fmt.Println(e.Source, e.Lease.Addrs, e.Err, err)
	}
}

func ExampleHash() {
	h := autoconf.Hash{Name: "host.example.org"}
	fmt.Println(h.MAC())
	// Output: ca:17:0a:62:29:2f
}
