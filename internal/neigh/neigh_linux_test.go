//go:build amd64 || arm64

package neigh_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/neigh"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A node is a stack that accepts connections, and its netlink.
type node struct {
	*vdestack.Stack
	nl    *rtnl.Conn
	index int
	addr  netip.Addr
}

// newNode opens a stack, whose address the network knows: nobody has to ask for it where
// there are many.
func newNode(t *testing.T, vnl, prefix string) *node {
	t.Helper()
	return serve(t, open(t, vnl, prefix), netip.MustParsePrefix(prefix))
}

func open(t *testing.T, vnl string, prefixes ...string) *vdestack.Stack {
	t.Helper()
	s := testenv.Must(vdestack.Open(vnl, prefixes...))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// newStranger opens one that takes its address later, so that the kernel has to find it.
func newStranger(t *testing.T, vnl, prefix string) *node {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	n := serve(t, open(t, vnl), p)
	n.take(t, p)
	return n
}

// serve has a stack accept connections.
func serve(t *testing.T, s *vdestack.Stack, prefix netip.Prefix) *node {
	t.Helper()
	n := &node{Stack: s, index: s.Stats().Interfaces[0].Index, addr: prefix.Addr()}
	n.nl = testenv.Must(s.RTNL())(t)
	t.Cleanup(func() { n.nl.Close() })
	ln := testenv.Must(s.Listen("tcp", ":80"))(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return n
}

// reach connects to an address, and waits for the other end to close.
func (n *node) reach(to netip.Addr) error {
	c, err := n.Dial("tcp", netip.AddrPortFrom(to, 80).String())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.ReadAll(c); err != nil {
		return fmt.Errorf("connected to %v: %w", to, err)
	}
	return nil
}

func (n *node) mustReach(t *testing.T, to netip.Addr) {
	t.Helper()
	testenv.Check(t, n.reach(to))
}

// neighbor returns what the node knows of an address.
func (n *node) neighbor(t *testing.T, addr netip.Addr) rtnl.Neighbor {
	t.Helper()
	all := testenv.Must(n.nl.Neighbors())(t)
	for _, e := range all {
		if e.Addr == addr {
			return e
		}
	}
	return rtnl.Neighbor{}
}

func (n *node) mac(t *testing.T) net.HardwareAddr {
	t.Helper()
	l := testenv.Must(n.nl.Link(n.index))(t)
	return l.HardwareAddr
}

// take gives the node an address, and waits until packets for it arrive.
func (n *node) take(t *testing.T, prefix netip.Prefix) {
	t.Helper()
	testenv.Check(t, n.nl.AddrAdd(n.index, prefix, rtnl.NoDAD))
	dst := netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())
	testenv.Eventually(t, fmt.Sprint("there is a route to ", dst), func() bool {
		routes := testenv.Must(n.nl.Routes())(t)
		return slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Table == rtnl.TableLocal && r.Dst == dst })
	})
}

// counting returns how many entries of the node count towards the kernel's limit
// and stay, and how many do not count.
func (n *node) counting(t *testing.T) (counting, marked int) {
	t.Helper()
	all := testenv.Must(n.nl.Neighbors())(t)
	for _, e := range all {
		switch {
		case e.Flags&rtnl.NeighborExtLearned != 0:
			marked++
		case e.Flags&rtnl.NeighborProxy != 0: // takes no place, and may be left from a namespace that is gone
		case e.State&(rtnl.NeighborNoARP|rtnl.NeighborPermanent) == 0:
			t.Logf("counts: %+v", e)
			counting++
		}
	}
	return counting, marked
}

