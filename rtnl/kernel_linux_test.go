package rtnl_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestLinks makes links of each kind and finds them in the list.
func TestLinks(t *testing.T) {
	c, _ := dial(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	v0 := addLink(t, c, rtnl.LinkSpec{
		Name: "v0", Kind: "veth", Index: 66, MTU: 1400, MAC: mac,
		Peer: &rtnl.LinkSpec{Name: "v1", MTU: 1300, Index: 77},
	})
	br := addLink(t, c, rtnl.LinkSpec{Name: "br", Kind: "bridge", Index: 55})
	mv := addLink(t, c, rtnl.LinkSpec{Name: "mv", Kind: "macvlan", Parent: 77})
	vx := addLink(t, c, rtnl.LinkSpec{Name: "vx", Kind: "vxlan", Master: br, VXLAN: &rtnl.VXLAN{
		ID: 42, Group: addr("239.1.1.1"), Local: addr("10.0.0.1"), Port: 4789, Link: v0, TTL: 3,
	}})
	vx6 := addLink(t, c, rtnl.LinkSpec{Name: "vx6", Kind: "vxlan", VXLAN: &rtnl.VXLAN{ID: 43, Group: addr("ff05::1"), Link: v0}})
	check(t, c.LinkSetMaster(v0, br))
	check(t, c.LinkSetUp(v0))
	check(t, c.LinkSetUp(77))

	links, err := c.Links()
	check(t, err)
	type row struct {
		index          int
		name, kind     string
		mtu            int
		master, parent int
		mac            string
	}
	var got []row
	for _, l := range links {
		if l.Name == "lo" && (l.Flags&net.FlagLoopback == 0 || l.Flags&net.FlagUp != 0 || l.Kind != "") {
			t.Errorf("loopback is %+v", l)
		}
		if l.Name == "v0" && l.Flags&(net.FlagUp|net.FlagBroadcast|net.FlagMulticast) != net.FlagUp|net.FlagBroadcast|net.FlagMulticast {
			t.Errorf("v0 has flags %v", l.Flags)
		}
		if l.Index != v0 {
			l.HardwareAddr = nil // a random one
		}
		got = append(got, row{l.Index, l.Name, l.Kind, l.MTU, l.Master, l.Parent, l.HardwareAddr.String()})
	}
	want := []row{
		{1, "lo", "", 65536, 0, 0, ""},
		{v0, "v0", "veth", 1400, br, 77, mac.String()},
		{77, "v1", "veth", 1300, 0, v0, ""},
		{br, "br", "bridge", 1400, 0, 0, ""},
		{mv, "mv", "macvlan", 1300, 0, 77, ""},
		{vx, "vx", "vxlan", 0, br, 0, ""},
		{vx6, "vx6", "vxlan", 0, 0, 0, ""},
	}
	// The order is the kernel's, and so is the MTU of all but veth.
	for _, rows := range [][]row{got, want} {
		slices.SortFunc(rows, func(a, b row) int { return a.index - b.index })
		for i := range rows {
			if rows[i].kind != "veth" {
				rows[i].mtu = 0
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if br != 55 {
		t.Errorf("bridge has index %d, want 55", br)
	}

	got1, err := c.LinkAddr(v0)
	if err != nil || got1.String() != mac.String() {
		t.Errorf("LinkAddr: %v, %v, want %v", got1, err, mac)
	}
	check(t, c.LinkSetMaster(v0, 0))
	check(t, c.LinkSetDown(v0))
	check(t, c.LinkSetName(v0, "renamed"))
	check(t, c.LinkSetMTU(v0, 1200))
	mac[5] = 8
	check(t, c.LinkSetAddr(v0, mac))
	l, err := c.Link(v0)
	check(t, err)
	if l.Name != "renamed" || l.MTU != 1200 || l.HardwareAddr.String() != mac.String() || l.Master != 0 || l.Flags&net.FlagUp != 0 {
		t.Errorf("after the changes: %+v", l)
	}
	check(t, c.LinkDel(v0))
	if _, err := c.IfNameToIndex("v1"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("the peer of a deleted veth: %v, want ENODEV", err)
	}
}

// TestLinkKernelNames wants the index of links whose name the kernel picks.
func TestLinkKernelNames(t *testing.T) {
	c, _ := dial(t)
	for _, tt := range []struct {
		kind, name, want string
		vxlan            *rtnl.VXLAN
	}{
		{kind: "bridge", want: "bridge0"}, {kind: "bridge", want: "bridge1"}, {kind: "veth", want: "veth1"}, {kind: "bridge", name: "net%d", want: "net0"},
		{kind: "vxlan", want: "vxlan0", vxlan: &rtnl.VXLAN{ID: 1}}, {kind: "vxlan", name: "net%d", want: "net1", vxlan: &rtnl.VXLAN{ID: 2}},
	} {
		i := addLink(t, c, rtnl.LinkSpec{Kind: tt.kind, Name: tt.name, VXLAN: tt.vxlan})
		l, err := c.Link(i)
		if err != nil || l.Kind != tt.kind || tt.kind != "veth" && l.Name != tt.want {
			t.Errorf("%s %q: got %+v, %v, want %s", tt.kind, tt.name, l, err, tt.want)
		}
	}
}

// TestVLAN makes a vlan where the kernel has it.
func TestVLAN(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	i, err := c.LinkAdd(rtnl.LinkSpec{Name: "v0.5", Kind: "vlan", Parent: v0, VLAN: 5})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this kernel has no 802.1Q module")
	}
	check(t, err)
	if l, err := c.Link(i); err != nil || l.Kind != "vlan" || l.Parent != v0 {
		t.Errorf("got %+v, %v", l, err)
	}
}

// TestLinkAddUp makes a link that is up, with a number of queues.
func TestLinkAddUp(t *testing.T) {
	c, _ := dial(t)
	v0 := addLink(t, c, rtnl.LinkSpec{Name: "v0", Kind: "veth", Queues: 3, Up: true, Peer: &rtnl.LinkSpec{Name: "v1", Queues: 2}})
	for name, want := range map[string]struct {
		queues uint32
		up     bool
	}{"v0": {3, true}, "v1": {2, false}} {
		i, err := c.IfNameToIndex(name)
		check(t, err)
		l, err := c.Link(i)
		if err != nil || l.Flags&net.FlagUp != 0 != want.up {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		info := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(info[4:], uint32(i))
		answer, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK}, Data: info})
		if err != nil || len(answer) == 0 {
			t.Fatal(answer, err)
		}
		ad, err := netlink.NewAttributeDecoder(answer[0].Data[unix.SizeofIfInfomsg:])
		check(t, err)
		for ad.Next() {
			if typ := ad.Type(); (typ == unix.IFLA_NUM_TX_QUEUES || typ == unix.IFLA_NUM_RX_QUEUES) && ad.Uint32() != want.queues {
				t.Errorf("%s: attribute %d is %d, want %d", name, typ, ad.Uint32(), want.queues)
			}
		}
	}
	check(t, c.LinkDel(v0))
	for _, l := range []rtnl.LinkSpec{
		{Kind: "veth", Peer: &rtnl.LinkSpec{Up: true}},
		{Kind: "veth", Queues: -1},
		{Kind: "veth", Peer: &rtnl.LinkSpec{Queues: 5000}},
	} {
		if _, err := c.LinkAdd(l); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v, want EINVAL", l, err)
		}
	}
}

