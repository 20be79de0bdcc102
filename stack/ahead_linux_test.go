//go:build amd64 || arm64

package stack

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/linktest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// onPort returns a configuration on a network of the kernel.
func onPort(vnl string, number int) Config {
	return Config{Interfaces: []Interface{{VNL: vnl, Addrs: testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", number), fmt.Sprintf("fc00::%d/64", number))}}}
}

// isLoose reports whether the first interface was there before its stack.
func isLoose(s *Stack) bool { return s.interfaces()[0].link.(*portLink).port.Awake() }

// settled is a pause in which the pool is filled, and the kernel removes a closed stack.
const settled = 100 * time.Millisecond

// awaitAhead makes stacks until one does what is wanted. The others are closed.
func awaitAhead(t *testing.T, want string, cfg func() Config, ok func(*Stack) bool) (found *Stack) {
	t.Helper()
	testenv.Eventually(t, want, func() bool {
		missed.Store(nil)
		s := testenv.Must(New(t.Context(), cfg()))(t)
		if !ok(s) {
			testenv.Check(t, s.Close())
			time.Sleep(settled)
			return false
		}
		found = s
		return true
	})
	t.Cleanup(func() { found.Close() })
	return found
}

// TestAhead has stacks with interfaces that were made before them.
func TestAhead(t *testing.T) {
	testenv.Long(t)
	number := 0
	for _, tt := range []struct {
		name   string
		beside bool // there is another stack on the network all the time
		vnl    func(t *testing.T) string
	}{
		{"same", true, func(t *testing.T) string { return "mem://" + t.Name() }},
		{"same lan", true, func(t *testing.T) string { return "lan://" + t.Name() }},
		{"next", false, func(t *testing.T) string {
			number++
			return fmt.Sprint("mem:///", t.Name(), number) // it is no path
		}},
		{"next lan", false, func(t *testing.T) string {
			number++
			return fmt.Sprint("lan://", t.Name(), number)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			last := ""
			cfg := func() Config {
				last = tt.vnl(t)
				return onPort(last, 2)
			}
			var first *Stack
			var solicited *net.IPConn
			if tt.beside {
				first = made(t, onPort(tt.vnl(t), 1))
				solicited = routerOn(t, first)
			}
			s := awaitAhead(t, "an interface that was made ahead", cfg, isLoose)
			wantLocal(t, s, 1)
			wantInterfaces(t, s, "vde0")
			if !tt.beside {
				first = made(t, onPort(last, 1))
				solicited = nil
			}
			exchange(t, s, first, "10.0.0.1:7", "10.0.0.1:7")
			exchange(t, first, s, "10.0.0.2:7", "10.0.0.2:7")
			exchange(t, first, s, "[fc00::2]:7", "[fc00::2]:7")
			l := testenv.Must(testenv.Opened(s.RTNL())(t).Link(firstIndex))(t)
			to := netip.AddrPortFrom(eui64(l.HardwareAddr).WithZone(strconv.Itoa(firstIndex)), 7)
			exchange(t, first, s, "[::]:7", to.String())
			if solicited != nil {
				wantSolicitation(t, solicited, l.HardwareAddr)
			}
			nl := testenv.Opened(s.RTNL())(t)
			ref := linktest.Add(t, nl, "veth")
			linktest.Compare(t, nl, firstIndex, ref, linktest.VethEnd, false, func(i int) { bridge.AwaitCarrier(t.Context(), nl, i) })
		})
	}
}

// wantInterfaces checks which interfaces there are beside loopback.
func wantInterfaces(t *testing.T, s *Stack, want string) {
	t.Helper()
	var names []string // older kernels list them in the order of a hash
	for _, l := range testenv.Must(testenv.Opened(s.RTNL())(t).Links())(t) {
		names = append(names, l.Name)
	}
	if len(names) != 2 || !slices.Contains(names, "lo") || !slices.Contains(names, want) {
		t.Errorf("interfaces %v, want lo and %s", names, want)
	}
}

// routerOn returns a connection that receives router solicitations.
func routerOn(t *testing.T, s *Stack) *net.IPConn {
	t.Helper()
	f := testenv.Must(s.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6))(t)
	defer f.Close()
	rc := testenv.Must(f.SyscallConn())(t)
	var err error
	rc.Control(func(fd uintptr) {
		filter := blockAll
		filter.Data[solicitation/32] &^= 1 << (solicitation % 32)
		err = unix.SetsockoptICMPv6Filter(int(fd), unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter)
		if err == nil {
			group := unix.IPv6Mreq{Multiaddr: allRouters, Interface: firstIndex}
			err = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &group)
		}
	})
	testenv.Check(t, err)
	return testenv.Opened(net.FilePacketConn(f))(t).(*net.IPConn)
}

// wantSolicitation checks that a host has asked for routers, with its hardware address, before
// the kernel does so again.
func wantSolicitation(t *testing.T, c *net.IPConn, mac net.HardwareAddr) {
	t.Helper()
	testenv.Check(t, c.SetReadDeadline(time.Now().Add(testenv.Timeout)))
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no router solicitation of %v: %v", mac, err)
		}
		if want := solicitationOf(mac); n == len(want) && bytes.Equal(buf[4:n], want[4:]) { // but for the checksum
			return
		}
	}
}

