package vdestack_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A stack that routes, and masquerades by the rules of the program nft: who is outside sees
// its address in the place of those inside.
func Example_masquerade() {
	ctx := context.Background()
	router, err := vdestack.New(ctx, vdestack.Config{Interfaces: []vdestack.Interface{
		{Name: "inside", VNL: "mem://inside", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.254/24")}},
		{Name: "outside", VNL: "mem://outside", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.254/24")}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer router.Close()
	if err := router.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		log.Fatal(err)
	}
	nft := router.Command(ctx, "nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat;
			oifname "outside" masquerade
		}
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		log.Fatalf("nft: %v\n%s", err, out)
	}

	server, err := vdestack.Open("mem://outside", "192.0.2.1/24") // has no route to 10.0.0.0/24
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := vdestack.New(ctx, vdestack.Config{Interfaces: []vdestack.Interface{{
		VNL:      "mem://inside",
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254")},
	}}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ln, err := server.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	conn, err := client.Dial("tcp", "192.0.2.1:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
	// Prints 192.0.2.254
}

// TestMasquerade runs the example where there is the program.
func TestMasquerade(t *testing.T) {
	testenv.Need(t, "nft", "nftables")
	s := testenv.Opened(vdestack.Open(""))(t)
	if out, err := s.Command(t.Context(), "nft", "add table ip nat; add chain ip nat c; add rule ip nat c masquerade").CombinedOutput(); err != nil {
		testenv.Skip(t, "nft: %v, the kernel may lack nf_tables and nft_masq: %s", err, out)
	}
	r, w, err := os.Pipe()
	testenv.Check(t, err)
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	Example_masquerade()
	os.Stdout = stdout
	w.Close()
	if out := testenv.Must(io.ReadAll(r))(t); string(out) != "192.0.2.254\n" {
		t.Errorf("the client has address %s", out)
	}
}