// TestVethBetween joins two stacks with a veth pair and sends a packet.
func TestVethBetween(t *testing.T) {
	a, stackA := dial(t)
	b, stackB := dial(t)
	netnsB, err := stackB.NetNS()
	check(t, err)
	defer netnsB.Close()
	eth := addLink(t, a, rtnl.LinkSpec{Name: "eth", Kind: "veth", Peer: &rtnl.LinkSpec{Name: "eth", NetNS: netnsB}})
	peer, err := b.IfNameToIndex("eth")
	check(t, err)
	check(t, a.LinkSetUp(eth))
	check(t, b.LinkSetUp(peer))
	check(t, a.AddrAdd(eth, prefix("fd00::1/64"), rtnl.NoDAD))
	check(t, b.AddrAdd(peer, prefix("fd00::2/64"), rtnl.NoDAD))

	var ends [2]*os.File
	for i, st := range []*vdestack.Stack{stackA, stackB} {
		f, err := st.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		check(t, err)
		defer f.Close()
		// Usable at once, without duplicate address detection.
		sa := &unix.SockaddrInet6{Port: 7, Addr: addr(fmt.Sprintf("fd00::%d", i+1)).As16()}
		check(t, unix.Bind(int(f.Fd()), sa))
		ends[i] = f
	}
	check(t, unix.SetsockoptTimeval(int(ends[1].Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	check(t, unix.Sendto(int(ends[0].Fd()), []byte("hello"), 0, &unix.SockaddrInet6{Port: 7, Addr: addr("fd00::2").As16()}))
	buf := make([]byte, 16)
	n, _, err := unix.Recvfrom(int(ends[1].Fd()), buf, 0)
	if err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	l, err := b.Link(peer)
	if err != nil || l.Stats.RxPackets == 0 || l.Stats.RxBytes == 0 {
		t.Errorf("received packets are not counted: %+v, %v", l.Stats, err)
	}

	// The index of a link in another stack means nothing here.
	i, err := a.LinkAdd(rtnl.LinkSpec{Name: "far", Kind: "bridge", NetNS: netnsB})
	if i != 0 || err != nil {
		t.Errorf("got %d, %v, want 0", i, err)
	}
	_, err = b.IfNameToIndex("far")
	check(t, err)
}

func TestAddrs(t *testing.T) {
	c, _ := dial(t)
	v0, v1 := upPair(t, c)
	check(t, c.AddrAdd(v1, prefix("10.1.0.1/32"), rtnl.Peer(addr("10.2.0.1")), rtnl.ScopeLink))
	check(t, c.AddrAdd(v1, prefix("fd01::1/128"), rtnl.Peer(addr("fd02::1")), rtnl.NoDAD))
	check(t, c.AddrAdd(v1, prefix("10.3.0.1/24"), rtnl.Broadcast(addr("10.3.0.255")), rtnl.Label("v1:x"),
		rtnl.Lifetime{Valid: time.Hour, Preferred: 30 * time.Minute}, rtnl.NoPrefixRoute, rtnl.NoDAD))
	check(t, c.AddrAdd(v1, prefix("10.4.0.1/0"), rtnl.NoPrefixRoute))

	addrs, err := c.Addrs()
	check(t, err)
	byAddr := make(map[netip.Addr]rtnl.Addr)
	for _, a := range addrs {
		byAddr[a.Prefix.Addr()] = a
	}
	want := []rtnl.Addr{
		{IfIndex: 1, Name: "lo", Prefix: prefix("127.0.0.1/8"), Label: "lo", Scope: rtnl.ScopeHost, Flags: rtnl.Permanent},
		{IfIndex: 1, Name: "lo", Prefix: prefix("::1/128"), Scope: rtnl.ScopeHost, Flags: rtnl.Permanent},
		{IfIndex: v0, Name: "v0", Prefix: prefix("10.0.0.1/24"), Label: "v0", Flags: rtnl.Permanent},
		{IfIndex: v0, Name: "v0", Prefix: prefix("fd00::1/64"), Flags: rtnl.Permanent | rtnl.NoDAD},
		{IfIndex: v1, Name: "v1", Prefix: prefix("10.1.0.1/32"), Peer: addr("10.2.0.1"), Label: "v1", Scope: rtnl.ScopeLink, Flags: rtnl.Permanent},
		{IfIndex: v1, Name: "v1", Prefix: prefix("fd01::1/128"), Peer: addr("fd02::1"), Flags: rtnl.Permanent | rtnl.NoDAD},
		{IfIndex: v1, Name: "v1", Prefix: prefix("10.3.0.1/24"), Broadcast: addr("10.3.0.255"), Label: "v1:x", Flags: rtnl.NoPrefixRoute,
			Lifetime: rtnl.Lifetime{Valid: time.Hour, Preferred: 30 * time.Minute}},
		{IfIndex: v1, Name: "v1", Prefix: prefix("10.4.0.1/0"), Label: "v1", Flags: rtnl.Permanent | rtnl.NoPrefixRoute},
	}
	const margin = 20 * time.Second // lifetimes run during the test
	for _, w := range want {
		got, ok := byAddr[w.Prefix.Addr()]
		if w.Lifetime.Valid-got.Lifetime.Valid < margin && w.Lifetime.Preferred-got.Lifetime.Preferred < margin {
			got.Lifetime = w.Lifetime
		}
		if !ok || got != w {
			t.Errorf("%v:\ngot  %+v\nwant %+v", w.Prefix, got, w)
		}
	}
	// Everything listed can be removed, even what AddrDel cannot describe.
	if err := c.AddrDel(v1, prefix("10.1.0.1/32")); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("AddrDel of an address with a peer: %v, want EADDRNOTAVAIL", err)
	}
	for _, a := range addrs {
		check(t, c.AddrRemove(a))
	}
	addrs, err = c.Addrs()
	check(t, err)
	for _, a := range addrs {
		// The kernel adds link-local ones when a link is ready.
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			t.Errorf("left: %v", a)
		}
	}
}

// TestNoHardwareAddr lists a link without a hardware address.
func TestNoHardwareAddr(t *testing.T) {
	c, st := dial(t)
	if out, err := st.Command(t.Context(), "ip", "tuntap", "add", "tun0", "mode", "tun").CombinedOutput(); err != nil {
		testenv.Skip(t, "no TUN device: %v: %s (chmod 666 /dev/net/tun)", err, out)
	}
	tun, err := c.IfNameToIndex("tun0")
	check(t, err)
	check(t, c.AddrAdd(tun, prefix("10.9.0.1/24")))
	l, err := c.Link(tun)
	if err != nil || l.HardwareAddr != nil || l.Kind != "tun" || l.Flags&net.FlagPointToPoint == 0 {
		t.Errorf("got %+v, %v", l, err)
	}
	if _, err := c.LinkAddr(tun); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("LinkAddr: %v, want EADDRNOTAVAIL", err)
	}
	addrs, err := c.Addrs()
	if err != nil || !slices.ContainsFunc(addrs, func(a rtnl.Addr) bool {
		return a.Name == "tun0" && a.Prefix == prefix("10.9.0.1/24") && !a.Peer.IsValid()
	}) {
		t.Errorf("got %v, %v", addrs, err)
	}
}