// TestAheadTAP has stacks with a TAP that had its link-local address before.
func TestAheadTAP(t *testing.T) {
	testenv.Long(t)
	for name, addrs := range map[string][]netip.Prefix{
		"no addresses": nil,
		"IPv6":         testenv.Prefixes("fc00::1/64"),
		"link-local":   testenv.Prefixes("fe80::a/64"),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Interfaces: []Interface{{VNL: "null://", Addrs: addrs}}}
			s := awaitAhead(t, "a TAP that was made ahead", func() Config { return cfg }, func(s *Stack) bool { return s.interfaces()[0].up })
			want := 1
			if name == "link-local" {
				want = 2
			}
			wantLocal(t, s, want)
			wantInterfaces(t, s, "vde0")
		})
	}
}

// TestAheadMisses has loose interfaces in the pool when stacks are made that they do not suit.
func TestAheadMisses(t *testing.T) {
	testenv.Long(t)
	vnl := "mem://" + t.Name()
	first := made(t, onPort(vnl, 1))
	number := 1
	next := func() Interface { // with other addresses than one that has just been closed
		number = number%100 + 2
		return onPort(vnl, number).Interfaces[0]
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, i *Interface)
		want   string
	}{
		{"another network", func(_ *testing.T, i *Interface) { i.VNL += " other" }, "vde0"},
		{"another name", func(_ *testing.T, i *Interface) { i.Name = "lab0" }, "lab0"},
		{"another MTU", func(_ *testing.T, i *Interface) { i.MTU = 1400 }, "vde0"},
		{"a MAC", func(_ *testing.T, i *Interface) { i.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9} }, "vde0"},
		{"a recording", func(_ *testing.T, i *Interface) { i.Capture = new(testenv.Buffer) }, "vde0"},
		{"down", func(_ *testing.T, i *Interface) { *i = Interface{VNL: vnl, Down: true} }, "vde0"},
		{"plugs", func(t *testing.T, _ *Interface) { testenv.Opened(vdeplug.Open(vnl, nil))(t) }, "vde0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s *Stack
			testenv.Eventually(t, "a miss", func() bool {
				missed.Store(nil)
				testenv.Check(t, testenv.Must(New(t.Context(), Config{Interfaces: []Interface{next()}}))(t).Close())
				time.Sleep(settled)
				i := next()
				tt.change(t, &i)
				s = testenv.Opened(New(t.Context(), Config{Interfaces: []Interface{i}}))(t)
				return missed.Load() != nil || s.Close() != nil
			})
			if isLoose(s) {
				t.Error("the interface is that of another configuration")
			}
			wantInterfaces(t, s, tt.want)
			if i := s.interfaces()[0]; !i.cfg.Down && i.cfg.VNL == vnl {
				exchange(t, s, first, "10.0.0.1:7", "10.0.0.1:7")
			}
		})
	}
}

// TestMode reads what the kernel does by itself.
func TestMode(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf []int32 // forwarding, accept_ra and router_solicitations at their places
		want bool
	}{
		{"default", []int32{0, 64, 1500, 1, 1, 1, 1, -1}, true},
		{"no IPv6", nil, false},
		{"none are accepted", []int32{0, 64, 1500, 0, 1, 1, 1, -1}, false},
		{"none are asked for", []int32{0, 64, 1500, 1, 1, 1, 1, 0}, false},
		{"a router", []int32{1, 64, 1500, 1, 1, 1, 1, -1}, false},
		{"a router that accepts them", []int32{1, 64, 1500, 2, 1, 1, 1, -1}, true},
	} {
		if got := (mode{conf: tt.conf}).solicits(); got != tt.want {
			t.Errorf("%s: asks for routers: %v, want %v", tt.name, got, tt.want)
		}
	}
	s := made(t, Config{Interfaces: []Interface{{}}})
	nl := testenv.Opened(s.RTNL())(t)
	for _, set := range []struct {
		name, value     string
		eui64, solicits bool
	}{{"accept_ra", "1", true, true}, {"accept_ra", "0", true, false}, {"addr_gen_mode", "1", false, false}} {
		testenv.Check(t, s.Sysctl("net/ipv6/conf/vde0/"+set.name, set.value))
		m := testenv.Must(modeOf(nl, firstIndex))(t)
		if m.eui64() != set.eui64 || m.solicits() != set.solicits {
			t.Errorf("%s=%s: an address of the hardware address %v, asks for routers %v", set.name, set.value, m.eui64(), m.solicits())
		}
	}
}
