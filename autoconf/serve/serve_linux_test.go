package serve

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf"
	"github.com/vdestack/vdestack/internal/dns"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdestacktest"
	"golang.org/x/net/dns/dnsmessage"
)

// TestClients gives leases to clients of several kinds of networks.
func TestClients(t *testing.T) {
	busybox := testenv.Need(t, "busybox", "busybox")
	for _, vnl := range []string{"mem://" + t.Name(), "vxvde://239.0.0.1/port=14881"} {
		t.Run(vnl, func(t *testing.T) {
			t.Parallel() // they wait for the detection of duplicates
			st := vdestacktest.Open(t, vnl, "10.0.0.1/24", "fd00::1/64")
			s, err := Start(st, Config{
				Domain: "lab.example", MTU: 1400,
				DHCP4: DHCP4{
					Routes:       []Route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.0.0.9")}},
					Reservations: []Reservation{{Name: "host", Addr: netip.MustParseAddr("10.0.0.20")}, {Name: "box", Addr: netip.MustParseAddr("10.0.0.30")}},
				},
			})
			testenv.Check(t, err)
			defer s.Close()

			guest := vdestacktest.Open(t, vnl)
			script := filepath.Join(t.TempDir(), "script")
			testenv.Check(t, os.WriteFile(script, []byte("#!/bin/sh\necho $1 $ip/$mask $router $dns $domain $mtu $staticroutes $lease $hostname.\n"), 0o755))
			udhcpc := guest.Command(testenv.Context(t), busybox, "udhcpc", "-i", "vde0", "-f", "-n", "-q", "-s", script,
				"-x", "hostname:box", "-O", "mtu", "-O", "staticroutes", "-O", "hostname")
			var out testenv.Buffer
			udhcpc.Stdout, udhcpc.Stderr = &out, &out
			testenv.Check(t, udhcpc.Start())

			client := vdestacktest.Open(t, vnl)
			cfg := testenv.Must(autoconf.Parse("eth,dhcp,dhcp6,release,fqdn=host.lab.example"))(t)
			c, err := autoconf.Start(testenv.Context(t), client, cfg)
			testenv.Check(t, err)
			l := c.Leases()
			slices.SortFunc(l, func(a, b autoconf.Lease) int { return strings.Compare(string(a.Source), string(b.Source)) })
			if len(l) != 2 || l[1].Source != autoconf.DHCP6 || len(l[1].Addrs) != 1 || !netip.MustParsePrefix("fd00::/64").Contains(l[1].Addrs[0].Prefix.Addr()) {
				t.Fatalf("known: %+v", l)
			}
			addr6 := l[1].Addrs[0].Prefix.Addr().String()
			if len(l[0].Addrs) != 1 || l[0].Addrs[0].Prefix != netip.MustParsePrefix("10.0.0.20/24") || l[0].MTU != 1400 || len(l[0].Routes) != 2 {
				t.Errorf("known: %+v", l)
			}
			if d := client.DNS(); len(d.Servers) != 2 || fmt.Sprint(d.Search) != "[lab.example]" {
				t.Errorf("DNS: %+v", d)
			}
			testenv.Check(t, c.Renew(testenv.Context(t)))
			err = udhcpc.Wait()
			if want := "bound 10.0.0.30/24 10.0.0.1 10.0.0.1 lab.example 1400 10.9.0.0/16 10.0.0.9 0.0.0.0/0 10.0.0.1 3600 box."; err != nil || !strings.Contains(out.String(), want) {
				t.Errorf("udhcpc: %v, %s, want %s", err, out.String(), want)
			}
			for name, want := range map[string][]string{"box": {"10.0.0.30"}, "host.lab.example": {"10.0.0.20", addr6}} {
				got, err := client.LookupHost(t.Context(), name)
				slices.Sort(got)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s is %v, %v", name, got, err)
				}
			}
			if got, err := client.LookupAddr(t.Context(), addr6); err != nil || !slices.Equal(got, []string{"host.lab.example."}) {
				t.Errorf("%s is %v, %v", addr6, got, err)
			}
			if got, err := client.LookupAddr(t.Context(), "10.0.0.30"); err != nil || !slices.Equal(got, []string{"box.lab.example."}) {
				t.Errorf("10.0.0.30 is %v, %v", got, err)
			}
			leases := s.Leases()
			if len(leases) != 3 || leases[2].Name != "host.lab.example" || leases[0].Name != "host.lab.example" || leases[1].Name != "box.lab.example" || time.Until(leases[0].Expires) < time.Hour-time.Minute {
				t.Errorf("leases: %+v", leases)
			}
			testenv.Check(t, c.Close())
			testenv.Eventually(t, "the lease to be given back", func() bool { return len(s.Leases()) == 1 })
		})
	}
}

