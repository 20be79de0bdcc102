package rtnl_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdestacktest"
	"golang.org/x/sys/unix"
)

// A host is a stack in which ip(8) runs.
type host struct {
	t  *testing.T
	st *vdestack.Stack
	*rtnl.Conn
}

// newHost makes a stack with vde0, which has 10.0.0.1/24 and fd00::1/64.
func newHost(t *testing.T) host {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		testenv.Skip(t, "%v (apt-get install iproute2)", err)
	}
	st := vdestacktest.Open(t, "null://", "10.0.0.1/24", "fd00::1/64")
	return host{t, st, dialTo(t, st)}
}

// ip runs commands, some of which may fail, and returns the output. Those that begin
// with -6 run first.
func (h host) ip(commands ...string) string {
	h.t.Helper()
	lines := map[string]*strings.Builder{"-4": {}, "-6": {}}
	for _, c := range commands {
		fam := "-4"
		if rest, ok := strings.CutPrefix(strings.TrimSpace(c), "-6 "); ok {
			fam, c = "-6", rest
		}
		fmt.Fprintln(lines[fam], c)
	}
	var all []byte
	for _, fam := range []string{"-6", "-4"} {
		args := []string{"-force", "-batch", "-"}
		if fam == "-6" {
			args = append([]string{fam}, args...) // -4 would not take "via inet6"
		}
		cmd := h.st.Command(h.t.Context(), "ip", args...)
		cmd.Stdin = strings.NewReader(lines[fam].String())
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			h.t.Fatal(err)
		}
		all = append(all, out...)
	}
	return string(all)
}

// dump returns a table as the kernel sends it, without the volatile attribute.
func (h host) dump(typ netlink.HeaderType, body []byte, volatile uint16) []string {
	h.t.Helper()
	answer, err := h.Execute(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Dump}, Data: body})
	check(h.t, err)
	var all []string
	for _, m := range answer {
		fixed := m.Data[:len(body)]
		attrs, err := netlink.UnmarshalAttributes(m.Data[len(body):])
		check(h.t, err)
		attrs = slices.DeleteFunc(attrs, func(a netlink.Attribute) bool { return a.Type == volatile })
		b, err := netlink.MarshalAttributes(attrs)
		check(h.t, err)
		all = append(all, string(fixed)+string(b))
	}
	return all
}

// given are the destinations and addresses that the kernel gives an interface at any
// time.
var given = []netip.Prefix{prefix("fe80::/10"), prefix("ff00::/8")}

func isGiven(a netip.Addr) bool {
	return slices.ContainsFunc(given, func(p netip.Prefix) bool { return p.Contains(a) })
}

// hasAddr reports whether a message has an attribute, after size bytes, with an address
// for which f returns true.
func hasAddr(m string, size int, typ uint16, f func(netip.Addr) bool) bool {
	attrs, err := netlink.UnmarshalAttributes([]byte(m[size:]))
	return err == nil && slices.ContainsFunc(attrs, func(a netlink.Attribute) bool {
		addr, ok := netip.AddrFromSlice(a.Data)
		return a.Type == typ && ok && f(addr)
	})
}

// listOnly lists the entries for which keep returns true.
func listOnly[T any](list func() ([]T, error), keep func(T) bool) func() ([]T, error) {
	return func() ([]T, error) {
		all, err := list()
		return slices.DeleteFunc(all, func(v T) bool { return !keep(v) }), err
	}
}

// removeAll lists and removes until nothing is left. After each removal that entry must
// be gone from the kernel's table, and no other. After EBUSY nothing may have changed,
// and it must be possible to remove the entry later. New entries may appear: the kernel
// does not list an IPv6 route that stands between two next hops of another.
func removeAll[T any](h host, rng *rand.Rand, dump func() []string, list func() ([]T, error), remove func(T) error) {
	h.t.Helper()
	for {
		before := dump()
		listed, err := list()
		check(h.t, err)
		if len(listed) != len(before) {
			h.t.Fatalf("%d are listed, the kernel has %d", len(listed), len(before))
		}
		if len(listed) == 0 {
			return
		}
		progress := false
		for _, i := range rng.Perm(len(listed)) {
			err := remove(listed[i])
			after := dump()
			gone := minus(before, after)
			switch {
			case errors.Is(err, unix.EBUSY):
				if len(gone) > 0 || len(after) != len(before) {
					h.t.Fatalf("%v, and yet something has changed", err)
				}
				continue
			case err != nil:
				h.t.Fatalf("%+v is listed: %v", listed[i], err)
			case !slices.Equal(gone, before[i:i+1]):
				h.t.Fatalf("removal of %+v\nof the kernel's message %x\nremoves %x", listed[i], before[i], gone)
			}
			progress = true
			break
		}
		if !progress {
			h.t.Fatalf("none of %d can be removed: %+v", len(listed), listed)
		}
	}
}

