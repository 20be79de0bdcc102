package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.zx2c4.com/wireguard/conn"
)

// TestFindLate has lookups of endpoints that end when the peer has another configuration or
// address, or none.
func TestFindLate(t *testing.T) {
	t.Parallel()
	k := NewKey().Public()
	p := Peer{PublicKey: k, Endpoint: "vpn.example:1"}
	was, to := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")
	near := testenv.Opened(vdestack.Open(""))(t)
	testenv.Check(t, near.SetDNS(vdestack.DNS{Hosts: map[string][]netip.Addr{"vpn.example": {was.Addr()}}}))
	tun := testenv.Opened(Open(t.Context(), Config{PrivateKey: NewKey(), Underlay: near, Peers: []Peer{p}}))(t)
	moves := func(when string, want bool, end netip.AddrPort) {
		t.Helper()
		if moved, err := tun.move(p, was, to); moved != want || err != nil {
			t.Errorf("%s: moved %v, %v", when, moved, err)
		}
		if got := only(t, tun).Endpoint; got != end {
			t.Errorf("%s: the endpoint is %v, want %v", when, got, end)
		}
	}
	moves("a silent peer", true, to)
	moves("a peer that was heard of elsewhere", false, to)
	other := Peer{PublicKey: k, Endpoint: was.String()}
	testenv.Check(t, tun.SetPeer(t.Context(), other))
	moves("another configuration", false, was)
	testenv.Check(t, tun.RemovePeer(k))
	if moved, err := tun.move(p, was, to); moved || err != nil {
		t.Errorf("a peer that is gone: moved %v, %v", moved, err)
	}
}

// TestEndpointNames has names that stand for no host, and some that do besides.
func TestEndpointNames(t *testing.T) {
	t.Parallel()
	near := testenv.Opened(vdestack.Open(""))(t)
	many := testenv.Addrs("0.0.0.0", "::", "224.0.0.1", "ff02::1", "127.0.0.9")
	testenv.Check(t, near.SetDNS(vdestack.DNS{Hosts: map[string][]netip.Addr{"blocked.example": testenv.Addrs("0.0.0.0", "::"), "many.example": many}}))
	c := Config{PrivateKey: NewKey(), Underlay: near, Peers: []Peer{{PublicKey: NewKey().Public()}}}
	for _, e := range []string{"blocked.example:1", "0.0.0.0:1", "[::%vde0]:1", "[ff02::1]:1"} {
		c.Peers[0].Endpoint = e
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is no address of a host") {
			t.Errorf("%s: %v", e, err)
		}
	}
	c.Peers[0].Endpoint = "many.example:1"
	if s := only(t, testenv.Opened(Open(t.Context(), c))(t)); s.Endpoint.String() != "127.0.0.9:1" {
		t.Errorf("the endpoint is %v", s.Endpoint)
	}
}

