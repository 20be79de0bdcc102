package autoconf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/link"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/autoconf/internal/source"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// A host is a stack on a network, and a netlink connection to it.
type host struct {
	t  *testing.T
	st *vdestack.Stack
	*rtnl.Conn
	index int
}

func newHost(t *testing.T, i vdestack.Interface) host {
	t.Helper()
	st, err := vdestack.New(t.Context(), vdestack.Config{Interfaces: []vdestack.Interface{i}})
	if _, ok := errors.AsType[*vdestack.RefusedError](err); ok {
		testenv.Skip(t, "no stack: %v", err)
	}
	testenv.Check(t, err)
	t.Cleanup(func() { testenv.Check(t, st.Close()) })
	nl, err := st.RTNL()
	testenv.Check(t, err)
	// Only TestConflict waits for the detection of duplicates.
	testenv.Check(t, st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "0"))
	return host{t, st, nl, st.Stats().Interfaces[0].Index}
}

// state returns the addresses and routes of the interface but those that every interface
// has, without the times, and settings.
func (h host) state() string {
	h.t.Helper()
	var all []string
	addrs, err := h.Addrs()
	testenv.Check(h.t, err)
	for _, a := range addrs {
		if a.IfIndex == h.index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, fmt.Sprintf("%v flags %#x", a.Prefix, uint32(a.Flags)))
		}
	}
	routes, err := h.Routes()
	testenv.Check(h.t, err)
	for _, r := range routes {
		if r.OutIface == h.index && r.Table == rtnl.TableMain && !r.Dst.Addr().IsLinkLocalUnicast() {
			all = append(all, fmt.Sprintf("%v metric %d protocol %d pref %d", r, r.Metric, r.Protocol, r.Pref))
		}
	}
	slices.Sort(all)
	l, err := h.Link(h.index)
	testenv.Check(h.t, err)
	all = append(all, fmt.Sprintf("mtu %d", l.MTU))
	for _, name := range []string{"mtu", "accept_ra", "use_tempaddr"} {
		v, err := h.st.ReadSysctl("net/ipv6/conf/vde0/" + name)
		testenv.Check(h.t, err)
		all = append(all, name+" "+v)
	}
	dns := h.st.DNS()
	return strings.Join(append(all, fmt.Sprintf("dns %v %v", dns.Servers, dns.Search)), "\n")
}

// kinds are networks: the kernel's switch, and user space.
var kinds = []string{"mem://", "vxvde://239.0.0.1/port=14873"}

func vnl(t *testing.T, kind string) string {
	if kind == "mem://" {
		return kind + strings.ReplaceAll(t.Name(), "/", "-")
	}
	return kind
}

// useSources replaces the sources for a test.
func useSources(t *testing.T, with map[Source]source.Run) {
	before := runs
	runs = with
	t.Cleanup(func() { runs = before })
}

// puppets returns sources in the hands of the test, which have something to begin with.
func puppets(t *testing.T, leases map[Source]source.Lease) map[Source]*puppet {
	all, runs := make(map[Source]*puppet), make(map[Source]source.Run)
	for by, l := range leases {
		p := newPuppet()
		all[by] = p
		runs[by] = func(ctx context.Context, cfg source.Config, link source.Link, sink source.Sink) error {
			go func() { (<-p.started).sink.Set(l) }()
			return p.run(ctx, cfg, link, sink)
		}
	}
	useSources(t, runs)
	return all
}

