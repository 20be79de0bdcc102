package vdestacktest_test

import (
	"net/netip"
	"testing"

	"github.com/vdestack/vdestack/vdestacktest"
)

// TestAddresses has tests that run at once, with the same addresses and ports.
func TestAddresses(t *testing.T) {
	for _, addr := range []string{"10.0.0.1:80", "[fc00::1]:80"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			network := "mem://" + t.Name() // a network for each test
			server := vdestacktest.Open(t, network, "10.0.0.1/24", "fc00::1/64")
			client := vdestacktest.Open(t, network, "10.0.0.2/24", "fc00::2/64")
			ln, err := server.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := client.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := netip.MustParseAddrPort(c.RemoteAddr().String()); got != netip.MustParseAddrPort(addr) {
				t.Errorf("connected to %v, want %v", got, addr)
			}
		})
	}
}
