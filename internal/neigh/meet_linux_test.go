//go:build amd64 || arm64

package neigh_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/neigh"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// crowded opens so many other stacks on a network that addresses are not asked for.
func crowded(t *testing.T, vnl string) {
	t.Helper()
	for range 65 {
		open(t, vnl)
	}
}

// see makes a socket that is to send to an address, and sends nothing.
func (n *node) see(t *testing.T, to netip.Addr) {
	t.Helper()
	c := testenv.Must(n.Dial("udp", netip.AddrPortFrom(to, 9).String()))(t)
	c.Close()
}

// expect checks what the node knows of an address; nil: nothing.
func (n *node) expect(t *testing.T, addr netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	e := n.neighbor(t, addr)
	if e.HardwareAddr.String() != mac.String() || e.Addr.IsValid() != (mac != nil) {
		t.Errorf("%v is known at %v, want %v", addr, e.HardwareAddr, mac)
	}
}

// TestRush has hundreds of stacks that reach the same one at the same instant. Nobody
// asks for anybody: the first of those that are found would take places.
func TestRush(t *testing.T) {
	testenv.Long(t)
	const stacks = 300
	for _, prefix := range []string{"10.1.%d.%d/16", "fd00::%d:%d/64"} {
		t.Run(prefix, func(t *testing.T) {
			var all []*node
			for i := range stacks {
				all = append(all, newNode(t, "lan://"+t.Name(), fmt.Sprintf(prefix, i/100, i%100+1)))
			}
			errs := make([]error, stacks)
			start := make(chan struct{})
			var wg sync.WaitGroup
			for i, n := range all[1:] {
				wg.Go(func() {
					<-start
					errs[i] = n.reach(all[0].addr)
				})
			}
			close(start)
			wg.Wait()
			testenv.Check(t, errors.Join(errs...))
			for i, n := range all {
				want := 1
				if i == 0 {
					want = stacks - 1
				}
				if counting, marked := n.counting(t); counting != 0 || marked != want {
					t.Errorf("stack %d has %d entries that count and %d that do not, want 0 and %d", i, counting, marked, want)
				}
			}
		})
	}
}

// TestMeet has stacks know each other before a packet is sent, and nothing that is not
// so.
func TestMeet(t *testing.T) {
	for _, tt := range []struct{ name, prefix, gateway, far string }{
		{"IPv4", "10.1.0.%d/24", "10.1.0.2", "192.0.2.1"},
		{"IPv6", "fd00::%d/64", "fd00::2", "2001:db8::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vnl := "mem://" + t.Name()
			node := func(i int) *node { return newNode(t, vnl, fmt.Sprintf(tt.prefix, i)) }
			a, b := node(1), node(2)
			a.see(t, b.addr)
			a.expect(t, b.addr, nil) // where there are few, the kernel asks
			crowded(t, vnl)
			a.see(t, b.addr)
			a.expect(t, b.addr, b.mac(t))
			b.expect(t, a.addr, a.mac(t))
			a.mustReach(t, b.addr)

			// A stack that takes the place of another one.
			testenv.Check(t, b.Close())
			b = node(2)
			a.see(t, b.addr)
			a.expect(t, b.addr, b.mac(t))
			a.mustReach(t, b.addr)

			// A hardware address that has changed, of the one who asks and of the other one.
			c := node(3)
			b.see(t, c.addr)
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
			testenv.Check(t, c.nl.LinkSetAddr(c.index, mac))
			c.see(t, b.addr)
			b.expect(t, c.addr, mac)
			c.mustReach(t, b.addr)
			a.see(t, c.addr)
			a.expect(t, c.addr, mac)

			// An address that has moved is not where it was.
			prefix := netip.MustParsePrefix(fmt.Sprintf(tt.prefix, 3))
			testenv.Check(t, c.nl.AddrDel(c.index, prefix))
			d, e := node(4), node(5)
			d.take(t, netip.PrefixFrom(c.addr, c.addr.BitLen()))
			e.see(t, c.addr)
			e.expect(t, c.addr, nil)
			e.mustReach(t, c.addr)
			e.expect(t, c.addr, d.mac(t))

			// Nor does one meet who does not have its own any more.
			testenv.Check(t, e.nl.AddrDel(e.index, netip.MustParsePrefix(fmt.Sprintf(tt.prefix, 5))))
			testenv.Check(t, e.nl.AddrAdd(e.index, netip.MustParsePrefix(fmt.Sprintf(tt.prefix, 50)), rtnl.NoDAD))
			e.see(t, b.addr)
			b.expect(t, e.addr, nil)

			// Nor is one met who is down.
			testenv.Check(t, d.nl.LinkSetDown(d.index))
			a.see(t, d.addr)
			a.expect(t, d.addr, nil)

			// What somebody has made stays.
			f := node(6)
			own := net.HardwareAddr{2, 0, 0, 0, 0, 66}
			testenv.Check(t, a.nl.NeighborAdd(rtnl.Neighbor{IfIndex: a.index, Addr: f.addr, HardwareAddr: own}))
			a.see(t, f.addr)
			a.expect(t, f.addr, own)
			f.expect(t, a.addr, a.mac(t))

			// The gateway, and not what is behind it.
			s, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl,
				Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf(tt.prefix, 7))}, Gateways: []netip.Addr{netip.MustParseAddr(tt.gateway)}}}})
			testenv.Check(t, err)
			defer s.Close()
			g := serve(t, s, netip.MustParsePrefix(fmt.Sprintf(tt.prefix, 7)))
			g.see(t, netip.MustParseAddr(tt.far))
			g.expect(t, b.addr, b.mac(t))
			b.expect(t, g.addr, g.mac(t))
			g.expect(t, netip.MustParseAddr(tt.far), nil)

			// Dialers of other libraries, and raw sockets.
			h, k := node(8), node(9)
			hooked := net.Dialer{Control: h.Control}
			c1 := testenv.Must(hooked.Dial("udp", netip.AddrPortFrom(b.addr, 9).String()))(t)
			c1.Close()
			h.expect(t, b.addr, b.mac(t))
			c2 := testenv.Must(k.Dial("ip:253", b.addr.String()))(t)
			c2.Close()
			k.expect(t, b.addr, b.mac(t))
		})
	}
}

// TestMeetSweep has a stack meet many, of whom it does not remember all for ever.
func TestMeetSweep(t *testing.T) {
	testenv.Long(t)
	neigh.MarkAll(t, 0)
	vnl := "lan://" + t.Name()
	crowded(t, vnl)
	n := newNode(t, vnl, "10.1.0.1/16")
	var many []netip.Prefix
	for i := range 8 * neigh.FirstRoom {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 1 + byte(i>>8), byte(i)}), 16))
	}
	s := testenv.Must(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, Addrs: many}}}))(t)
	defer s.Close()
	met := 0
	meet := func() {
		n.see(t, many[met%len(many)].Addr())
		met++
	}
	for range many {
		meet()
	}
	// Entries that were made since the table was read are there until as many have come again.
	testenv.Eventually(t, "most are gone", func() bool {
		meet()
		_, marked := n.counting(t)
		return marked <= 2*neigh.FirstRoom
	})
}