// TestApply follows leases in the kernel, and leaves alone what was made by hand.
func TestApply(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.9.0.1/24", "fd09::1/64"), Gateways: testenv.Addrs("10.9.0.9")})
	before := h.state()
	now := time.Now()
	def4, def6 := prefix("0.0.0.0/0"), prefix("::/0")
	v4 := source.Lease{
		Addrs: []source.Addr{{Prefix: prefix("10.0.0.5/24"), Preferred: now.Add(1000 * time.Second), Valid: now.Add(2000 * time.Second)}},
		Routes: []source.Route{
			{Dst: def4, Gateway: addr("10.0.0.1")}, {Dst: def4, Gateway: addr("10.0.0.2")}, {Dst: prefix("10.1.0.0/16"), Gateway: addr("172.16.0.1")},
			{Dst: prefix("10.2.0.0/16")},
		},
		DNS: []source.Server{{Addr: addr("10.0.0.3")}}, Search: []source.Domain{{Name: "a.example"}}, MTU: 1400,
	}
	v6 := source.Lease{Addrs: []source.Addr{
		{Prefix: prefix("fd00::5/128"), Valid: now.Add(5000 * time.Second)}, {Prefix: prefix("fd09::1/128")}, {Prefix: prefix("fd00::6/128"), Valid: now.Add(-time.Second)},
	}}
	rd := source.Lease{
		Addrs: []source.Addr{
			{Prefix: prefix("fd01::5/64"), NoPrefixRoute: true, Preferred: now.Add(1000 * time.Second), Valid: now.Add(2000 * time.Second), Temporary: true},
			{Prefix: prefix("fd00::5/128"), Valid: now.Add(9000 * time.Second)},
		},
		Routes: []source.Route{
			{Dst: def6, Gateway: addr("fe80::1"), Expires: now.Add(1000 * time.Second), Preference: 1},
			{Dst: def6, Gateway: addr("fe80::2"), Expires: now.Add(1000 * time.Second)},
			{Dst: def6, Gateway: addr("fe80::3")},
			{Dst: prefix("fd01::/64")},
		},
		MTU: 1300, DNS: []source.Server{{Addr: addr("fe80::1")}},
		DHCP6: true, // else Start does not wait for it
	}
	p := puppets(t, map[Source]source.Lease{DHCP4: v4, DHCP6: v6, RD: rd})
	cfg, err := Parse("auto,ip=10.3.0.1,gw=10.3.0.9,slaac,temporary")
	testenv.Check(t, err)
	c, err := Start(t.Context(), h.st, cfg)
	testenv.Check(t, err)
	got := h.state()
	for _, want := range []string{
		"10.0.0.5/24 flags 0x200", "10.0.0.0/24 on interface 1048576 metric 2049 protocol 16 pref 0", "10.3.0.1/24 flags 0x80", "10.9.0.1/24 flags 0x80", "fd00::5/128 flags 0x200", "fd01::5/64 flags 0x300", "fd09::1/64 flags 0x82",
		"default via 10.0.0.1 on interface 1048576 metric 2049 protocol 16 pref 0", "default via 10.0.0.2 on interface 1048576 metric 2049 protocol 16 pref 0",
		"10.1.0.0/16 via 172.16.0.1 on interface 1048576 metric 2049 protocol 16 pref 0", "10.2.0.0/16 on interface 1048576 metric 2049 protocol 16 pref 0",
		"default via 10.9.0.9 on interface 1048576 metric 0 protocol 3 pref 0", "default via 10.3.0.9 on interface 1048576 metric 0 protocol 4 pref 0",
		"default via fe80::1 on interface 1048576 metric 2048 protocol 9 pref 0", "fd01::/64 on interface 1048576 metric 2049 protocol 9 pref 0",
		"mtu 1400", "mtu 1300", "accept_ra 0", "use_tempaddr 2", "dns [10.0.0.3:53 [fe80::1%vde0]:53] [a.example]",
	} {
		if !strings.Contains(got+"\n", want+"\n") {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	for _, no := range []string{"fd00::6", "fd09::1/128"} {
		if strings.Contains(got, no) {
			t.Errorf("%q is in\n%s", no, got)
		}
	}
	h.wantGateways(map[string]bool{"fe80::1": true, "fe80::2": true, "fe80::3": true})
	h.wantLifetime("10.0.0.5/24", 1000*time.Second, 2000*time.Second)
	h.wantLifetime("fd00::5/128", 9000*time.Second, 9000*time.Second) // the longer of two
	testenv.Eventually(t, "a temporary address", func() bool { return strings.Count(h.state(), "fd01::") > 2 })

	// Renewal: nothing is deleted.
	events := h.Watch(t.Context())
	v4.Addrs[0].Preferred, v4.Addrs[0].Valid = now.Add(3000*time.Second), now.Add(4000*time.Second)
	testenv.Check(t, p[DHCP4].sink.Set(v4))
	rd.Routes[0].Expires = now.Add(5000 * time.Second)
	testenv.Check(t, p[RD].sink.Set(rd))
	h.wantLifetime("10.0.0.5/24", 3000*time.Second, 4000*time.Second)
	// Two know it, one forgets.
	testenv.Check(t, p[DHCP6].sink.Set(source.Lease{}))
	h.wantLifetime("fd00::5/128", 9000*time.Second, 9000*time.Second)
	if got := h.expires("fe80::1"); got < 4000*time.Second {
		t.Errorf("the route expires in %v", got)
	}
	testenv.Check(t, h.AddrAdd(h.index, prefix("10.99.0.1/32"))) // the last event
	for e, err := range events {
		testenv.Check(t, err)
		if e.Deleted && e.Neighbor == nil {
			t.Errorf("it was deleted: %+v %+v", e.Addr, e.Route)
		}
		if e.Addr != nil && e.Addr.Prefix == prefix("10.99.0.1/32") {
			break
		}
	}
	testenv.Check(t, h.AddrDel(h.index, prefix("10.99.0.1/32")))

	// What is wrong changes nothing, and is nobody else's mistake.
	got = h.state()
	if err := c.Change(t.Context(), testenv.Must(Parse("ip=10.4.0.1,gw=10.77.0.1"))(t)); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("a gateway that cannot be reached: %v", err)
	}
	if after := h.state(); after != got {
		t.Errorf("after an error:\n%s\nbefore:\n%s", after, got)
	}
	testenv.Check(t, h.AddrDel(h.index, prefix("10.3.0.1/24"))) // with it, the route by 10.3.0.9
	testenv.Check(t, p[DHCP4].sink.Set(v4))

	// Another address in the same network, and no gateway any more.
	v4.Addrs[0].Prefix, v4.Routes, v4.MTU = prefix("10.0.0.6/24"), nil, 0
	testenv.Check(t, p[DHCP4].sink.Set(v4))
	got = h.state()
	if !strings.Contains(got, "10.0.0.6/24") || strings.Contains(got, "10.0.0.5/24") || strings.Count(got, "protocol 16") != 1 || !strings.Contains(got, "mtu 1500") {
		t.Errorf("got\n%s", got)
	}
	testenv.Check(t, c.Close())
	if after := h.state(); after != before {
		t.Errorf("after Close:\n%s\nbefore it began:\n%s", after, before)
	}
}

// TestByHand has a server give an address in networks that the program has too, later and by
// hand: these count, and stay.
func TestByHand(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "null://"})
	puppets(t, map[Source]source.Lease{DHCP4: {
		Addrs:  []source.Addr{{Prefix: prefix("10.0.0.5/24"), Valid: time.Now().Add(time.Hour)}},
		Routes: []source.Route{{Dst: prefix("10.1.0.0/24")}, {Dst: prefix("10.2.0.0/24"), Gateway: addr("10.0.0.1")}},
	}})
	c, err := Start(t.Context(), h.st, Config{DHCP4: true})
	testenv.Check(t, err)
	testenv.Check(t, h.st.AddInterface(t.Context(), vdestack.Interface{VNL: "null://", Addrs: testenv.Prefixes("10.0.0.1/24", "10.1.0.1/24")}))
	testenv.Check(t, h.RouteAdd(prefix("10.2.0.0/24"), addr("10.1.0.9"), h.index+1))
	for to, want := range map[string]string{"10.0.0.9": "10.0.0.1", "10.1.0.9": "10.1.0.1", "10.2.0.9": "10.1.0.1"} {
		conn, err := h.st.DialContext(t.Context(), "udp", to+":9")
		testenv.Check(t, err)
		if got := conn.LocalAddr().(*net.UDPAddr).IP.String(); got != want {
			t.Errorf("%s is reached from %s, want %s", to, got, want)
		}
		testenv.Check(t, conn.Close())
	}
	// The kernel ends the address of a lease by itself.
	testenv.Check(t, h.AddrAdd(h.index, prefix("10.0.0.7/24")))
	testenv.Check(t, h.AddrDel(h.index, prefix("10.0.0.5/24")))
	if got := h.state(); !strings.Contains(got, "10.0.0.7/24 flags 0x80") {
		t.Errorf("an address of the network is gone with that of the lease:\n%s", got)
	}
	testenv.Check(t, c.Close())
	if v, err := h.st.ReadSysctl("net/ipv4/conf/vde0/promote_secondaries"); err != nil || v != "0" {
		t.Errorf("promote_secondaries is %q, %v", v, err)
	}
}

