package autoconf

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf/internal/rd"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestDnsmasq gets, renews and gives back a lease of dnsmasq, and uses it.
func TestDnsmasq(t *testing.T) {
	testenv.Long(t)
	server := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24")})
	log, _ := startDnsmasq(t, server, t.TempDir(), "--dhcp-range=10.0.0.50,10.0.0.50,255.255.255.0,1h", "--dhcp-option=option:mtu,1400",
		"--domain=lab.example", "--host-record=www.lab.example,10.0.0.1")
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	c, err := Start(testenv.Context(t), h.st, testenv.Must(Parse("auto4,release,fqdn=host.lab.example"))(t))
	testenv.Check(t, err)
	l := c.Leases()
	if len(l) != 1 || l[0].Source != DHCP4 || len(l[0].Addrs) != 1 || l[0].Addrs[0].Prefix != prefix("10.0.0.50/24") || l[0].Server != addr("10.0.0.1") {
		t.Errorf("known: %+v", l)
	}
	h.wantLifetime("10.0.0.50/24", time.Hour, time.Hour)
	if got := h.state(); !strings.Contains(got, "default via 10.0.0.1 ") || !strings.Contains(got, "mtu 1400\n") {
		t.Errorf("got\n%s", got)
	}
	if addrs, err := h.st.LookupNetIP(t.Context(), "ip4", "www"); err != nil || !slices.Equal(addrs, testenv.Addrs("10.0.0.1")) {
		t.Errorf("www is %v, %v", addrs, err)
	}
	if addrs, err := server.st.LookupNetIP(t.Context(), "ip4", "www"); err == nil {
		t.Errorf("without a client, www is %v", addrs)
	}
	testenv.Check(t, c.Renew(testenv.Context(t)))
	testenv.Check(t, h.st.Close())
	testenv.Eventually(t, "the lease to be given back", func() bool { return strings.Contains(log.String(), "DHCPRELEASE(vde0) 10.0.0.50") })
}

// TestDnsmasqReboot asks for the address of before: after the end of the stack, whose lease
// is stored, and after the interface was down.
func TestDnsmasqReboot(t *testing.T) {
	testenv.Long(t)
	server := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.1/24")})
	log, _ := startDnsmasq(t, server, t.TempDir(), "--dhcp-range=10.0.0.50,10.0.0.99,255.255.255.0,1h")
	cfg := Config{DHCP4: true, Store: DirStore(t.TempDir())}
	var addrs []Addr
	for i := range 2 {
		h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}})
		c, err := Start(testenv.Context(t), h.st, cfg)
		testenv.Check(t, err)
		got := c.Leases()[0].Addrs
		if addrs != nil && got[0].Prefix != addrs[0].Prefix {
			t.Errorf("the address is %v, was %v", got, addrs)
		}
		addrs = got
		if i == 0 {
			testenv.Check(t, h.st.Close())
			continue
		}
		events := c.Watch(testenv.Context(t))
		testenv.Check(t, h.LinkSetDown(h.index))
		testenv.Check(t, h.LinkSetUp(h.index))
		for e, err := range events {
			testenv.Check(t, err)
			if e.Err != nil || len(e.Lease.Addrs) != 1 || e.Lease.Addrs[0].Prefix != addrs[0].Prefix {
				t.Errorf("after it was down: %+v", e)
			}
			break
		}
		if got := h.state(); !strings.Contains(got, addrs[0].Prefix.String()) || !strings.Contains(got, "default via 10.0.0.1 ") {
			t.Errorf("got\n%s", got)
		}
		testenv.Check(t, h.st.Close())
	}
	if n := strings.Count(log.String(), "DHCPDISCOVER("); n != 1 {
		t.Errorf("the server was looked for %d times, want once", n)
	}
}

// TestDnsmasq6 gets, confirms, renews and gives back a lease of dnsmasq by DHCPv6, and uses
// it.
func TestDnsmasq6(t *testing.T) {
	testenv.Long(t)
	server := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("fd00::1/64")})
	log, _ := startDnsmasq(t, server, t.TempDir(), "--dhcp-range=fd00::50,fd00::50,64,1h", "--dhcp-rapid-commit",
		"--dhcp-option=option6:domain-search,lab.example", "--dhcp-option=option6:ntp-server,[fd00::1]",
		"--dhcp-option=option6:103,https://portal.example/", "--domain=lab.example", "--host-record=www.lab.example,fd00::1")
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	c, err := Start(testenv.Context(t), h.st, testenv.Must(Parse("dhcp6,release,fqdn=host.lab.example"))(t))
	testenv.Check(t, err)
	l := c.Leases()
	if len(l) != 1 || l[0].Source != DHCP6 || len(l[0].Addrs) != 1 || l[0].Addrs[0].Prefix != prefix("fd00::50/128") ||
		!l[0].Server.IsLinkLocalUnicast() || !slices.Equal(l[0].NTP, testenv.Addrs("fd00::1")) || l[0].CaptivePortal != "https://portal.example/" {
		t.Errorf("known: %+v", l)
	}
	h.wantLifetime("fd00::50/128", time.Hour, time.Hour)
	testenv.Check(t, h.RouteAdd(prefix("fd00::/64"), netip.Addr{}, h.index)) // which a router would say
	for _, st := range []*vdestack.Stack{h.st, server.st} {
		if addrs, err := st.LookupNetIP(t.Context(), "ip6", "www"); (err == nil) != (st == h.st) || err == nil && !slices.Equal(addrs, testenv.Addrs("fd00::1")) {
			t.Errorf("www is %v, %v", addrs, err)
		}
	}
	events := c.Watch(testenv.Context(t))
	testenv.Check(t, h.LinkSetDown(h.index))
	testenv.Check(t, h.LinkSetUp(h.index))
	for e, err := range events {
		testenv.Check(t, err)
		if e.Err != nil || len(e.Lease.Addrs) != 1 {
			t.Errorf("after it was down: %+v", e)
		}
		break
	}
	testenv.Check(t, c.Renew(testenv.Context(t)))
	testenv.Eventually(t, "an address from which it can be given back", func() bool {
		return slices.ContainsFunc(testenv.Must(h.Addrs())(t), func(a rtnl.Addr) bool {
			return a.IfIndex == h.index && a.Prefix.Addr().IsLinkLocalUnicast() && a.Flags&rtnl.Tentative == 0
		})
	})
	testenv.Check(t, h.st.Close())
	testenv.Eventually(t, "the lease to be given back", func() bool { return strings.Contains(log.String(), "DHCPRELEASE(vde0)") })
	for _, m := range []string{"DHCPSOLICIT(vde0)", "DHCPCONFIRM(vde0)", "DHCPRENEW(vde0)", "client provides name: host.lab.example"} {
		if !strings.Contains(log.String(), m) {
			t.Errorf("dnsmasq does not log %q", m)
		}
	}
}