func TestRoutes(t *testing.T) {
	c, _ := dial(t)
	v0, v1 := upPair(t, c)
	check(t, c.AddrAdd(v1, prefix("10.9.0.1/24")))
	none, noGW := netip.Prefix{}, netip.Addr{}
	add := func(dst netip.Prefix, gw netip.Addr, ifindex int, opts ...rtnl.RouteOption) {
		t.Helper()
		check(t, c.RouteAdd(dst, gw, ifindex, opts...))
	}
	add(none, addr("10.0.0.254"), 0)
	add(none, addr("10.9.0.254"), 0, rtnl.Metric(50), rtnl.ProtocolStatic, rtnl.Source(addr("10.9.0.1")))
	add(none, addr("fd00::fe"), 0)
	add(prefix("10.7.0.0/16"), noGW, v1, rtnl.ScopeLink)
	add(prefix("10.8.0.0/16"), noGW, 0, rtnl.Blackhole, rtnl.Table(1000))
	add(prefix("fd77::/64"), addr("fe80::1"), v0)
	add(prefix("fd78::/64"), noGW, 0, rtnl.Prohibit)

	routes, err := c.Routes()
	check(t, err)
	want := []rtnl.Route{
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("10.0.0.254"), OutIface: v0, Table: rtnl.TableMain, Protocol: rtnl.ProtocolBoot, Type: rtnl.Unicast},
		{Dst: prefix("0.0.0.0/0"), Gateway: addr("10.9.0.254"), OutIface: v1, Table: rtnl.TableMain, Protocol: rtnl.ProtocolStatic, Type: rtnl.Unicast,
			Metric: 50, Src: addr("10.9.0.1")},
		{Dst: prefix("::/0"), Gateway: addr("fd00::fe"), OutIface: v0, Table: rtnl.TableMain, Protocol: rtnl.ProtocolBoot, Type: rtnl.Unicast, Metric: 1024},
		{Dst: prefix("10.7.0.0/16"), OutIface: v1, Table: rtnl.TableMain, Protocol: rtnl.ProtocolBoot, Scope: rtnl.ScopeLink, Type: rtnl.Unicast},
		{Dst: prefix("10.8.0.0/16"), Table: 1000, Protocol: rtnl.ProtocolBoot, Type: rtnl.Blackhole},
		{Dst: prefix("fd77::/64"), Gateway: addr("fe80::1"), OutIface: v0, Table: rtnl.TableMain, Protocol: rtnl.ProtocolBoot, Type: rtnl.Unicast, Metric: 1024},
		{Dst: prefix("fd78::/64"), OutIface: 1, Table: rtnl.TableMain, Protocol: rtnl.ProtocolBoot, Type: rtnl.Prohibit, Metric: 1024},
		{Dst: prefix("10.0.0.0/24"), OutIface: v0, Table: rtnl.TableMain, Protocol: rtnl.ProtocolKernel, Scope: rtnl.ScopeLink, Type: rtnl.Unicast, Src: addr("10.0.0.1")},
		{Dst: prefix("10.0.0.1/32"), OutIface: v0, Table: rtnl.TableLocal, Protocol: rtnl.ProtocolKernel, Scope: rtnl.ScopeHost, Type: rtnl.Local, Src: addr("10.0.0.1")},
	}
	for _, w := range want {
		same := func(r rtnl.Route) bool { return fmt.Sprintf("%+v", r) == fmt.Sprintf("%+v", w) && r.Metric == w.Metric }
		if !slices.ContainsFunc(routes, same) {
			t.Errorf("missing %v, which is %#v\nin %v", w, w, routes)
		}
	}
	// Everything in the main table and the wide one can be removed.
	for _, r := range routes {
		if r.Table != rtnl.TableLocal {
			check(t, c.RouteRemove(r))
		}
	}
	routes, err = c.Routes()
	check(t, err)
	for _, r := range routes {
		if r.Table != rtnl.TableLocal && !r.Dst.Addr().IsLinkLocalUnicast() {
			t.Errorf("left: %v", r)
		}
	}
}