func (h host) wantLifetime(p string, preferred, valid time.Duration) {
	h.t.Helper()
	addrs, err := h.Addrs()
	testenv.Check(h.t, err)
	i := slices.IndexFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix == prefix(p) })
	if i < 0 {
		h.t.Fatalf("%s is missing", p)
	}
	const margin = 60 * time.Second
	if l := addrs[i].Lifetime; l.Preferred > preferred+time.Second || l.Preferred < preferred-margin || l.Valid > valid+time.Second || l.Valid < valid-margin {
		h.t.Errorf("%s has %+v, want %v and %v", p, l, preferred, valid)
	}
}

// gateways calls f with the gateways of the IPv6 default routes.
func (h host) gateways(f func(gw netip.Addr, r rtnl.Route)) {
	h.t.Helper()
	routes, err := h.Routes()
	testenv.Check(h.t, err)
	for _, r := range routes {
		if r.Dst != prefix("::/0") || r.Table != rtnl.TableMain {
			continue
		}
		if r.Gateway.IsValid() {
			f(r.Gateway, r)
		}
		for _, n := range r.MultiPath {
			f(n.Gateway, r)
		}
	}
}

func (h host) wantGateways(want map[string]bool) {
	h.t.Helper()
	h.gateways(func(gw netip.Addr, _ rtnl.Route) { delete(want, gw.String()) })
	if len(want) > 0 {
		h.t.Errorf("no default route by %v", want)
	}
}