// minus returns what a has more often than b.
func minus(a, b []string) (more []string) {
	count := make(map[string]int)
	for _, s := range b {
		count[s]++
	}
	for _, s := range a {
		if count[s]--; count[s] < 0 {
			more = append(more, s)
		}
	}
	return more
}

func (h host) removeRoutes(rng *rand.Rand) {
	h.t.Helper()
	removeAll(h, rng, func() []string {
		all := h.dump(unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), unix.RTA_CACHEINFO)
		return slices.DeleteFunc(all, func(s string) bool {
			return s[0] != unix.AF_INET && s[0] != unix.AF_INET6 || hasAddr(s, unix.SizeofRtMsg, unix.RTA_DST, isGiven)
		})
	}, listOnly(h.Routes, func(r rtnl.Route) bool { return !isGiven(r.Dst.Addr()) }), h.RouteRemove)
}

// TestRouteRemove removes routes that differ in one attribute from another.
func TestRouteRemove(t *testing.T) {
	testenv.Long(t)
	tests := []struct {
		name, script string
		routes       []string
	}{
		{"TOS", "", []string{"10.1.0.0/24 via 10.0.0.9", "10.1.0.0/24 tos 0x10 via 10.0.0.9", "10.1.0.0/24 tos 0x20 via 10.0.0.9"}},
		{"source", "", []string{"fd01::/64 via fd00::9", "fd01::/64 from fd02::/64 via fd00::9", "fd01::/64 from fd02::/48 via fd00::9"}},
		{"next-hop objects", "nexthop add id 1 via 10.0.0.9 dev vde0; nexthop add id 2 via 10.0.0.8 dev vde0; nexthop add id 3 group 1/2; nexthop add id 4 blackhole",
			[]string{"10.1.0.0/24 nhid 1", "10.1.0.0/24 via 10.0.0.9", "10.1.0.0/24 nhid 3", "10.1.0.0/24 nhid 4", "blackhole 10.1.0.0/24", "blackhole 10.1.0.0/24 nhid 4"}},
		{"IPv6 next-hop objects", "-6 nexthop add id 1 via fd00::9 dev vde0; -6 nexthop add id 2 via fd00::8 dev vde0; nexthop add id 3 group 1/2; -6 nexthop add id 4 blackhole",
			[]string{"fd01::/64 nhid 1", "fd01::/64 via fd00::9 metric 7", "fd01::/64 nhid 3 metric 5", "fd01::/64 nhid 4 metric 9", "fd02::/64 nhid 4"}},
		{"type", "", []string{"blackhole 10.1.0.0/24", "prohibit 10.1.0.0/24", "throw 10.1.0.0/24", "unreachable 10.1.0.0/24",
			"multicast 10.1.0.0/24 dev vde0", "broadcast 10.1.0.0/24 dev vde0 table main", "local 10.1.0.0/24 dev vde0 table main", "anycast 10.1.0.0/24 dev vde0 table main"}},
		{"IPv6 type", "", []string{"fd01::/64 dev vde0", "blackhole fd01::/64 metric 1", "prohibit fd01::/64 metric 2", "throw fd01::/64 metric 3",
			"local fd01::/64 dev vde0", "anycast fd02::/64 dev vde0", "multicast fd02::/64 dev vde0", "nat fd03::/64 dev vde0"}},
		{"gateway", "", []string{"10.1.0.0/24 via 10.0.0.9 scope global", "10.1.0.0/24 dev vde0 scope global", "10.1.0.0/24 via inet6 fe80::9 dev vde0",
			"10.1.0.0/24 via 10.7.0.1 dev vde0 onlink", "10.1.0.0/24 via 10.0.0.8"}},
		{"several next hops", "", []string{"10.1.0.0/24 nexthop via 10.0.0.8 nexthop via 10.0.0.9", "10.1.0.0/24 via 10.0.0.8", "10.1.0.0/24 nexthop via 10.0.0.8 nexthop via 10.0.0.9 weight 5",
			"fd01::/64 nexthop via fd00::8 nexthop via fd00::9 weight 3", "fd01::/64 via fd00::8 metric 9"}},
		{"metrics", "", []string{"10.1.0.0/24 via 10.0.0.9 mtu 1400", "10.1.0.0/24 via 10.0.0.9", "10.1.0.0/24 via 10.0.0.9 mtu lock 1400",
			"10.1.0.0/24 via 10.0.0.9 advmss 1000", "10.1.0.0/24 via 10.0.0.9 congctl reno", "10.1.0.0/24 via 10.0.0.9 quickack 1 hoplimit 5 initcwnd 20 initrwnd 9 features ecn"}},
		{"IPv6 metrics", "", []string{"fd01::/64 via fd00::9 mtu 1400 metric 5", "fd01::/64 via fd00::9 pref high", "fd02::/64 via fd00::9 pref low expires 1000"}},
		{"encapsulation", "", []string{"10.1.0.0/24 encap ip id 5 dst 10.0.0.7 via 10.0.0.9 dev vde0", "10.1.0.0/24 encap ip id 6 dst 10.0.0.7 via 10.0.0.9 dev vde0", "10.1.0.0/24 via 10.0.0.9 dev vde0",
			"fd01::/64 encap seg6 mode encap segs fd00::77 dev vde0", "fd01::/64 via fd00::9", "fd01::/64 encap seg6 mode encap segs fd00::78 via fd00::9"}},
		{"realm", "", []string{"10.1.0.0/24 via 10.0.0.9 realms 5", "10.1.0.0/24 via 10.0.0.9", "10.1.0.0/24 via 10.0.0.9 realms 3/5"}},
		{"preferred source", "addr add 10.0.0.2/24 dev vde0", []string{"10.1.0.0/24 via 10.0.0.9 src 10.0.0.2", "10.1.0.0/24 via 10.0.0.9", "10.1.0.0/24 via 10.0.0.9 src 10.0.0.1"}},
		{"protocol", "", []string{"10.1.0.0/24 via 10.0.0.9 proto static", "10.1.0.0/24 via 10.0.0.9 proto 99", "10.1.0.0/24 via 10.0.0.9 proto 0", "fd01::/64 via fd00::9 proto 99"}},
		{"table", "", []string{"10.1.0.0/24 via 10.0.0.9 table 7", "10.1.0.0/24 via 10.0.0.9 table 70000", "10.1.0.0/24 via 10.0.0.9", "fd01::/64 via fd00::9 table 70000"}},
		{"metric", "", []string{"10.1.0.0/24 via 10.0.0.9 metric 5", "10.1.0.0/24 via 10.0.0.9 metric 9", "10.1.0.0/24 via 10.0.0.9", "default via fd00::9 metric 1", "default via fd00::9"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// In both orders of adding, the other routes must stay.
			for _, order := range []func([]string){func([]string) {}, slices.Reverse[[]string]} {
				h := newHost(t)
				if out := h.ip(strings.Split(tt.script, ";")...); out != "" {
					testenv.Skip(t, "the kernel refuses %q: %s", tt.script, out)
				}
				order(tt.routes)
				for _, r := range tt.routes {
					if out := h.ip("route append " + r); out != "" {
						t.Logf("without %q, which the kernel refuses: %s", r, out)
					}
				}
				h.removeRoutes(rand.New(rand.NewPCG(1, 2)))
			}
		})
	}
}

