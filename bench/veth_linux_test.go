package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestVeth sees packets of the size of the network where offloads are off, and
// larger ones where they are on.
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
			ln, err := p.Listen(0)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := p.Dial(t.Context(), ln.Addr().(*net.TCPAddr).Port)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				for range 100 {
					if _, err := c.Write(make([]byte, streamSize)); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.SetDeadline(time.Now().Add(patience))
			if n, err := io.Copy(io.Discard, s); err != nil || n != 100*streamSize {
				t.Fatalf("received %d bytes, %v, want %d", n, err, 100*streamSize)
			}
			nl, err := p.first.RTNL()
			if err != nil {
				t.Fatal(err)
			}
			index, err := nl.IfNameToIndex(vethName)
			if err != nil {
				t.Fatal(err)
			}
			link, err := nl.Link(index)
			if err != nil {
				t.Fatal(err)
			}
			size := link.Stats.RxBytes / link.Stats.RxPackets
			if large := size > mtu+14; large != (name == veth) {
				t.Errorf("packets of %d bytes, the network has an MTU of %d", size, mtu)
			}
		})
	}
}
