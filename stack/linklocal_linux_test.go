//go:build amd64 || arm64

package stack

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/vdestack/vdestack/internal/linktest"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestLinkLocal looks for the link-local addresses of each kind of interface when
// New returns: they are used, and have their routes.
func TestLinkLocal(t *testing.T) {
	testenv.Long(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	for name, ifs := range map[string][]Interface{
		"TAP":               {{}},
		"two TAPs":          {{}, {}},
		"TAP with MAC":      {{MAC: mac}},
		"with addresses":    {{Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1/64")}},
		"with a link-local": {{Addrs: testenv.Prefixes("fe80::a/64")}},
		"veth":              {{Kind: KindVeth}},
		"mem":               {{VNL: "mem://linklocal"}},
		"mem with MAC":      {{VNL: "mem://linklocal", MAC: mac}},
		"lan":               {{VNL: "lan://linklocal", Addrs: testenv.Prefixes("fc00::1/64")}},
		"mem in user space": {{VNL: "mem://linklocal"}},
		"several":           {{VNL: "mem://linklocal"}, {VNL: "lan://linklocal"}, {Kind: KindVeth}, {}},
		"small MTU":         {{MTU: 1000}},
		"down":              {{Down: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "mem in user space" {
				netnstest.InUserSpace(t)
			}
			s := made(t, Config{Interfaces: ifs})
			want := len(ifs)
			if ifs[0].Down || ifs[0].MTU == 1000 {
				want = 0
			}
			if name == "with a link-local" {
				want = 2
			}
			wantLocal(t, s, want)
		})
	}
}

// wantLocal checks that so many interfaces have a link-local address that is used.
func wantLocal(t *testing.T, s *Stack, want int) {
	t.Helper()
	nl := testenv.Opened(s.RTNL())(t)
	routes := testenv.Must(nl.Routes())(t)
	addrs := testenv.Must(nl.Addrs())(t)
	got := 0
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		got++
		if a.Flags&rtnl.Tentative != 0 || a.Scope != rtnl.ScopeLink || a.Prefix.Bits() != 64 {
			t.Errorf("%v has flags %#x and scope %v", a, a.Flags, a.Scope)
		}
		if !slices.ContainsFunc(routes, func(r rtnl.Route) bool {
			return r.Table == rtnl.TableLocal && r.Dst.Addr() == a.Prefix.Addr() && r.OutIface == a.IfIndex
		}) {
			t.Errorf("%v has no local route: %v", a, routes)
		}
	}
	if got != want {
		t.Errorf("%d addresses are link-local, want %d: %v", got, want, addrs)
	}
}

// TestLinkLocalGiven asks a link-local address of the configuration, and one of the
// kernel: the answer comes from where the question went.
func TestLinkLocalGiven(t *testing.T) {
	for _, given := range []string{"", "fe80::a/64"} {
		var stacks []*Stack
		for range 2 {
			f := Interface{VNL: "mem://linklocal"}
			if given != "" {
				f.Addrs = testenv.Prefixes(given)
				given = "fe80::b/64"
			}
			stacks = append(stacks, made(t, Config{Interfaces: []Interface{f}}))
		}
		target := netip.MustParseAddr("fe80::a")
		if given == "" {
			l := testenv.Must(testenv.Opened(stacks[0].RTNL())(t).Link(stacks[0].interfaces()[0].index))(t)
			target = eui64(l.HardwareAddr)
		}
		to := netip.AddrPortFrom(target.WithZone(strconv.Itoa(stacks[1].interfaces()[0].index)), 7)
		exchange(t, stacks[1], stacks[0], "[::]:7", to.String())
	}
}

// TestLinkLocalJoined joins a namespace: its own address is used at once, and the
// interface that was there before, and what the namespace begins others with, stay
// as they were.
func TestLinkLocalJoined(t *testing.T) {
	for _, vnl := range []string{"", "mem://linklocal"} {
		s := made(t, Config{Interfaces: []Interface{{Addrs: testenv.Prefixes("10.0.0.1/24")}}})
		nl := testenv.Opened(s.RTNL())(t)
		dummy := testenv.Must(nl.LinkAdd(rtnl.LinkSpec{Name: "other", Kind: "bridge"}))(t)
		look := func() map[string]string {
			all := linktest.Attributes(t, nl, s.interfaces()[0].index)
			for k, v := range linktest.Attributes(t, nl, dummy) {
				all["other "+k] = v
			}
			for _, a := range testenv.Must(nl.Addrs())(t) {
				if a.Name != "in" {
					all[a.String()] = fmt.Sprint(a.Flags)
				}
			}
			for _, name := range []string{"default", "all", "vde0", "other"} {
				for _, set := range []string{"accept_dad", "dad_transmits", "addr_gen_mode", "disable_ipv6"} {
					path := "net/ipv6/conf/" + name + "/" + set
					all[path] = testenv.Must(s.ReadSysctl(path))(t)
				}
			}
			return all
		}
		before := look()
		f := testenv.Opened(s.NetNS())(t)
		in := testenv.Must(New(t.Context(), Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), Interfaces: []Interface{{Name: "in", VNL: vnl}}}))(t)
		wantLocal(t, in, 2)
		if after := look(); !maps.Equal(before, after) {
			t.Errorf("got %v, want %v", after, before)
		}
		in.Close()
	}
}