// TestRouteRemoveRandom removes random routes that ip(8) has made.
func TestRouteRemoveRandom(t *testing.T) {
	testenv.Long(t)
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		h := newHost(t)
		if out := h.ip("addr add 10.0.0.2/24 dev vde0", "link set lo up",
			"nexthop add id 1 via 10.0.0.9 dev vde0", "nexthop add id 2 via 10.0.0.8 dev vde0", "nexthop add id 3 group 1/2", "nexthop add id 4 blackhole",
			"-6 nexthop add id 11 via fd00::9 dev vde0", "-6 nexthop add id 12 via fd00::8 dev vde0", "nexthop add id 13 group 11/12", "-6 nexthop add id 14 blackhole"); out != "" {
			t.Logf("no next-hop objects: %s", out)
		}
		var commands []string
		for range 120 {
			commands = append(commands, randomRoute(rng))
		}
		h.ip(commands...)
		routes, err := h.Routes()
		check(t, err)
		t.Logf("seed %d: %d routes after %d commands", seed, len(routes), len(commands))
		h.removeRoutes(rng)
	}
}

// randomRoute returns a command of ip(8), which the kernel may reject. Attributes have
// few values each, so that routes are similar.
func randomRoute(rng *rand.Rand) string {
	one := func(words ...string) string { return words[rng.IntN(len(words))] }
	seldom := func(words ...string) string {
		if rng.IntN(4) > 0 {
			return ""
		}
		return one(words...)
	}
	v4 := rng.IntN(2) == 0
	var hops []string // ip takes them last
	command := []string{"route", one("add", "append", "append", "prepend")}
	if !v4 {
		command = append([]string{"-6"}, command...)
	}
	add := func(words ...string) { command = append(command, words...) }
	add(seldom("unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw"))
	if v4 {
		add(one("default", "10.1.0.0/24", "10.1.0.0/16"), seldom("tos 0x10", "tos 0x20"))
		add(seldom("encap ip id 5 dst 10.0.0.7", "encap mpls 100", "encap ip id 6 dst 10.0.0.7"))
		switch rng.IntN(8) {
		case 0:
			add(one("nhid 1", "nhid 2", "nhid 3", "nhid 4"))
		case 1:
			hops = []string{"nexthop via", one("10.0.0.8", "10.0.0.9", "10.0.0.8 realms 4", "inet6 fe80::9 dev vde0"), "nexthop via 10.0.0.9", seldom("weight 7", "dev vde0 onlink")}
		case 2:
			add("dev", one("vde0", "lo"))
		case 3:
			add("via inet6", one("fe80::8", "fe80::9"), "dev vde0")
		case 4: // nothing
		default:
			add("via", one("10.0.0.8", "10.0.0.9"), seldom("dev vde0", "dev vde0 onlink"))
		}
		add(seldom("src 10.0.0.1", "src 10.0.0.2"), seldom("scope link", "scope host", "scope global", "scope site"), seldom("realms 5", "realms 3/5"))
	} else {
		add(one("default", "fd01::/64", "fd01::/48", "fd01::1"), seldom("from fd02::/64", "from fd02::/48", "from fd02::1"))
		add(seldom("encap seg6 mode encap segs fd00::77", "encap mpls 100", "encap ip6 id 5 dst fd00::7"))
		switch rng.IntN(8) {
		case 0:
			add(one("nhid 11", "nhid 12", "nhid 13", "nhid 14"))
		case 1:
			hops = []string{"nexthop via", one("fd00::8", "fd00::9"), "nexthop via fd00::7", seldom("weight 7")}
		case 2:
			add("dev", one("vde0", "lo"))
		case 3: // nothing
		default:
			add("via", one("fd00::8", "fd00::9", "fe80::9 dev vde0"), seldom("dev vde0"), seldom("onlink dev vde0"))
		}
		add(seldom("src fd00::1"), seldom("pref high", "pref low"), seldom("expires 10000"))
	}
	add(seldom("table 7", "table 70000", "table main", "table local"), seldom("metric 1", "metric 1024", "metric 9"), seldom("proto static", "proto 0", "proto kernel", "proto ra"))
	add(seldom("mtu 1400", "mtu lock 1400", "mtu 1300"), seldom("advmss 1000", "hoplimit 9", "initcwnd 20", "rtt 100ms", "features ecn"), seldom("congctl reno", "congctl cubic"))
	add(hops...)
	return strings.Join(slices.DeleteFunc(command, func(s string) bool { return s == "" }), " ")
}

