package autoconf

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestBadRoutes has routes that the kernel does not take: the rest is configured, and Start
// has a result.
func TestBadRoutes(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "null://", Addrs: testenv.Prefixes("10.5.0.1/24")})
	mac, err := h.LinkAddr(h.index)
	testenv.Check(t, err)
	l := source.Lease{Addrs: []source.Addr{{Prefix: prefix("10.0.0.5/24")}}}
	for _, gw := range append(testenv.Addrs("10.0.0.5", "10.0.0.255", "10.5.0.1", "2001:db8::1"), rd.EUI64(netip.MustParseAddr("fe80::"), mac)) {
		l.Routes = append(l.Routes, source.Route{Dst: netip.PrefixFrom(zero(gw), 0), Gateway: gw})
	}
	l.Routes = append(l.Routes, source.Route{Dst: prefix("::/0"), Gateway: addr("fe80::9")})
	p := puppets(t, map[Source]source.Lease{DHCP4: l})
	c, err := Start(t.Context(), h.st, Config{DHCP4: true})
	testenv.Check(t, err)
	if got := h.state(); !strings.Contains(got, "10.0.0.5/24") || !strings.Contains(got, "default via fe80::9") || strings.Count(got, "default") != 1 {
		t.Errorf("got\n%s", got)
	}
	if err := p[DHCP4].sink.Set(l); !errors.Is(err, syscall.EINVAL) || !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("got %v, want what the kernel does not take", err)
	}
	testenv.Check(t, c.Close())
}