func (h host) expires(gw string) (d time.Duration) {
	h.t.Helper()
	h.gateways(func(a netip.Addr, r rtnl.Route) {
		if a.String() == gw {
			d = time.Duration(r.Expires)
		}
	})
	return d
}

// TestConflict gives an address that another host has.
func TestConflict(t *testing.T) {
	testenv.Long(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t, vdestack.Interface{VNL: vnl(t, kind)})
			testenv.Check(t, h.st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "1"))
			newHost(t, vdestack.Interface{VNL: vnl(t, kind), Addrs: testenv.Prefixes("fd00::5/64")})
			p := puppets(t, map[Source]source.Lease{DHCP6: {Routes: []source.Route{{Dst: prefix("fd05::/64")}}}})
			c, err := Start(t.Context(), h.st, Config{DHCP6: true})
			testenv.Check(t, err)
			l := source.Lease{Addrs: []source.Addr{
				{Prefix: prefix("fd00::5/128")}, {Prefix: prefix("fd00::6/128")}, {Prefix: prefix("fd00::7/128"), Valid: time.Now().Add(time.Hour)},
			}}
			for i := range 2 {
				if i > 0 && kind != "mem://" {
					break // here it is tried again, once
				}
				err = p[DHCP6].sink.Set(l)
				e, ok := errors.AsType[*source.ConflictError](err)
				if !ok || !slices.Equal(e.Addrs, testenv.Addrs("fd00::5")) {
					t.Errorf("got %v, want a conflict of fd00::5", err)
				}
				if got := h.state(); strings.Contains(got, "fd00::5") || !strings.Contains(got, "fd00::6/128 flags 0x280") || !strings.Contains(got, "fd00::7/128 flags 0x200") {
					t.Errorf("got\n%s", got)
				}
			}
			if l := c.Leases(); len(l) != 1 || len(l[0].Addrs) != 2 {
				t.Errorf("known: %+v", l)
			}
			testenv.Check(t, c.Close())
		})
	}
}