// TestAddrRemove removes similar addresses.
func TestAddrRemove(t *testing.T) {
	testenv.Long(t)
	commands := []string{
		"10.0.0.2/24", "10.0.0.3/24 label vde0:x", "10.0.0.4/24 valid_lft 1000 preferred_lft 900", "10.0.0.1/16", "10.0.0.1/32", "10.0.0.9/16",
		"10.1.0.1 peer 10.2.0.1", "10.1.0.1 peer 10.2.0.2", "10.1.0.1 peer 10.2.0.1/24", "10.1.0.2 peer 10.2.0.7/24", "10.1.0.1 peer 0.0.0.0", "10.1.0.1/32",
		"fd00::2/64", "fd01::1 peer fd02::1", "fd01::2 peer fd02::1/64", "fd03::1/64 mngtmpaddr", "fd03::2/128 scope link", "fd03::3/64 noprefixroute nodad",
	}
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		h := newHost(t)
		for _, i := range rng.Perm(len(commands)) {
			if out := h.ip("addr add " + commands[i] + " dev vde0"); out != "" {
				t.Logf("without %q: %s", commands[i], out)
			}
		}
		const promote = "/proc/sys/net/ipv4/conf/vde0/promote_secondaries"
		setting := func() string {
			out, err := h.st.Command(t.Context(), "cat", promote).Output()
			check(t, err)
			return string(out)
		}
		before := setting()
		removeAll(h, rng, func() []string {
			all := h.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), unix.IFA_CACHEINFO)
			all = slices.DeleteFunc(all, func(s string) bool { return hasAddr(s, unix.SizeofIfAddrmsg, unix.IFA_ADDRESS, isGiven) })
			for i, a := range all {
				// Promotion and duplicate address detection change the flags.
				b := []byte(a)
				b[2] = 0
				if j := bytes.Index(b, []byte{8, 0, unix.IFA_FLAGS, 0}); j > 0 {
					clear(b[j : j+8])
				}
				all[i] = string(b)
			}
			return all
		}, listOnly(h.Addrs, func(a rtnl.Addr) bool { return !isGiven(a.Prefix.Addr()) }), h.AddrRemove)
		if after := setting(); after != before {
			t.Errorf("%s is %q now, was %q", promote, after, before)
		}
	}
}

