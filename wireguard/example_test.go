package wireguard_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/wireguard"
)

// A program that must not be seen without its VPN: the stack has no other way out, so nothing
// leaves when the tunnel is down.
func ExampleOpen() {
	text, err := os.ReadFile("wg0.conf")
	if err != nil {
		log.Fatal(err)
	}
	c, err := wireguard.ParseConfig(string(text))
	if err != nil {
		log.Fatal(err)
	}
	tun, err := wireguard.Open(context.Background(), c)
	if err != nil {
		log.Fatal(err)
	}
	defer tun.Close()
	resp, err := tun.Stack().HTTPClient().Get("https://example.org")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
}

// Two stacks that are joined by a tunnel over a network that others can read.
func ExampleUp() {
	ctx := context.Background()
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
