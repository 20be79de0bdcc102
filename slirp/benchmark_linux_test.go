package slirp

import (
	"fmt"
	"net"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// BenchmarkTCP is one stream between a server on the host's loopback and a guest;
// beside it the same with the C library, behind a pipe to vde_plug.
func BenchmarkTCP(b *testing.B) {
	for _, network := range []struct{ name, vnl string }{
		{"Go", "slirp://"},
		{"C", "cmd://vde_plug slirp://"},
	} {
		for _, direction := range []string{"to guest", "from guest"} {
			b.Run(network.name+" "+direction, func(b *testing.B) {
				if network.name == "C" && !haveC() {
					b.Skip("libvdeplug_slirp.so is missing (apt-get install libvdeplug-slirp)")
				}
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				defer ln.Close()
				st := guest(b, network.vnl)
				c, err := st.DialContext(bounded(b), "tcp", fmt.Sprintf("10.0.2.2:%d", ln.Addr().(*net.TCPAddr).Port))
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				h, err := ln.Accept()
				if err != nil {
					b.Fatal(err)
				}
				defer h.Close()
				from, to := h, c
				if direction == "from guest" {
					from, to = c, h
				}
				b.ReportAllocs()
				testenv.Stream(b, from, to)
			})
		}
	}
}