// TestKernelAdvertisements takes over from the kernel, which has followed a router until
// then, and gives back.
func TestKernelAdvertisements(t *testing.T) {
	testenv.Long(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), MAC: mac})
	router := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	port, err := link.New(router.st, "vde0", router.index, mac).ICMP6()
	testenv.Check(t, err)
	defer port.Close()
	// Router lifetime 1800 s; two prefixes, on link and autonomous, 7200 s.
	ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, p := range []string{"fd01::", "fd02::"} {
		ra = append(ra, 3, 4, 64, 0xc0)
		ra = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(ra, 7200), 7200)
		ra = append(append(ra, 0, 0, 0, 0), addr(p).AsSlice()...)
	}
	advertise := func() {
		testenv.Check(t, port.Send(source.Packet{Data: ra, Peer: netip.MustParseAddrPort("[ff02::1]:0")}))
	}
	advertise()
	kernels := []string{"fd01::ff:fe00:1/64", "fd02::ff:fe00:1/64", "protocol 9", "metric 256 protocol 2"}
	has := func(n int) bool {
		got := h.state()
		for _, k := range kernels {
			if strings.Contains(got, k) {
				n--
			}
		}
		return n == 0
	}
	testenv.Eventually(t, "the kernel's addresses and routes", func() bool { return has(4) }, h.state)
	gw := rd.EUI64(addr("fe80::"), testenv.Must(router.LinkAddr(router.index))(t))
	p := puppets(t, map[Source]source.Lease{RD: {
		Addrs:  []source.Addr{{Prefix: prefix(kernels[0]), Valid: time.Now().Add(time.Hour)}},
		Routes: []source.Route{{Dst: prefix("::/0"), Gateway: gw}},
	}})
	events := h.Watch(t.Context())
	c, err := Start(t.Context(), h.st, Config{RD: true})
	testenv.Check(t, err)
	if !has(2) || !strings.Contains(h.state(), "metric 2049 protocol 9") {
		t.Errorf("got\n%s", h.state())
	}
	h.wantLifetime(kernels[0], time.Hour, time.Hour)
	advertise()
	testenv.Check(t, p[RD].sink.Set(source.Lease{}))
	for e, err := range events {
		testenv.Check(t, err)
		if e.Addr == nil || !e.Deleted {
			continue
		}
		if e.Addr.Prefix.String() == kernels[0] {
			break // after it was taken over and forgotten
		}
	}
	if !has(0) {
		t.Errorf("got\n%s", h.state())
	}
	testenv.Check(t, c.Close())
	advertise()
	testenv.Eventually(t, "the kernel's again", func() bool { return has(4) }, h.state)
}

