//go:build amd64 || arm64

package bridge_test

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/linktest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// TestInCrowd compares an interface in a crowd with another one: addresses, routes and
// attributes are the same.
func TestInCrowd(t *testing.T) {
	for name, f := range map[string]stack.Interface{
		"no address":   {},
		"IPv4":         {Addrs: testenv.Prefixes("10.0.0.1/24"), Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		"IPv6":         {Addrs: testenv.Prefixes("fc00::1/64", "10.0.0.1/24"), Gateways: []netip.Addr{netip.MustParseAddr("fc00::2")}},
		"link-local":   {Addrs: testenv.Prefixes("fe80::a/64")},
		"without IPv6": {MTU: 1000, Addrs: testenv.Prefixes("10.0.0.1/24")},
	} {
		t.Run(name, func(t *testing.T) {
			f.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 7}
			look := func(vnl string, most int) map[string]string {
				set(t, bridge.Crowd, most)
				member(t, vnl, 2)
				f.VNL = vnl
				s := testenv.Opened(stack.New(t.Context(), stack.Config{Interfaces: []stack.Interface{f}}))(t)
				nl := testenv.Opened(s.RTNL())(t)
				index := s.Stats().Interfaces[0].Index
				all := linktest.Attributes(t, nl, index)
				for k := range all {
					if k == "LINK" || k == "LINK_NETNSID" {
						delete(all, k)
					}
				}
				for _, a := range testenv.Must(nl.Addrs())(t) {
					all[a.String()] = fmt.Sprintf("%+v", a)
				}
				for n, r := range testenv.Must(nl.Routes())(t) {
					all[fmt.Sprint("route ", n)] = fmt.Sprintf("%+v", r)
				}
				return all
			}
			got, want := look("lan://quiet", 0), look("lan://other", 64)
			if !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestInCrowdReached reaches a member of a crowd as soon as Open has returned, at each of
// its addresses.
func TestInCrowdReached(t *testing.T) {
	testenv.Need(t, "ping", "iputils-ping")
	set(t, bridge.Crowd, 0)
	var all []*stack.Stack
	for n, mac := range []byte{1, 2} {
		f := stack.Interface{VNL: "lan://crowd", MAC: net.HardwareAddr{2, 0, 0, 0, 0, mac}, Addrs: testenv.Prefixes(fmt.Sprintf("10.0.0.%d/24", n+1), fmt.Sprintf("fc00::%d/64", n+1))}
		all = append(all, testenv.Opened(stack.New(t.Context(), stack.Config{Interfaces: []stack.Interface{f}}))(t))
	}
	for _, to := range []string{"10.0.0.2", "fc00::2", "fe80::ff:fe00:2%vde0"} {
		out, err := all[0].Command(t.Context(), "ping", "-c", "1", "-W", "10", to).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", to, err, out)
		}
	}
}

// TestInCrowdSolicits has a member of a crowd find routers: it asks for them.
func TestInCrowdSolicits(t *testing.T) {
	set(t, bridge.Crowd, 0)
	member(t, "mem://crowd", 1)
	plug := testenv.Opened(vdeplug.Open("mem://crowd", nil))(t)
	s := testenv.Opened(stack.New(t.Context(), stack.Config{}))(t)
	if err := s.Sysctl("net.ipv6.conf.default.router_solicitation_interval", "1"); err != nil {
		testenv.Skip(t, "no IPv6: %v", err)
	}
	testenv.Check(t, s.AddInterface(t.Context(), stack.Interface{VNL: "mem://crowd"}))
	time.AfterFunc(10*time.Second, func() { plug.Close() })
	const nextHeader, icmpType = 14 + 6, 14 + 40 // in an Ethernet frame
	frame := make([]byte, 2048)
	for {
		n, err := plug.Recv(frame)
		if err != nil {
			t.Fatalf("nobody has asked for routers: %v", err)
		}
		if n > icmpType && frame[12] == 0x86 && frame[nextHeader] == unix.IPPROTO_ICMPV6 && frame[icmpType] == 133 {
			return // a router solicitation, RFC 4861
		}
	}
}