// TestCrowd has stacks that all talk to each other: 64 have four times as many
// neighbours as the kernel's table has places.
func TestCrowd(t *testing.T) {
	testenv.Long(t)
	for _, tt := range []struct {
		name   string
		open   func(t *testing.T, vnl, prefix string) *node
		stacks int
		atOnce int
	}{
		// A question goes to all, and the kernel has room for 1000 frames at a time.
		{"found", newStranger, 64, 1000 / 64 / 2},
		{"known", newNode, 80, 80},
	} {
		stacks := tt.stacks
		for _, prefix := range []string{"10.1.0.%d/24", "fd00::%d/64"} {
			t.Run(tt.name+" "+prefix, func(t *testing.T) {
				var all []*node
				for i := range stacks {
					all = append(all, tt.open(t, "mem://"+t.Name(), fmt.Sprintf(prefix, i+1)))
				}
				atOnce := make(chan struct{}, tt.atOnce)
				errs := make([]error, stacks)
				var wg sync.WaitGroup
				for i, from := range all {
					wg.Go(func() {
						atOnce <- struct{}{}
						defer func() { <-atOnce }()
						for j := range stacks {
							errs[i] = errors.Join(errs[i], from.reach(all[(i+j)%stacks].addr))
						}
					})
				}
				wg.Wait()
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
				testenv.Eventually(t, "all neighbours but a few are marked", func() bool {
					counting, marked := 0, 0
					for _, n := range all {
						c, m := n.counting(t)
						counting, marked = counting+c, marked+m
					}
					return counting <= neigh.Few() && marked >= stacks*(stacks-1)-neigh.Few()
				})
			})
		}
	}
}

// TestFew has a program with few stacks, whose neighbours stay as the kernel has
// them.
func TestFew(t *testing.T) {
	a, b := newNode(t, "mem://"+t.Name(), "10.1.0.1/24"), newNode(t, "mem://"+t.Name(), "10.1.0.2/24")
	a.mustReach(t, b.addr)
	if e := a.neighbor(t, b.addr); !e.Addr.IsValid() || e.Flags != 0 {
		t.Errorf("%+v", e)
	}
}

// TestChange has the hardware address of a neighbour change, its address move to
// another stack, and two stacks with the same. The kernel follows as it does where
// nothing is marked.
func TestChange(t *testing.T) {
	neigh.MarkAll(t, time.Minute)
	for _, tt := range []struct {
		name, prefix, other string
		moves               int
	}{
		{"IPv4", "10.1.0.%d/24", "10.1.0.9", 1}, // ARP keeps to the first answer for a second
		{"IPv6", "fd00::%d/64", "fd00::9", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var n []*node
			for i := range 4 {
				n = append(n, newNode(t, "mem://"+t.Name(), fmt.Sprintf(tt.prefix, i+1)))
			}
			a, b, c := n[0], n[1], n[2]
			a.mustReach(t, b.addr)
			marked := func(addr netip.Addr, mac net.HardwareAddr) {
				t.Helper()
				testenv.Eventually(t, fmt.Sprintf("%v is marked, at %v", addr, mac), func() bool {
					e := a.neighbor(t, addr)
					return e.Flags&rtnl.NeighborExtLearned != 0 && e.HardwareAddr.String() == mac.String()
				})
			}
			marked(b.addr, b.mac(t))

			mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
			testenv.Check(t, b.nl.LinkSetAddr(b.index, mac))
			b.mustReach(t, a.addr) // by which a learns it
			marked(b.addr, mac)
			a.mustReach(t, b.addr)

			moving := netip.MustParseAddr(tt.other)
			prefix := netip.PrefixFrom(moving, moving.BitLen())
			for _, holder := range []*node{c, b, c}[:tt.moves] {
				holder.take(t, prefix)
				// It asks for a with that address, by which a learns where it is.
				if err := holder.nl.NeighborDel(holder.index, a.addr); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				d := vdestack.Dialer{Stack: holder.Stack, Dialer: net.Dialer{LocalAddr: &net.TCPAddr{IP: moving.AsSlice()}}}
				conn := testenv.Must(d.Dial("tcp", netip.AddrPortFrom(a.addr, 80).String()))(t)
				conn.Close()
				marked(moving, holder.mac(t))
				a.mustReach(t, moving)
				testenv.Check(t, holder.nl.AddrDel(holder.index, prefix))
			}

			// Of two that have it, one is found.
			b.take(t, prefix)
			c.take(t, prefix)
			// With IPv6 the second answer may count, which comes during the handshake.
			if err := n[3].reach(moving); err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Fatal(err)
			}
			if mac := n[3].neighbor(t, moving).HardwareAddr.String(); mac != b.mac(t).String() && mac != c.mac(t).String() {
				t.Errorf("two stacks have %v, and it is found at %v", moving, mac)
			}
		})
	}
}

