package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVeth checks that packets have the size of the network if offloads are off, and are
// larger if they are on.
func TestVeth(t *testing.T) {
	testenv.Long(t)
	const mtu = 1500
	for _, name := range []string{veth, plain} {
		t.Run(name, func(t *testing.T) {
			made, err := openVeth(mtu, name, name)
			if err != nil {
				testenv.Skip(t, "no namespaces here: %v", err)
			}
			defer made.Close()
			p := made.(*pair)
			ln := testenv.Must(p.Listen(0))(t)
			defer ln.Close()
			c := testenv.Must(p.Dial(t.Context(), ln.Addr().(*net.TCPAddr).Port))(t)
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(answerTime))
				for range 100 {
					if _, err := c.Write(make([]byte, streamSize)); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			s := testenv.Must(ln.Accept())(t)
			defer s.Close()
			s.SetDeadline(time.Now().Add(answerTime))
			if n, err := io.Copy(io.Discard, s); err != nil || n != 100*streamSize {
				t.Fatalf("received %d bytes, %v, want %d", n, err, 100*streamSize)
			}
			nl := testenv.Must(p.first.RTNL())(t)
			index := testenv.Must(nl.IfNameToIndex(vethName))(t)
			link := testenv.Must(nl.Link(index))(t)
			size := link.Stats.RxBytes / link.Stats.RxPackets
			if large := size > mtu+14; large != (name == veth) {
				t.Errorf("packets of %d bytes, the network has an MTU of %d", size, mtu)
			}
		})
	}
}
