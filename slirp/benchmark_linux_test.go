package slirp

import (
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// BenchmarkTCP measures one stream between a server on the host's loopback and a guest,
// with this package and with the C library, which is behind a pipe to vde_plug.
func BenchmarkTCP(b *testing.B) {
	for _, network := range []struct{ name, vnl string }{
		{"Go", "slirp://"},
		{"C", ""},
	} {
		for _, direction := range []string{"to guest", "from guest"} {
			b.Run(network.name+" "+direction, func(b *testing.B) {
				if network.name == "C" {
					network.vnl = needC(b)
				}
				ln, named := listen(b, "127.0.0.1")
				c := dial(b, guest(b, network.vnl), "tcp", named)
				c.SetDeadline(time.Time{})
				h := testenv.Must(ln.Accept())(b)
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
