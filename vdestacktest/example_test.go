package vdestacktest_test

import (
	"testing"

	"github.com/vdestack/vdestack/vdestacktest"
)

func Example() {
	// Several hosts on a network of the test's own, without root:
	_ = func(t *testing.T) {
		network := "mem://" + t.Name()
		server := vdestacktest.Open(t, network, "10.0.0.1/24")
		client := vdestacktest.Open(t, network, "10.0.0.2/24")
		ln, err := server.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := client.Dial("tcp", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
}
