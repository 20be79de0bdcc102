package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestFind has a peer whose name gets another address, and then several, of which one is the
// peer's.
func TestFind(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	named := func(addrs ...string) {
		t.Helper()
		testenv.Check(t, near.SetDNS(vdestack.DNS{Hosts: map[string][]netip.Addr{"vpn.example": testenv.Addrs(addrs...)}}))
	}
	named("192.0.2.99")
	c := p.config("vpn.example:51820", "10.0.0.2/24")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	for _, step := range []struct {
		addrs []string
		want  string
	}{
		{[]string{"192.0.2.99"}, "192.0.2.99:51820"},
		{[]string{"192.0.2.98"}, "192.0.2.98:51820"},
		{nil, "192.0.2.98:51820"}, // the name is gone
		{[]string{"192.0.2.98", "192.0.2.97", "192.0.2.1"}, "192.0.2.97:51820"},
		{[]string{"192.0.2.98", "192.0.2.97", "192.0.2.1"}, "192.0.2.1:51820"},
	} {
		named(step.addrs...)
		tun.find([]PublicKey{p.key.Public(), {}})
		if s := only(t, tun); s.Endpoint.String() != step.want {
			t.Errorf("with %v the endpoint is %v, want %s", step.addrs, s.Endpoint, step.want)
		}
	}
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)

	named()
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "wireguard: wg0: peer "+p.key.Public().String()[:6]+"…: the Endpoint: lookup vpn.example") {
		t.Errorf("a name that does not exist: %v", err)
	}
	c.Peers[0].Endpoint = "[fe80::1%nothere]:1"
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "nothere") {
		t.Errorf("a zone that does not exist: %v", err)
	}
	c.Underlay = nil
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "knows no zones") {
		t.Errorf("a zone on the host: %v", err)
	}
	c.Underlay, c.Peers[0].Endpoint = near, "192.0.2.1:51820"
	if _, err := Up(t.Context(), near, c); err == nil || !strings.Contains(err.Error(), "its packets would go into the tunnel") {
		t.Errorf("an endpoint behind the tunnel itself: %v", err)
	}
}

// TestLinkLocal has an endpoint with a link-local address, by the name of the interface.
func TestLinkLocal(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	nl := testenv.Opened(p.st.RTNL())(t)
	addrs := testenv.Must(nl.Addrs())(t)
	i := slices.IndexFunc(addrs, func(a rtnl.Addr) bool {
		return a.Prefix.Addr().IsLinkLocalUnicast() && a.IfIndex == p.st.Stats().Interfaces[0].Index
	})
	c := p.config(fmt.Sprintf("[%v%%vde0]:51820", addrs[i].Prefix.Addr()), "10.0.0.2/24")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	transfer(t, tun.Stack(), "10.0.0.1", 1<<16)
}

// TestSilence has what the device counts at each look, and whether the peer is then silent.
func TestSilence(t *testing.T) {
	for name, tt := range map[string]struct {
		keepalive time.Duration
		rx, tx    []uint64 // since the last look
		want      []bool
	}{
		"answers":                {0, []uint64{92, 1000, 32, 0}, []uint64{148, 100, 5000, 32}, []bool{false, false, false, false}},
		"no handshake":           {0, []uint64{0, 0, 0}, []uint64{296, 296, 296}, []bool{false, true, true}},
		"nothing to say":         {0, []uint64{92, 0, 0, 0}, []uint64{148, 0, 0, 32}, []bool{false, false, false, false}},
		"keepalives":             {5 * time.Second, []uint64{0, 0, 0, 0}, []uint64{64, 96, 64, 96}, []bool{false, false, false, false}},
		"keepalives and no keys": {25 * time.Second, []uint64{0, 0}, []uint64{148, 148}, []bool{false, true}},
		"a late answer":          {0, []uint64{0, 32, 0, 32}, []uint64{1000, 0, 1000, 0}, []bool{false, false, false, false}},
		"gone, and back":         {0, []uint64{92, 0, 0, 92, 0}, []uint64{148, 300, 300, 148, 300}, []bool{false, false, true, false, false}},
	} {
		s, p := silence{}, PeerStatus{PersistentKeepalive: tt.keepalive}
		for i, want := range tt.want {
			p.RxBytes += tt.rx[i]
			p.TxBytes += tt.tx[i]
			if got := s.look(&p); got != want {
				t.Errorf("%s: look %d: silent %v, want %v", name, i+1, got, want)
			}
		}
	}
}
