package vdestacktest_test

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/vdestacktest"
)

// TestNetworks has tests that run at once, with the same addresses and ports: one on a
// network of its own, the other on one that is far away.
func TestNetworks(t *testing.T) {
	for name, network := range map[string]string{
		"near": "mem://near",
		"far":  "netemu://delay=20ms{mem://far}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := vdestacktest.Open(t, network, "10.0.0.1/24")
			client := vdestacktest.Open(t, network, "10.0.0.2/24")
			ln, err := server.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			begin := time.Now()
			c, err := client.Dial("tcp", "10.0.0.1:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if took := time.Since(begin); name == "far" && took < 40*time.Millisecond {
				t.Errorf("there and back takes %v, want 40 ms or more", took)
			}
		})
	}
}