// TestDownUp sets the interface down and up again.
func TestDownUp(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	l := source.Lease{
		Addrs:  []source.Addr{{Prefix: prefix("10.0.0.5/24")}, {Prefix: prefix("fd00::5/64"), Valid: time.Now().Add(time.Hour)}},
		Routes: []source.Route{{Dst: prefix("0.0.0.0/0"), Gateway: addr("10.0.0.1")}, {Dst: prefix("::/0"), Gateway: addr("fe80::1")}},
	}
	p := puppets(t, map[Source]source.Lease{DHCP4: l})
	c, err := Start(t.Context(), h.st, Config{DHCP4: true})
	testenv.Check(t, err)
	want := h.state()
	testenv.Check(t, h.LinkSetDown(h.index))
	if got := h.state(); got == want {
		t.Errorf("nothing is missing when it is down:\n%s", got)
	}
	testenv.Check(t, h.LinkSetUp(h.index))
	if call := <-p[DHCP4].cfg.Calls; call != (source.Call{Confirm: true}) {
		t.Errorf("the source is asked for %+v", call)
	}
	if got := h.state(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	changes := c.Watch(testenv.Context(t))
	testenv.Check(t, h.st.RemoveInterface("vde0"))
	for e, err := range changes {
		testenv.Check(t, err)
		if e.Err != nil && strings.Contains(e.Err.Error(), "the interface is gone") {
			break
		}
	}
	if err := p[DHCP4].sink.Set(l); err == nil {
		t.Error("an address of no interface: no error")
	}
	testenv.Check(t, c.Close())
}

// TestEth changes the hardware address of an interface in use, and sets another up.
func TestEth(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Addrs: testenv.Prefixes("fd09::1/64")})
	peer := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("fd09::2/64")})
	for _, down := range []bool{false, true} {
		if down {
			testenv.Check(t, h.LinkSetDown(h.index))
		}
		cfg, err := Parse("eth,fqdn=host.example.org,ip=fd00::1")
		if down {
			cfg, err = Parse("eth,mac=02:00:00:00:00:07,ip=fd00::1")
		}
		testenv.Check(t, err)
		c, err := Start(t.Context(), h.st, cfg)
		testenv.Check(t, err)
		mac := testenv.Must(h.LinkAddr(h.index))(t)
		if mac.String() != cfg.mac().String() {
			t.Errorf("the hardware address is %v, want %v", mac, cfg.mac())
		}
		// Reached at once, by its link-local address too.
		l := testenv.ListenPacket(t, h.st, "udp", "[::]:7")
		for _, a := range []netip.Addr{addr("fd09::1"), rd.EUI64(addr("fe80::"), mac).WithZone("vde0")} {
			if down && a == addr("fd09::1") {
				continue // set down, an interface loses its IPv6 addresses
			}
			d := testenv.Dial(t, peer.st, "udp", netip.AddrPortFrom(a, 7).String())
			testenv.Must(d.Write([]byte("hello")))(t)
			testenv.Check(t, l.SetReadDeadline(time.Now().Add(5*time.Second)))
			if n, _, err := l.ReadFrom(make([]byte, 10)); err != nil || n != 5 {
				t.Errorf("%v: %d bytes, %v", a, n, err)
			}
			d.Close()
		}
		l.Close()
		addrs := testenv.Must(h.Addrs())(t)
		n := 0
		for _, a := range addrs {
			if a.IfIndex == h.index && a.Prefix.Addr().IsLinkLocalUnicast() {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d link-local addresses: %v", n, addrs)
		}
		testenv.Check(t, c.Close())
	}
	_, err := Start(t.Context(), h.st, Config{Iface: "vde9", Eth: true})
	if err == nil || !strings.Contains(err.Error(), `"vde9"`) {
		t.Errorf("an interface that does not exist: %v", err)
	}
	if _, err := Start(t.Context(), h.st, Config{Iface: "lo"}); err == nil || !strings.Contains(err.Error(), "not an Ethernet") {
		t.Errorf("loopback: %v", err)
	}
	for text, want := range map[string]string{"gw=10.77.0.1": "static: ", "vnl='cmd://ssh SECRET'": "vnl=cmd://ssh …: the stack has its networks already"} {
		cfg := testenv.Must(Parse(text))(t)
		if c, err := Start(t.Context(), h.st, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", text, c, err)
		}
	}
}