// TestNeighborRemove removes neighbours and proxies for the same addresses.
func TestNeighborRemove(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 0))
		h := newHost(t)
		vde0, err := h.IfNameToIndex("vde0")
		check(t, err)
		addrs := []netip.Addr{addr("10.0.0.7"), addr("10.0.0.8"), addr("fd00::7"), addr("fd00::8")}
		added := func(a netip.Addr) bool { return slices.Contains(addrs, a) } // the kernel has others
		for _, a := range addrs {
			for _, n := range []rtnl.Neighbor{
				{IfIndex: vde0, Flags: rtnl.NeighborProxy},
				{IfIndex: vde0, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, Flags: rtnl.NeighborExtLearned, State: rtnl.NeighborReachable},
				{IfIndex: 1, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, State: rtnl.NeighborNoARP},
			} {
				n.Addr = a
				check(t, h.NeighborAdd(n))
			}
		}
		// Only ARP has proxies for all interfaces. The kernel keeps them after the stack.
		for _, a := range addrs[:2] {
			proxy := rtnl.Neighbor{Addr: a, Flags: rtnl.NeighborProxy}
			if err := h.NeighborAdd(proxy); !errors.Is(err, unix.EINVAL) {
				t.Errorf("a proxy for every interface: %v, want EINVAL", err)
			}
			dst, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NDA_DST, Data: a.AsSlice()}})
			check(t, err)
			body := make([]byte, unix.SizeofNdMsg)
			body[0], body[10] = unix.AF_INET, unix.NTF_PROXY
			_, err = h.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.RTM_NEWNEIGH, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
				Data:   append(body, dst...),
			})
			check(t, err)
			defer h.NeighborRemove(proxy)
		}
		removeAll(h, rng, func() []string {
			proxies := make([]byte, unix.SizeofNdMsg)
			proxies[10] = unix.NTF_PROXY
			all := h.dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), unix.NDA_CACHEINFO)
			all = append(all, h.dump(unix.RTM_GETNEIGH, proxies, unix.NDA_CACHEINFO)...)
			all = slices.DeleteFunc(all, func(s string) bool { return !hasAddr(s, unix.SizeofNdMsg, unix.NDA_DST, added) })
			for i, n := range all {
				all[i] = n[:8] + n[10:] // without the state, which ages
			}
			return all
		}, listOnly(h.Neighbors, func(n rtnl.Neighbor) bool { return added(n.Addr) }), h.NeighborRemove)
	}
}

// TestLinkDelName removes a link by its name.
func TestLinkDelName(t *testing.T) {
	c, _ := dial(t)
	addLink(t, c, rtnl.LinkSpec{Name: "br0", Kind: "bridge"})
	addLink(t, c, rtnl.LinkSpec{Name: "br1", Kind: "bridge"})
	check(t, c.LinkDelName("br0"))
	links, err := c.Links()
	check(t, err)
	if len(links) != 2 || links[1].Name != "br1" {
		t.Errorf("left: %+v", links)
	}
	for _, name := range []string{"br0", "none"} {
		if err := c.LinkDelName(name); !errors.Is(err, unix.ENODEV) {
			t.Errorf("%q: %v, want ENODEV", name, err)
		}
	}
	if err := c.LinkDelName(""); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no name: %v, want EINVAL", err)
	}
}