// TestMultiPath lists a route with two next hops, which only Execute can make.
func TestMultiPath(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	hop := func(gw string, weight byte) []byte {
		h := []byte{16, 0, 0, weight - 1, byte(v0), 0, 0, 0, 8, 0, 5, 0}
		return append(h, addr(gw).AsSlice()...)
	}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.RTA_DST, Data: addr("10.5.0.0").AsSlice()},
		{Type: unix.RTA_MULTIPATH, Data: append(hop("10.0.0.8", 1), hop("10.0.0.9", 3)...)},
	})
	check(t, err)
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWROUTE, Flags: netlink.Create},
		Data:   append([]byte{unix.AF_INET, 16, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, 0, unix.RTN_UNICAST, 0, 0, 0, 0}, attrs...),
	})
	check(t, err)
	if len(answer) != 1 || answer[0].Header.Type != netlink.Error {
		t.Errorf("answer %v, want one acknowledgment", answer)
	}
	routes, err := c.Routes()
	check(t, err)
	i := slices.IndexFunc(routes, func(r rtnl.Route) bool { return r.Dst == prefix("10.5.0.0/16") })
	if i < 0 {
		t.Fatalf("missing in %v", routes)
	}
	want := []rtnl.NextHop{{Gateway: addr("10.0.0.8"), OutIface: v0, Weight: 1}, {Gateway: addr("10.0.0.9"), OutIface: v0, Weight: 3}}
	if !slices.Equal(routes[i].MultiPath, want) {
		t.Errorf("got %v, want %v", routes[i].MultiPath, want)
	}
	check(t, c.RouteRemove(routes[i]))
}

