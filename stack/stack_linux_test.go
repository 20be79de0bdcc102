package stack_test

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestOpenUsable looks for the routes that let packets in, which the kernel sets
// after the addresses.
func TestOpenUsable(t *testing.T) {
	netnstest.NoLeaks(t)
	addrs := testenv.Addrs("10.0.0.1", "fc00::1:1", "fc00::2:1")
	var wg sync.WaitGroup
	for range 4 { // the kernel takes longer when there is more to do
		wg.Go(func() {
			for range 20 {
				s, err := Open("mem://"+t.Name(), "10.0.0.1/24", "fc00::1:1/64", "fc00::2:1/64")
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				nl, err := s.RTNL()
				if err != nil {
					t.Error(err)
					return
				}
				routes, err := nl.Routes()
				nl.Close() // a connection that is forgotten is closed by the collector, later
				if err != nil {
					t.Error(err)
				}
				for _, a := range addrs {
					if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Table == rtnl.TableLocal && r.Dst.Addr() == a }) {
						t.Errorf("no local route for %v in %v", a, routes)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestSysctl(t *testing.T) {
	s := open(t, "mem://"+t.Name())
	if err := s.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Error(err)
	}
	if err := s.Sysctl("net/ipv6/conf/vde0/accept_ra", "0"); err != nil {
		t.Error(err)
	}
	out, err := s.Command(t.Context(), "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/vde0/accept_ra").Output()
	if err != nil || string(out) != "1\n0\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if host, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(host) != "0\n" {
		t.Errorf("the host has ip_forward %q, %v", host, err)
	}
}

func TestStats(t *testing.T) {
	a, b := pair(t)
	if err := a.Command(t.Context(), "ping", "-c", "3", "-i", "0.01", "10.0.0.2").Run(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Stack{a, b} {
		st := s.Stats().Interfaces
		if len(st) != 1 || st[0].Name != "vde0" || st[0].Index == 0 || st[0].TxFrames < 4 || st[0].RxFrames < 4 ||
			st[0].TxBytes < 3*98 || st[0].RxBytes < 3*98 || st[0].Err != nil {
			t.Errorf("counters after three pings: %+v", st)
		}
	}
}

// TestSmallNetworks has the first and last addresses of networks that have no
// address which is not of a host.
func TestSmallNetworks(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	a := open(t, vnl, "10.0.0.0/31", "10.0.1.3/31", "10.0.2.0/32", "10.0.3.255/32", "10.0.4.1/24", "10.0.4.254/24", "fc00::/127", "fc00::3/127", "fc00::100/128", "fc00::1:ffff/112")
	b := open(t, vnl, "10.0.0.1/31", "10.0.1.2/31", "fc00::1/127", "fc00::2/127")
	testenv.Listen(t, a, "tcp", ":7")
	for _, host := range []string{"10.0.0.0", "10.0.1.3", "fc00::", "fc00::3"} {
		c, err := b.Dial("tcp", net.JoinHostPort(host, "7"))
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}

// TestInterfaces makes a stack with every setting of an interface.
func TestInterfaces(t *testing.T) {
	netnstest.NoLeaks(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	s := made(t, Config{Name: "many", Interfaces: []Interface{
		{VNL: "mem://" + t.Name(), MAC: mac, MTU: 9216, Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64"), Gateways: testenv.Addrs("10.0.0.254", "fc00::ff")},
		{Name: "lab", MTU: 1280, Addrs: testenv.Prefixes("10.1.0.1/24")},
		{VNL: "mem://" + t.Name(), Down: true, Addrs: testenv.Prefixes("10.2.0.1/24")},
	}})
	nl := configuration(t, s)
	links, err := nl.Links()
	if err != nil {
		t.Fatal(err)
	}
	// Older kernels list them in the order of a hash.
	slices.SortFunc(links, func(a, b rtnl.Link) int { return a.Index - b.Index })
	var got []string
	for _, l := range links {
		got = append(got, fmt.Sprintf("%s %d %t", l.Name, l.MTU, l.Flags&net.FlagUp != 0))
	}
	if got, want := strings.Join(got, ", "), "lo 65536 true, vde0 9216 true, lab 1280 true, vde2 1500 false"; got != want {
		t.Errorf("links: got %s, want %s", got, want)
	}
	if links[1].HardwareAddr.String() != mac.String() {
		t.Errorf("vde0 has %v, want %v", links[1].HardwareAddr, mac)
	}
	routes, err := nl.Routes()
	if err != nil {
		t.Fatal(err)
	}
	defaults := 0
	for _, r := range routes {
		if r.Gateway.IsValid() && r.Dst.Bits() == 0 {
			defaults++
		}
	}
	if defaults != 2 {
		t.Errorf("%d default routes, want 2: %v", defaults, routes)
	}
}
