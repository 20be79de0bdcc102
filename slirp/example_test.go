package slirp_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vdestack/vdestack"
	_ "github.com/vdestack/vdestack/slirp"
)

// A stack that reaches what the host reaches.
func Example() {
	ctx := context.Background()

	st, err := vdestack.New(ctx, vdestack.Config{
		Interfaces: []vdestack.Interface{{
			VNL:      "slirp://",
			Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.2.2")},
		}},
		DNS: vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.2.3:53")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	fmt.Println(st.LookupHost(ctx, "example.org"))
}