func TestNeighbors(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	want := []rtnl.Neighbor{
		{IfIndex: v0, Addr: addr("10.0.0.2"), HardwareAddr: mac, State: rtnl.NeighborPermanent},
		{IfIndex: v0, Addr: addr("fd00::2"), HardwareAddr: mac, State: rtnl.NeighborStale, Flags: rtnl.NeighborRouter},
	}
	for _, n := range want {
		check(t, c.NeighborAdd(n))
	}
	for _, left := range []int{2, 1} {
		all, err := c.Neighbors()
		check(t, err)
		for _, n := range want[:left] {
			same := func(m rtnl.Neighbor) bool { return fmt.Sprintf("%#v", m) == fmt.Sprintf("%#v", n) }
			if !slices.ContainsFunc(all, same) {
				t.Errorf("missing %#v in %#v", n, all)
			}
		}
		check(t, c.NeighborDel(v0, want[left-1].Addr))
	}
}

// TestExecute sends a prepared query.
func TestExecute(t *testing.T) {
	c, _ := dial(t)
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
	if err != nil || len(answer) == 0 || answer[0].Header.Type != unix.RTM_NEWLINK {
		t.Errorf("got %v, %v", answer, err)
	}
	if _, err := c.Execute(netlink.Message{Header: netlink.Header{Type: 9999}}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("unknown type: %v, want EOPNOTSUPP", err)
	}
}

