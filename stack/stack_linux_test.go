package stack_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
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

// TestSysctl sets settings: ReadSysctl and commands of the stack see them, the host does
// not have them.
func TestSysctl(t *testing.T) {
	s := made(t, Config{Name: "lab", Interfaces: []Interface{{VNL: "mem://" + t.Name()}, {Name: "a.b"}}})
	const list = "net.ipv4.ip_local_reserved_ports"
	for _, set := range []struct{ name, value, file string }{
		{"net.ipv4.ip_forward", "1", "ipv4/ip_forward"},
		{"net/ipv6/conf/vde0/accept_ra", "0", "ipv6/conf/vde0/accept_ra"},
		{"net/ipv4/conf/a.b/forwarding", "0", "ipv4/conf/a.b/forwarding"},
		{"net.ipv4.ip_local_port_range", "2000\t3000", "ipv4/ip_local_port_range"},
		{"net.ipv6.conf.default.hop_limit", "17", "ipv6/conf/default/hop_limit"},
		{list, "2000-2010", "ipv4/ip_local_reserved_ports"},
		{list, "", "ipv4/ip_local_reserved_ports"}, // it is made empty again
	} {
		testenv.Check(t, s.Sysctl(set.name, set.value))
		if got, err := s.ReadSysctl(set.name); err != nil || got != set.value {
			t.Errorf("%s: got %q, %v, want %q", set.name, got, err, set.value)
		}
		path := "/proc/sys/net/" + set.file
		if out, err := s.Command(t.Context(), "cat", path).Output(); err != nil || string(out) != set.value+"\n" {
			t.Errorf("a command finds %q in %s, %v, want %q", out, path, err, set.value)
		}
	}
	for path, value := range map[string]string{"/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/net/ipv6/conf/default/hop_limit": "17\n"} {
		if host, err := os.ReadFile(path); err != nil || string(host) == value {
			t.Errorf("the host has %q in %s, %v", host, path, err)
		}
	}
	if err := s.Sysctl("net.ipv4.ip_forward", ""); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a number without digits: %v, want %v", err, unix.EINVAL)
	}
	if _, err := s.ReadSysctl("net.ipv4.none"); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "lab: sysctl net.ipv4.none: ") {
		t.Errorf("no such setting: %v", err)
	}
	for name, want := range map[string]string{
		"net.ipv4.route.flush": "sysctl net.ipv4.route.flush: open /proc/sys/net/ipv4/route/flush: permission denied (it is for setting only)",
		"net.ipv4":             "sysctl net.ipv4: read /proc/sys/net/ipv4: is a directory (no such setting in a stack; /proc/sys/net may have what is meant)",
	} {
		if _, err := s.ReadSysctl(name); err == nil || err.Error() != "lab: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := s.ReadSysctl("kernel.hostname"); err == nil {
		t.Error("a setting of the machine was read")
	}
	s.Close()
	if _, err := s.ReadSysctl("net.ipv4.ip_forward"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
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
		testenv.Dial(t, b, "tcp", net.JoinHostPort(host, "7"))
	}
}

// TestInterfaces makes a stack with every setting of an interface.
func TestInterfaces(t *testing.T) {
	netnstest.NoLeaks(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	s := made(t, Config{Name: "many", Interfaces: []Interface{
		{VNL: "mem://" + t.Name(), MAC: mac, MTU: 9216, Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64"), Gateways: testenv.Addrs("10.0.0.254", "fc00::ff")},
		{Name: "lab", MTU: 1280, Addrs: testenv.Prefixes("10.1.0.1/24")},
		{VNL: "lan://" + t.Name(), Down: true, Addrs: testenv.Prefixes("10.2.0.1/24")},
	}})
	nl := testenv.Opened(s.RTNL())(t)
	links := testenv.Must(nl.Links())(t)
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
	routes := testenv.Must(nl.Routes())(t)
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
