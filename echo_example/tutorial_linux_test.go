package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestConfigurations configures as either program of the tutorial does, the first with
// each of the commands that it can run.
func TestConfigurations(t *testing.T) {
	for _, tt := range []struct {
		program, pkg    string
		addrs, gateways []string
	}{
		{"busybox", "busybox", []string{"10.0.0.50/24", "fc00::1:50/64"}, nil},
		{"ip", "iproute2", []string{"10.0.0.50/24", "fc00::1:50/64"}, nil},
		{"", "", []string{"10.0.0.60/24", "fc00::1:60/64"}, []string{"10.0.0.1", "fc00::1:1"}},
	} {
		t.Run(tt.program, func(t *testing.T) {
			dir, configure := t.TempDir(), setups["netlink"].configure
			if tt.program != "" {
				configure = setups["commands"].configure
				testenv.Check(t, os.Symlink(testenv.Need(t, tt.program, tt.pkg), filepath.Join(dir, tt.program)))
			}
			t.Setenv("PATH", dir)
			s := bare(t, "mem://")
			testenv.Check(t, configure(t.Context(), s))
			configured(t, s, tt.addrs, tt.gateways)
			addr6 := netip.MustParsePrefix(tt.addrs[1])
			testenv.Check(t, usable(t.Context(), s, addr6.Addr()))
			for _, a := range testenv.Must(testenv.Opened(s.RTNL())(t).Addrs())(t) {
				if a.Prefix == addr6 && a.Flags&rtnl.Tentative != 0 {
					t.Errorf("%v is tentative still", addr6)
				}
			}
		})
	}
}

// bare makes a stack as vde_addstack leaves it: its interface is down.
func bare(t *testing.T, vnl string) *vdestack.Stack {
	t.Helper()
	return testenv.Opened(vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{{VNL: vnl, Down: true}}}))(t)
}

// configured looks at the interface, the addresses and the default routes of a stack: it
// is up and has these, and no others but link-local ones.
func configured(t *testing.T, s *vdestack.Stack, addrs, gateways []string) {
	t.Helper()
	nl := testenv.Opened(s.RTNL())(t)
	index := testenv.Must(nl.IfNameToIndex("vde0"))(t)
	if l, err := nl.Link(index); err != nil || l.Flags&net.FlagUp == 0 {
		t.Errorf("vde0 is not up: %+v, %v", l, err)
	}
	var have, via []string
	for _, a := range testenv.Must(nl.Addrs())(t) {
		if a.IfIndex == index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			have = append(have, a.Prefix.String())
		}
	}
	for _, r := range testenv.Must(nl.Routes())(t) {
		if r.Gateway.IsValid() {
			via = append(via, r.Gateway.String())
		}
	}
	slices.Sort(have)
	slices.Sort(via)
	if !slices.Equal(have, addrs) || !slices.Equal(via, gateways) {
		t.Errorf("got addresses %q and gateways %q, want %q and %q", have, via, addrs, gateways)
	}
}