// TestManyGoroutines changes and lists addresses over one connection.
func TestManyGoroutines(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	const workers, addrs = 8, 20
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range addrs {
				p := prefix(fmt.Sprintf("10.%d.%d.1/24", w+100, i))
				if err := c.AddrAdd(v0, p); err != nil {
					t.Errorf("%v", err)
				}
				// The list must be complete while others change the table.
				all, err := c.Addrs()
				if err != nil || !slices.ContainsFunc(all, func(a rtnl.Addr) bool { return a.Prefix == p }) {
					t.Errorf("%v is not in the list of %d: %v", p, len(all), err)
				}
				if i, err := c.IfNameToIndex("v0"); i != v0 || err != nil {
					t.Errorf("v0: %d, %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	all, err := c.Addrs()
	n := 0
	for _, a := range all {
		if a.IfIndex == v0 && a.Prefix.Addr().Is4() {
			n++
		}
	}
	if want := workers*addrs + 1; err != nil || n != want {
		t.Errorf("got %d addresses, %v, want %d", n, err, want)
	}
}

// TestInterrupted lists a long table while another connection changes it. Each list must
// have all addresses that do not change.
func TestInterrupted(t *testing.T) {
	c, st := dial(t)
	v0, v1 := upPair(t, c)
	const fixed = 600
	for i := range fixed {
		check(t, c.AddrAdd(v0, prefix(fmt.Sprintf("10.20.%d.%d/32", i/250, i%250+1))))
	}
	other := dialTo(t, st)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			p := prefix("10.30.0.1/32")
			if err := other.AddrAdd(v1, p); err != nil {
				t.Errorf("%v", err)
			}
			if err := other.AddrDel(v1, p); err != nil {
				t.Errorf("%v", err)
			}
		}
	})
	for range 20 {
		all, err := c.Addrs()
		if errors.Is(err, unix.EAGAIN) {
			continue // the table changed too often
		}
		check(t, err)
		n := 0
		for _, a := range all {
			if a.Prefix.Bits() == 32 && a.IfIndex == v0 {
				n++
			}
		}
		if n != fixed {
			t.Errorf("got %d addresses, want %d", n, fixed)
		}
	}
	close(stop)
	wg.Wait()
}