// TestStackClose closes the stack of a client, which gives its lease back before.
func TestStackClose(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	server := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24")})
	l := testenv.ListenPacket(t, server.st, "udp", "10.0.0.1:67")
	p := puppets(t, map[Source]source.Lease{DHCP4: lease("10.0.0.5/24", "10.0.0.1")})
	c, err := Start(t.Context(), h.st, Config{DHCP4: true, Release: true})
	testenv.Check(t, err)
	p[DHCP4].onEnd = func() {
		if !p[DHCP4].cfg.Release {
			t.Error("the source is not asked to give its lease back")
		}
		port, err := link.New(h.st, "vde0", h.index, nil).UDP(netip.MustParseAddrPort("10.0.0.5:68"))
		if err != nil {
			t.Error(err)
			return
		}
		defer port.Close()
		if err := port.Send(source.Packet{Data: []byte("release"), Peer: netip.MustParseAddrPort("10.0.0.1:67")}); err != nil {
			t.Error(err)
		}
		b := make([]byte, 100)
		l.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, from, err := l.ReadFrom(b); err != nil || string(b[:n]) != "release" || from.String() != "10.0.0.5:68" {
			t.Errorf("the server has got %q of %v, %v", b[:n], from, err)
		}
	}
	events := c.Watch(t.Context())
	testenv.Check(t, h.st.Close())
	for _, err := range events {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	testenv.Check(t, c.Close())
	if err := c.Renew(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Renew: %v, want net.ErrClosed", err)
	}
}

// TestOpen makes a stack with its client.
func TestOpen(t *testing.T) {
	for text, want := range map[string]string{"eth": "vnl=LOCATOR", "vnl=null://,ifindex=3": "ifindex=3", "vnl=nothing://": "nothing"} {
		if c, err := Open(t.Context(), testenv.Must(Parse(text))(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %s", text, c, err, want)
		}
	}
	c, err := Open(t.Context(), testenv.Must(Parse("stack=vdestack,vnl=mem://"+t.Name()+",eth,fqdn=host.example.org,iface=eth0,ip=10.0.0.1"))(t))
	if _, ok := errors.AsType[*vdestack.RefusedError](err); ok {
		testenv.Skip(t, "no stack: %v", err)
	}
	testenv.Check(t, err)
	l := testenv.ListenPacket(t, c.Stack(), "udp", "10.0.0.1:7")
	testenv.Check(t, c.Close())
	if _, err := l.WriteTo([]byte("x"), l.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the stack of the client: %v, want net.ErrClosed", err)
	}
}

// TestTwoInterfaces has a client for each of two interfaces, with default routes of both.
func TestTwoInterfaces(t *testing.T) {
	h := newHost(t, vdestack.Interface{VNL: "null://"})
	testenv.Check(t, h.st.AddInterface(t.Context(), vdestack.Interface{VNL: "null://"}))
	before := h.state()
	var clients []*Client
	for i := range 2 {
		a := fmt.Sprintf("10.0.%d.", i)
		puppets(t, map[Source]source.Lease{DHCP4: {
			Addrs:  []source.Addr{{Prefix: prefix(a + "5/24")}},
			Routes: []source.Route{{Dst: prefix("0.0.0.0/0"), Gateway: addr(a + "1")}, {Dst: prefix("::/0"), Gateway: addr("fe80::1")}},
			DNS:    []source.Server{{Addr: addr(a + "3")}},
		}})
		c, err := Start(t.Context(), h.st, Config{Iface: fmt.Sprintf("vde%d", i), DHCP4: true})
		testenv.Check(t, err)
		clients = append(clients, c)
	}
	routes, err := h.Routes()
	testenv.Check(t, err)
	for i, c := range clients {
		n := 0
		for _, r := range routes {
			if r.Dst.Bits() == 0 && r.OutIface == h.index+i && r.Metric == rtnl.Metric(2049+3*i) && r.MultiPath == nil {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%s has %d default routes, want 2: %+v", c.name, n, routes)
		}
	}
	if got, want := fmt.Sprint(h.st.DNS().Servers), "[10.0.0.3:53 10.0.1.3:53]"; got != want {
		t.Errorf("the servers are %s, want %s", got, want)
	}
	if c, err := Start(t.Context(), h.st, Config{Iface: "vde1"}); err == nil || err.Error() != "autoconf: interface vde1 has a client already: its Change adds to what it does" {
		t.Errorf("a second client for one: %v, %v", c, err)
	}
	testenv.Check(t, clients[0].Close())
	if got, want := fmt.Sprint(h.st.DNS().Servers), "[10.0.1.3:53]"; got != want {
		t.Errorf("the servers are %s, want %s", got, want)
	}
	testenv.Check(t, clients[1].Close())
	if n := len(configured.by); n > 0 {
		t.Errorf("%d interfaces are not free", n)
	}
	if after := h.state(); after != before {
		t.Errorf("after Close:\n%s\nbefore it began:\n%s", after, before)
	}
}

// TestSleeps ends the watch for sleep.
func TestSleeps(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for d := range sleeps(ctx) {
		t.Logf("the machine has slept for %v", d)
	}
	if d := asleep(); d < -time.Second || d > 100*365*24*time.Hour {
		t.Errorf("it has slept for %v", d)
	}
}

// TestStartClose closes the stack while Start works.
func TestStartClose(t *testing.T) {
	for i := range 4 {
		h := newHost(t, vdestack.Interface{VNL: "null://"})
		useSources(t, map[Source]source.Run{DHCP4: say(time.Hour, nil), RD: say(time.Hour, nil)})
		closed := make(chan error)
		go func() {
			time.Sleep(time.Duration(i*i) * time.Millisecond)
			closed <- h.st.Close()
		}()
		if c, err := Start(t.Context(), h.st, testenv.Must(Parse("auto,ip=10.0.0.1"))(t)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, %v, want net.ErrClosed", c, err)
		}
		testenv.Check(t, <-closed)
	}
}