// TestEnd starts servers one after the other, and ends them with Close and with the stack.
func TestEnd(t *testing.T) {
	netnstest.NoLeaks(t)
	st := vdestacktest.Open(t, "null://", "10.0.0.1/24")
	s, err := Start(st, Config{})
	testenv.Check(t, err)
	if _, err := Start(st, Config{}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second server: %v", err)
	}
	testenv.Check(t, s.Close())
	testenv.Check(t, s.Close())
	s, err = Start(st, Config{})
	testenv.Check(t, err)
	for _, name := range []string{"lo", "vde9"} {
		if _, err := Start(st, Config{Interface: name}); err == nil || !strings.Contains(err.Error(), "/"+name+": ") {
			t.Errorf("on %s: %v", name, err)
		}
	}
	testenv.Check(t, st.Close())
	if got := s.Leases(); len(got) > 0 {
		t.Errorf("leases: %v", got)
	}
	testenv.Check(t, s.Close())
	if _, err := Start(st, Config{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("in a stack that is closed: %v", err)
	}
}

// TestStartClose ends the stack while a server begins.
func TestStartClose(t *testing.T) {
	netnstest.NoLeaks(t)
	for i := range 4 {
		st := vdestacktest.Open(t, "null://", "10.0.0.1/24", "fd00::1/64")
		closed := make(chan error)
		go func() {
			time.Sleep(time.Duration(i*i) * time.Millisecond)
			closed <- st.Close()
		}()
		s, err := Start(st, Config{})
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		testenv.Check(t, <-closed)
		if err == nil {
			testenv.Check(t, s.Close())
		}
	}
}

// TestSilentClients has clients that connect and say nothing: others are answered.
func TestSilentClients(t *testing.T) {
	netnstest.NoLeaks(t)
	st := vdestacktest.Open(t, "null://", "10.0.0.1/24")
	s, err := Start(st, Config{DHCP4: DHCP4{Off: true}, Hosts: map[string][]netip.Addr{"www": testenv.Addrs("10.0.0.80")}})
	testenv.Check(t, err)
	dial := func() net.Conn {
		c, err := st.DialContext(testenv.Context(t), "tcp", "10.0.0.1:53")
		testenv.Check(t, err)
		t.Cleanup(func() { c.Close() })
		testenv.Check(t, c.SetDeadline(time.Now().Add(testenv.Timeout)))
		return c
	}
	first := dial()
	for range 2*maxConns - 1 {
		dial()
	}
	c := dial()
	_, err = c.Write(dns.Frame(query(t, "www.internal.", dnsmessage.TypeA, 0)))
	testenv.Check(t, err)
	r, err := dns.ReadFrame(c)
	testenv.Check(t, err)
	if got := text(t, r); got != "AA Success 10.0.0.80" {
		t.Errorf("got %s", got)
	}
	if n, err := first.Read(make([]byte, 1)); err == nil {
		t.Errorf("the oldest connection has got %d bytes", n)
	}
	testenv.Check(t, s.Close())
}

// TestInterfaceGone removes the interface under one of two servers.
func TestInterfaceGone(t *testing.T) {
	st := vdestacktest.Open(t, "null://", "10.0.0.1/24")
	s, err := Start(st, Config{})
	testenv.Check(t, err)
	testenv.Check(t, st.AddInterface(t.Context(), vdestack.Interface{VNL: "null://", Name: "vde1", Addrs: testenv.Prefixes("10.0.1.1/24")}))
	if other, err := Start(st, Config{Interface: "vde1"}); err != nil {
		t.Errorf("on a second interface: %v", err)
	} else {
		defer other.Close()
	}
	testenv.Check(t, st.RemoveInterface("vde0"))
	testenv.Check(t, s.Close())
}

// TestKernel has the kernel of a host follow advertisements, until the server ends.
func TestKernel(t *testing.T) {
	vnl := "mem://" + t.Name()
	host := vdestacktest.Open(t, vnl)
	nl, err := host.RTNL()
	testenv.Check(t, err)
	defer nl.Close()
	state := func() string {
		addrs, err := nl.Addrs()
		testenv.Check(t, err)
		routes, err := nl.Routes()
		testenv.Check(t, err)
		return fmt.Sprint(addrs, routes)
	}
	st := vdestacktest.Open(t, vnl, "fd00::1/64")
	s, err := Start(st, Config{})
	testenv.Check(t, err)
	testenv.Eventually(t, "an address and a route", func() bool {
		return strings.Contains(state(), "fd00::") && strings.Contains(state(), "default via fe80::")
	}, state)
	testenv.Check(t, s.Close())
	testenv.Eventually(t, "the route to end", func() bool { return !strings.Contains(state(), "default via fe80::") }, state)
}

// TestForward asks a server that asks others: one that is not there, and one that knows. Without the last
// one, questions fail.
func TestForward(t *testing.T) {
	vnl := "mem://" + t.Name()
	lab := vdestacktest.Open(t, vnl, "10.0.0.1/24")
	world := vdestacktest.Open(t, vnl, "10.0.0.3/24", "10.0.0.2/24")
	testenv.Check(t, world.Sysctl("net/ipv4/icmp_ratelimit", "0")) // it refuses each question at once
	var big []netip.Addr
	for i := range 100 {
		big = append(big, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	other, err := Start(world, Config{
		Domain: "org", Hosts: map[string][]netip.Addr{"www.example.org": testenv.Addrs("192.0.2.80"), "big.example.org": big},
		DHCP4: DHCP4{Off: true},
	})
	testenv.Check(t, err)
	defer other.Close()
	for _, tt := range []struct {
		upstream []string
		err      string
	}{{[]string{"10.0.0.3:99", "10.0.0.2:0"}, ""}, {[]string{"10.0.0.3:99"}, "server misbehaving"}, {nil, "no such host"}, {[]string{"10.0.0.1:53"}, "is this server"}} {
		cfg := Config{DHCP4: DHCP4{Off: true}}
		for _, a := range tt.upstream {
			cfg.DNS.Upstream = append(cfg.DNS.Upstream, netip.MustParseAddrPort(a))
		}
		s, err := Start(lab, cfg)
		if tt.err == "is this server" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("forwarding to itself: %v", err)
			}
			continue
		}
		testenv.Check(t, err)
		testenv.Check(t, world.SetDNS(vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}}))
		for name, want := range map[string]int{"www.example.org": 1, "big.example.org": 100} {
			got, err := world.LookupHost(t.Context(), name)
			if tt.err == "" && (err != nil || len(got) != want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("by %v, %s is %v, %v; want %s", tt.upstream, name, got, err, tt.err)
			}
		}
		testenv.Check(t, s.Close())
	}
}
