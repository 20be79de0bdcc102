package wireguard_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/wireguard"
)

var (
	text string           // of a file of wg-quick
	c    wireguard.Config // what it says
	ctx  = context.Background()
)

func Example() {
	c, err := wireguard.ParseConfig(text) // a file of wg-quick
	if err != nil {
		log.Fatal(err)
	}
	tun, err := wireguard.Open(ctx, c) // a stack with nothing but the tunnel
	if err != nil {
		log.Fatal(err)
	}
	conn, err := tun.Stack().Dial("tcp", "10.0.0.1:80")
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()
	tun.Close()
}

// A program that must not be seen without its VPN: the stack has no other way out, so nothing
// leaves when the tunnel is down.
func ExampleOpen() {
	tun, err := wireguard.Open(ctx, c)
	if err != nil {
		log.Fatal(err)
	}
	defer tun.Close()
	client := tun.Stack().HTTPClient()
	resp, err := client.Get("https://example.org/")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
}

// A service of the host that asks a server behind a tunnel.
func ExampleTunnel_Stack() {
	tun, err := wireguard.Open(ctx, c)
	if err != nil {
		log.Fatal(err)
	}
	defer tun.Close()
	backend := tun.Stack().HTTPClient()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		resp, err := backend.Get("http://10.20.0.5/orders") // by the tunnel
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	})
	http.ListenAndServe(":8080", nil) // on the host
}

// A service of a tenant's network whose database is behind a tunnel.
func ExampleUp_tenant() {
	st, err := vdestack.Open("vxvde://234.0.0.1", "192.0.2.7/24")
	if err != nil {
		log.Fatal(err)
	}
	tun, err := wireguard.Up(ctx, st, c)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := st.Listen("tcp", ":80") // for the tenant
	if err != nil {
		log.Fatal(err)
	}
	conn, err := st.Dial("tcp", "db.internal.example:5432") // by the tunnel
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()
	ln.Close()
	tun.Close()
	st.Close()
}

// The kernel's WireGuard, which the program wg configures.
func Example_kernel() {
	st, err := vdestack.Open("")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	nl, err := st.RTNL()
	if err != nil {
		log.Fatal(err)
	}
	index, err := nl.LinkAdd(rtnl.LinkSpec{Kind: "wireguard", Name: "wg0"})
	if err != nil {
		log.Fatal(err)
	}
	err = st.Run(ctx, "wg setconf wg0 /path/to/wg.conf")
	if err != nil {
		log.Fatal(err)
	}
	nl.LinkSetUp(index)
}

// Two stacks that are joined by a tunnel over a network that others can read.
func ExampleUp() {
	keys := []wireguard.Key{wireguard.NewKey(), wireguard.NewKey()}
	for i, k := range keys {
		outside, err := vdestack.Open("vxvde://234.0.0.1", fmt.Sprintf("192.0.2.%d/24", i+1))
		if err != nil {
			log.Fatal(err)
		}
		defer outside.Close()
		inside, err := vdestack.Open("mem://lab", fmt.Sprintf("10.%d.0.1/24", i+1))
		if err != nil {
			log.Fatal(err)
		}
		defer inside.Close()
		other := 1 - i
		tun, err := wireguard.Up(ctx, inside, wireguard.Config{
			PrivateKey: k,
			ListenPort: 51820,
			Underlay:   outside,
			Peers: []wireguard.Peer{{
				PublicKey:  keys[other].Public(),
				AllowedIPs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", other+1))},
				Endpoint:   fmt.Sprintf("192.0.2.%d:51820", other+1),
			}},
		})
		if err != nil {
			log.Fatal(err)
		}
		defer tun.Close()
	}
}