// TestDnsmasqStateless has a server with information, but without addresses.
func TestDnsmasqStateless(t *testing.T) {
	testenv.Long(t)
	server := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("fd00::1/64")})
	startDnsmasq(t, server, t.TempDir(), "--dhcp-range=fd00::,static,64,1h", "--dhcp-option=option6:domain-search,lab.example")
	h := newHost(t, vdestack.Interface{VNL: "mem://" + t.Name()})
	c, err := Start(testenv.Context(t), h.st, Config{DHCP6: true})
	testenv.Check(t, err)
	if l := c.Leases(); len(l) != 1 || len(l[0].Addrs) != 0 || len(l[0].Search) != 1 || len(l[0].DNS) != 1 || l[0].DNS[0].Addr != addr("fd00::1") {
		t.Errorf("known: %+v", l)
	}
}

// TestDnsmasqRouter follows a router, with an address of each kind, and one that is in use.
func TestDnsmasqRouter(t *testing.T) {
	testenv.Long(t)
	hash := netip.PrefixFrom(Hash{Name: "host.lab.example"}.Addr(addr("fd00::")), 64)
	for _, tt := range []struct {
		name, kind, text string
		inUse            []netip.Prefix // the address of another host
		addr             netip.Prefix   // of this one, if it is known
		n                int            // how many there are
	}{
		{name: "stable and temporary", kind: "mem://", text: "rd,slaac=stable,temporary", n: 2},
		{name: "hash", kind: kinds[1], text: "rd,slaac,fqdn=host.lab.example", addr: hash, n: 1},
		{name: "conflict", kind: "mem://", text: "rd,slaac,fqdn=host.lab.example", inUse: []netip.Prefix{hash}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			router := newHost(t, vdestack.Interface{VNL: vnl(t, tt.kind), Addrs: append(testenv.Prefixes("fd00::1/64"), tt.inUse...)})
			startDnsmasq(t, router, t.TempDir(), "--enable-ra", "--dhcp-range=fd00::,slaac,64,1h", "--ra-param=vde0,mtu:1400,high,60,1800",
				"--dhcp-option=option6:domain-search,lab.example", "--dhcp-option=option6:dns-server,[fd00::1]",
				"--host-record=www.lab.example,fd00::1")
			h := newHost(t, vdestack.Interface{VNL: vnl(t, tt.kind)})
			if tt.inUse != nil {
				testenv.Check(t, h.st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "1"))
			}
			c, err := Start(testenv.Context(t), h.st, testenv.Must(Parse(tt.text))(t))
			if tt.n == 0 {
				if err == nil || !strings.Contains(err.Error(), "rd: in use by another host: "+hash.Addr().String()) {
					t.Errorf("got %v, want that the address is in use", err)
				}
				return
			}
			testenv.Check(t, err)
			gw := rd.EUI64(addr("fe80::"), testenv.Must(router.LinkAddr(router.index))(t))
			l := c.Leases()
			if len(l) != 1 || l[0].Source != RD || len(l[0].Addrs) != 1 || len(l[0].Routes) != 2 || l[0].Server != gw {
				t.Fatalf("known: %+v", l)
			}
			got := l[0].Addrs[0].Prefix
			if tt.addr.IsValid() && got != tt.addr || !prefix("fd00::/64").Contains(got.Addr()) {
				t.Errorf("the address is %v, want %v", got, tt.addr)
			}
			h.wantLifetime(got.String(), time.Hour, time.Hour)
			testenv.Eventually(t, "the addresses", func() bool { return strings.Count(h.state(), " flags ") == tt.n }, h.state)
			state := h.state()
			for _, want := range []string{"default via " + gw.String() + " on interface", "metric 2048 protocol 9", "mtu 1400", "accept_ra 0", "fd00::/64 "} {
				if !strings.Contains(state, want) {
					t.Errorf("no %q in\n%s", want, state)
				}
			}
			if addrs, err := h.st.LookupNetIP(t.Context(), "ip6", "www"); err != nil || !slices.Equal(addrs, testenv.Addrs("fd00::1")) {
				t.Errorf("www is %v, %v", addrs, err)
			}
			testenv.Check(t, c.Renew(testenv.Context(t)))
			testenv.Check(t, c.Close())
			if state := h.state(); strings.Contains(state, "fd00::") || strings.Contains(state, "default") {
				t.Errorf("after Close, there is\n%s", state)
			}
		})
	}
}