// TestSweep has many neighbours that are not used any more: they do not stay.
func TestSweep(t *testing.T) {
	neigh.MarkAll(t, 0)
	n := newNode(t, "null://", "10.1.0.1/16")
	added := 0
	add := func() {
		i := added
		added++
		e := rtnl.Neighbor{IfIndex: n.index, Addr: netip.AddrFrom4([4]byte{10, 1, 1 + byte(i>>8), byte(i)}),
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}, State: rtnl.NeighborStale}
		testenv.Check(t, n.nl.NeighborAdd(e))
	}
	for range 8 * neigh.FirstRoom {
		add()
	}
	// Where reports were lost there are more until as many have come again.
	testenv.Eventually(t, "most are gone, and the rest is marked", func() bool {
		add()
		counting, marked := n.counting(t)
		return counting <= 1 && marked <= neigh.FirstRoom+1
	})
}

// TestJoined joins a namespace that has an interface of its own, whose neighbours
// stay as they are.
func TestJoined(t *testing.T) {
	neigh.MarkAll(t, time.Minute)
	ns := testenv.Must(netns.New())(t)
	defer ns.Close()
	f := testenv.Must(ns.File())(t)
	defer f.Close()
	var joined []*node
	for _, name := range []string{"one", "two"} { // of the same namespace
		s, err := vdestack.New(t.Context(), vdestack.Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd()),
			Interfaces: []vdestack.Interface{{Name: name, VNL: "null://", Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}}}})
		testenv.Check(t, err)
		defer s.Close()
		n := &node{Stack: s, index: s.Stats().Interfaces[0].Index}
		if n.nl, err = s.RTNL(); err != nil {
			t.Fatal(err)
		}
		defer n.nl.Close()
		joined = append(joined, n)
	}
	nl := joined[0].nl
	others := testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "others", Kind: "veth", Up: true, Peer: &rtnl.LinkSpec{Name: "end"}}))(t)
	for i, index := range []int{others, joined[0].index, joined[1].index} {
		e := rtnl.Neighbor{IfIndex: index, Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(2 + i)}), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}, State: rtnl.NeighborStale}
		testenv.Check(t, nl.NeighborAdd(e))
	}
	testenv.Eventually(t, "those of the stacks are marked", func() bool { _, marked := joined[0].counting(t); return marked == 2 })
	if e := joined[0].neighbor(t, netip.MustParseAddr("10.1.0.2")); e.Flags != 0 {
		t.Errorf("the other interface: %+v", e)
	}
	// One that is left is still looked after.
	joined[0].Close()
	e := rtnl.Neighbor{IfIndex: joined[1].index, Addr: netip.MustParseAddr("10.1.0.9"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}, State: rtnl.NeighborStale}
	testenv.Check(t, joined[1].nl.NeighborAdd(e))
	testenv.Eventually(t, "the second stack's is marked", func() bool { return joined[1].neighbor(t, e.Addr).Flags&rtnl.NeighborExtLearned != 0 })
}

// TestClose has what the last stack leaves looked after by the same keeper as the next one,
// and nothing left when no other follows.
func TestClose(t *testing.T) {
	neigh.MarkAll(t, time.Minute)
	before := neigh.Keeper()
	if before != nil {
		t.Fatal("something is looked after from the beginning")
	}
	for n := range 4 {
		a, b := newNode(t, "mem://"+t.Name(), "10.1.0.1/24"), newNode(t, "mem://"+t.Name(), "10.1.0.2/24")
		a.mustReach(t, b.addr)
		k := neigh.Keeper()
		if k == nil || (k == before) != (n%2 == 1) {
			t.Fatalf("time %d: looked after by %p, before by %p", n, k, before)
		}
		for _, n := range []*node{a, b} {
			testenv.Check(t, n.Close())
		}
		if before = k; n%2 == 1 {
			netns.EmptyPool() // as a second later
			if neigh.Keeper() != nil {
				t.Fatal("something is looked after yet")
			}
		}
		teardown.Wait()
	}
}

// TestPrepare prepares for a namespace that is used, and for one that is not: nothing stays.
func TestPrepare(t *testing.T) {
	netns.EmptyPool()
	for _, used := range []bool{true, false} {
		ns := testenv.Must(netns.CreateIsolated(netns.TAP{}, nil))(t)
		release := neigh.Prepare(ns.Base())
		if used {
			testenv.Must(neigh.Keep(ns, true))(t).Close()
		}
		testenv.Check(t, ns.Close()) // the last of its helper
		release()
		if neigh.Keeper() != nil {
			t.Errorf("used %v: something is looked after", used)
		}
	}
}