// TestAddrReplace renews an address, which is there all the time.
func TestAddrReplace(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	for _, p := range []netip.Prefix{prefix("10.7.0.1/24"), prefix("fd07::1/64")} {
		lifetime := func() rtnl.Lifetime {
			t.Helper()
			all, err := c.Addrs()
			check(t, err)
			i := slices.IndexFunc(all, func(a rtnl.Addr) bool { return a.Prefix == p })
			if i < 0 {
				t.Fatalf("%v is missing in %v", p, all)
			}
			return all[i].Lifetime
		}
		const soon, later = 100 * time.Second, 1000 * time.Second
		check(t, c.AddrReplace(v0, p, rtnl.NoDAD, rtnl.Lifetime{Valid: soon, Preferred: soon}))
		if l := lifetime(); l.Valid > soon || l.Valid < soon/2 {
			t.Errorf("%v: %+v, want %v", p, l, soon)
		}
		events := c.Watch(t.Context())
		check(t, c.AddrReplace(v0, p, rtnl.NoDAD, rtnl.Lifetime{Valid: 2 * later, Preferred: later}))
		if l := lifetime(); l.Preferred > later || l.Preferred < later/2 || l.Valid < l.Preferred {
			t.Errorf("%v: %+v, want twice %v", p, l, later)
		}
		check(t, c.AddrReplace(v0, p, rtnl.NoDAD))
		if l := lifetime(); l != (rtnl.Lifetime{}) {
			t.Errorf("%v: %+v, want no end", p, l)
		}
		check(t, c.AddrDel(v0, p))
		for e, err := range events {
			check(t, err)
			if e.Addr != nil && e.Addr.Prefix == p && e.Deleted {
				break
			}
			if e.Deleted {
				t.Errorf("the kernel has removed %+v", e)
			}
		}
	}
}

// TestRouteAppend adds routes beside others, and has them expire later.
func TestRouteAppend(t *testing.T) {
	c, _ := dial(t)
	v0, _ := upPair(t, c)
	list := func(dst netip.Prefix) (found []rtnl.Route) {
		t.Helper()
		all, err := c.Routes()
		check(t, err)
		for _, r := range all {
			if r.Dst == dst {
				found = append(found, r)
			}
		}
		return found
	}
	for _, dst := range []netip.Prefix{prefix("10.7.0.0/24"), prefix("fd07::/64")} {
		first, second := addr("10.0.0.8"), addr("10.0.0.9")
		options := []rtnl.RouteOption{rtnl.Metric(2048), rtnl.ProtocolDHCP}
		if dst.Addr().Is6() {
			first, second = addr("fe80::8"), addr("fe80::9")
			options = append(options, rtnl.Expires(1000*time.Second))
		}
		check(t, c.RouteAdd(dst, first, v0, options...))
		if err := c.RouteAdd(dst, second, v0, options...); !errors.Is(err, unix.EEXIST) {
			t.Errorf("%v: adding another: %v, want EEXIST", dst, err)
		}
		check(t, c.RouteAppend(dst, second, v0, options...))
		if err := c.RouteAppend(dst, second, v0, options...); !errors.Is(err, unix.EEXIST) {
			t.Errorf("%v: appending it again: %v, want EEXIST", dst, err)
		}
		got := list(dst) // IPv4 lists two routes, IPv6 one with two next hops
		if len(got) == 1 && len(got[0].MultiPath) != 2 || len(got) != 1 && (len(got) != 2 || got[0].Gateway != first || got[1].Gateway != second) {
			t.Errorf("%v: got %+v", dst, got)
		}
		check(t, c.RouteDel(dst, first, v0, options...))
		left := list(dst)
		if len(left) != 1 || left[0].Gateway != second || left[0].Metric != 2048 {
			t.Errorf("%v: left %+v", dst, left)
		}
		if dst.Addr().Is6() {
			if e := left[0].Expires; e > rtnl.Expires(1000*time.Second) || e < rtnl.Expires(500*time.Second) {
				t.Errorf("%v expires in %v", dst, e)
			}
			options[len(options)-1] = rtnl.Expires(5000 * time.Second)
			if err := c.RouteAppend(dst, second, v0, options...); !errors.Is(err, unix.EEXIST) {
				t.Errorf("%v: appending it again: %v, want EEXIST", dst, err)
			}
			if e := list(dst)[0].Expires; e < rtnl.Expires(2500*time.Second) {
				t.Errorf("%v expires in %v still", dst, e)
			}
		}
		check(t, c.RouteRemove(list(dst)[0]))
	}
	for _, r := range []struct {
		dst     netip.Prefix
		expires rtnl.Expires
	}{{prefix("10.7.0.0/24"), rtnl.Expires(time.Hour)}, {prefix("fd07::/64"), 1}, {prefix("fd07::/64"), -1}} {
		if err := c.RouteAdd(r.dst, netip.Addr{}, v0, r.expires); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v that expires in %v: %v, want EINVAL", r.dst, r.expires, err)
		}
	}
}