// TestEndpointZones has a name with several link-local addresses, which are tried in turn.
func TestEndpointZones(t *testing.T) {
	t.Parallel()
	near := newStack(t, vdestack.Interface{VNL: "mem://" + t.Name(), Name: "vde0"})
	testenv.Check(t, near.SetDNS(vdestack.DNS{Hosts: map[string][]netip.Addr{"local.example": testenv.Addrs("fe80::1%vde0", "fe80::2%vde0")}}))
	p := Peer{PublicKey: NewKey().Public(), Endpoint: "local.example:1"}
	tun := testenv.Opened(Open(t.Context(), Config{PrivateKey: NewKey(), Underlay: near, Peers: []Peer{p}}))(t)
	var got []string
	for at := (netip.AddrPort{}); len(got) < 3; {
		at = testenv.Must(tun.resolve(t.Context(), p, at))(t)
		got = append(got, at.Addr().WithZone("").String())
	}
	if want := []string{"fe80::1", "fe80::2", "fe80::1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLoops has peers whose AllowedIPs would lead encrypted packets of others, or their own, into
// the tunnel.
func TestLoops(t *testing.T) {
	t.Parallel()
	st := newStack(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("192.0.2.2/24")})
	first := Peer{PublicKey: NewKey().Public(), AllowedIPs: testenv.Prefixes("10.0.0.1/32"), Endpoint: "192.0.2.1:1"}
	second := Peer{PublicKey: NewKey().Public(), AllowedIPs: testenv.Prefixes("0.0.0.0/0")}
	c := Config{PrivateKey: NewKey(), Addrs: testenv.Prefixes("10.0.0.2/24"), Underlay: st, Peers: []Peer{second, first}}
	if _, err := Up(t.Context(), st, c); err == nil || !strings.Contains(err.Error(), "would go into the tunnel") {
		t.Errorf("Up: %v", err)
	}
	// The kernel looks at the zone of a link-local address only.
	six := Peer{PublicKey: NewKey().Public(), AllowedIPs: testenv.Prefixes("::/0"), Endpoint: "[fd00::1%lo]:1"}
	c.Peers = []Peer{six}
	if tun, err := Up(t.Context(), st, c); err == nil || !strings.Contains(err.Error(), "would go into the tunnel") {
		t.Errorf("Up with a zone: %v, %v", tun, err)
	}
	c.Peers[0].Endpoint = "[fe80::1%lo]:1"
	testenv.Check(t, testenv.Must(Up(t.Context(), st, c))(t).Close())
	c.Peers = []Peer{first}
	tun := testenv.Opened(Up(t.Context(), st, c))(t)
	before := fmt.Sprint(routes(t, st))
	if err := tun.SetPeer(t.Context(), second); err == nil || !strings.Contains(err.Error(), "would go into the tunnel") {
		t.Errorf("SetPeer of another: %v", err)
	}
	first.AllowedIPs, first.Endpoint = testenv.Prefixes("192.0.2.0/30"), "" // it stays where it is
	if err := tun.SetPeer(t.Context(), first); err == nil || !strings.Contains(err.Error(), "would go into the tunnel") {
		t.Errorf("SetPeer of the same: %v", err)
	}
	if len(testenv.Must(tun.Peers())(t)) != 1 || fmt.Sprint(routes(t, st)) != before {
		t.Errorf("after the errors: peers %v, routes %v", testenv.Must(tun.Peers())(t), routes(t, st))
	}
	first.Endpoint = "198.51.100.1:1"
	testenv.Check(t, tun.SetPeer(t.Context(), first)) // it was the reason
}

// TestInner checks that the socket of a tunnel takes nothing that comes out of the tunnel.
func TestInner(t *testing.T) {
	t.Parallel()
	st := testenv.Opened(vdestack.Open(""))(t)
	nl := testenv.Opened(st.RTNL())(t)
	lo := testenv.Must(nl.IfNameToIndex("lo"))(t)
	for _, inner := range []int{0, lo} {
		b := &stackBind{st: st, inner: inner}
		fns, port, err := b.Open(0)
		testenv.Check(t, err)
		defer b.Close()
		for i, host := range []string{"127.0.0.1", "::1"} {
			c := testenv.Dial(t, st, "udp", net.JoinHostPort(host, fmt.Sprint(port)))
			testenv.Must(c.Write(make([]byte, 32)))(t)
			sizes := make([]int, 1)
			testenv.Must(fns[i]([][]byte{make([]byte, 64)}, sizes, make([]conn.Endpoint, 1)))(t)
			if want := map[bool]int{true: 32}[inner == 0]; sizes[0] != want {
				t.Errorf("%s, with the interface %d as the tunnel's: %d bytes, want %d", host, inner, sizes[0], want)
			}
		}
	}
}

// TestUnderlayChanges takes the address away that encrypted packets leave from, and gives another.
func TestUnderlayChanges(t *testing.T) {
	t.Parallel()
	p, near := newLab(t, "", 0)
	c := p.config("192.0.2.1:51820", "10.0.0.2/24")
	c.Underlay = near
	tun := testenv.Opened(Open(t.Context(), c))(t)
	echo(t, p.st)
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)
	nl := testenv.Opened(near.RTNL())(t)
	index := near.Stats().Interfaces[0].Index
	testenv.Check(t, nl.AddrAdd(index, netip.MustParsePrefix("192.0.2.3/24")))
	began := time.Now()
	testenv.Check(t, nl.AddrDel(index, netip.MustParsePrefix("192.0.2.2/24")))
	testenv.Check(t, nl.AddrReplace(index, netip.MustParsePrefix("192.0.2.3/24"))) // the kernel takes it with the first, unless told otherwise
	transfer(t, tun.Stack(), "10.0.0.1", 1<<10)
	if d := time.Since(began); d > lookInterval {
		t.Errorf("the other address was in use after %v", d)
	}
	// Packets that were under way are taken for ones to the address that is gone.
	for from, to := range map[string]string{"192.0.2.2": "192.0.2.1:51820", "fd09::3": "[fd09::1]:51820"} {
		late := &endpoint{AddrPort: netip.MustParseAddrPort(to), src: netip.MustParseAddr(from), index: index}
		if err := tun.bind.Send([][]byte{[]byte("a"), []byte("b")}, late); err != nil {
			t.Errorf("from %s: %v", from, err)
		}
	}
	testenv.Check(t, near.Close())
	testenv.Check(t, tun.Close())
}

// TestDNSOrder closes two tunnels of a stack, which both have name servers, in both orders.
func TestDNSOrder(t *testing.T) {
	t.Parallel()
	for _, firstFirst := range []bool{true, false} {
		st := testenv.Opened(vdestack.Open(""))(t)
		server := func(i byte) []netip.AddrPort {
			return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 53)}
		}
		testenv.Check(t, st.SetDNS(vdestack.DNS{Servers: server(0)}))
		var tuns []*Tunnel
		for i, name := range []string{"wg0", "wg1"} {
			c := Config{Name: name, PrivateKey: NewKey(), DNS: vdestack.DNS{Servers: server(byte(i + 1))}}
			tuns = append(tuns, testenv.Opened(Up(t.Context(), st, c))(t))
		}
		first, second, want := 0, 1, server(2)
		if !firstFirst {
			first, second, want = 1, 0, server(1)
		}
		for _, step := range []struct {
			close int
			want  []netip.AddrPort
		}{{first, want}, {second, server(0)}} {
			testenv.Check(t, tuns[step.close].Close())
			if got := st.DNS().Servers; fmt.Sprint(got) != fmt.Sprint(step.want) {
				t.Errorf("first first %v: after Close of %d the servers are %v, want %v", firstFirst, step.close, got, step.want)
			}
		}
	}
}

// TestNoTunnel calls the methods of what Open returns with an error.
func TestNoTunnel(t *testing.T) {
	for _, tun := range []*Tunnel{nil, {}} {
		_, perr := tun.Peers()
		_, lerr := tun.ListenPort()
		for what, err := range map[string]error{
			"Close": tun.Close(), "Peers": perr, "ListenPort": lerr,
			"SetPeer": tun.SetPeer(t.Context(), Peer{}), "RemovePeer": tun.RemovePeer(PublicKey{}),
		} {
			if !errors.Is(err, os.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if tun.Stack() != nil || tun.Name() != "" || tun.String() != "no tunnel" {
			t.Errorf("%v has a stack or a name", tun)
		}
	}
}
