package vdestack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/net/dns/dnsmessage"
)

// linkLocal returns the link-local address of vde0.
func linkLocal(t *testing.T, s *Stack) netip.Addr {
	t.Helper()
	nl := testenv.Opened(s.RTNL())(t)
	list := testenv.Must(nl.Addrs())(t)
	i := slices.IndexFunc(list, func(a rtnl.Addr) bool { return a.Prefix.Addr().IsLinkLocalUnicast() })
	if i < 0 || list[i].Flags&rtnl.Tentative != 0 {
		t.Fatalf("no usable link-local address: %v", list)
	}
	return list[i].Prefix.Addr().WithZone("")
}

// TestZones uses link-local addresses with the names of the stack's interfaces.
func TestZones(t *testing.T) {
	a, b := pair(t)
	la, lb := linkLocal(t, a), linkLocal(t, b)
	ln := testenv.Listen(t, a, "tcp", "["+la.String()+"%vde0]:80")
	if got, want := ln.Addr().String(), "["+la.String()+"%vde0]:80"; got != want {
		t.Errorf("listener: got %s, want %s", got, want)
	}
	c := testenv.Dial(t, b, "tcp", "["+la.String()+"%vde0]:80")
	if got, want := c.RemoteAddr().String(), ln.Addr().String(); got != want {
		t.Errorf("remote address: got %s, want %s", got, want)
	}
	if got, want := c.LocalAddr().String(), "["+lb.String()+"%vde0]:"; !strings.HasPrefix(got, want) {
		t.Errorf("local address: got %s, want %s…", got, want)
	}
	in := testenv.Opened(ln.Accept())(t)
	// What package net accepts has a number for the zone, that of no interface
	// of the host; it is good in the stack.
	t.Log(in.RemoteAddr())
	host, _, _ := net.SplitHostPort(in.RemoteAddr().String())
	if zone := netip.MustParseAddr(host).Zone(); zone != "1048576" {
		t.Errorf("zone of an accepted connection: %q", zone)
	}
	if err := testenv.Closing(a.ListenPacket("udp", net.JoinHostPort(la.String()+"%1048576", "0"))); err != nil {
		t.Errorf("a zone as a number: %v", err)
	}
	if _, err := b.Dial("tcp", "["+la.String()+"%test0]:80"); err == nil || !strings.Contains(err.Error(), `zone "test0" is no interface of the stack`) {
		t.Errorf("an interface of the host: %v", err)
	}
}

// TestLocalAddrZone connects from and to addresses with zones wherever a Dialer has
// any: those of its own connections above all.
func TestLocalAddrZone(t *testing.T) {
	six := netip.MustParseAddr("fe80::b%vde0")
	s := made(t, Config{
		Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("fe80::a/64", "fe80::b/64")}},
		DNS:        DNS{Hosts: map[string][]netip.Addr{"b": {six}}},
	})
	testenv.Listen(t, s, "tcp", "[fe80::b%vde0]:80")
	c := testenv.Must(s.Dial("udp", "[fe80::b%vde0]:90"))(t)
	earlier := c.LocalAddr()
	c.Close()
	ip := net.ParseIP("fe80::a")
	for _, tt := range []struct {
		name, network, address string
		local                  net.Addr
	}{
		{"TCP", "tcp", "[fe80::b%vde0]:80", &net.TCPAddr{IP: ip, Zone: "vde0"}},
		{"TCP, a name", "tcp", "b:80", &net.TCPAddr{IP: ip, Zone: "vde0"}},
		{"UDP", "udp", "[fe80::b%vde0]:90", &net.UDPAddr{IP: ip, Zone: "vde0"}},
		{"UDP, a name", "udp", "b:90", nil},
		{"UDP, an earlier one", "udp", "[fe80::b%vde0]:90", earlier},
		{"raw", "ip6:ipv6-icmp", "fe80::b%vde0", &net.IPAddr{IP: ip, Zone: "vde0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Dialer{Stack: s}
			d.LocalAddr = tt.local
			testenv.Check(t, testenv.Closing(d.Dial(tt.network, tt.address)))
		})
	}
	d := Dialer{Stack: s}
	d.LocalAddr = &net.UDPAddr{IP: ip, Zone: "test0"}
	if _, err := d.Dial("udp", "b:90"); err == nil || !strings.Contains(err.Error(), `zone "test0" is no interface of the stack`) {
		t.Errorf("an interface of the host: %v", err)
	}
	typed := Dialer{Stack: s}
	testenv.Check(t, testenv.Closing(typed.DialTCP(t.Context(), "tcp", netip.MustParseAddrPort("[fe80::a%vde0]:0"), netip.MustParseAddrPort("[fe80::b%vde0]:80"))))
}

// TestUnscoped sends to link-local addresses from a stack on two networks. Package
// net does not know the names of zones then: what it sends goes to the right network,
// or nowhere, with an error.
func TestUnscoped(t *testing.T) {
	lab := [2]string{"mem://" + t.Name() + "0", "mem://" + t.Name() + "1"}
	s := made(t, Config{Interfaces: []Interface{
		{VNL: lab[0], Name: "lab0", Addrs: testenv.Prefixes("10.0.0.1/24")},
		{VNL: lab[1], Name: "lab1", Addrs: testenv.Prefixes("10.0.1.1/24")},
	}})
	var there [2]net.PacketConn
	for i, vnl := range lab {
		peer := open(t, vnl, "fe80::b/64")
		there[i] = testenv.ListenPacket(t, peer, "udp6", "[::]:90")
		there[i].SetDeadline(time.Now().Add(10 * time.Second))
	}
	pc := testenv.ListenPacket(t, s, "udp6", "[::]:0")
	nl := testenv.Opened(s.RTNL())(t)
	for _, dst := range []string{"fe80::b", "ff02::1", "ff12::5"} {
		for _, zone := range []string{"", "lab0", "lab1", "test0"} {
			_, err := pc.WriteTo([]byte("astray"), &net.UDPAddr{IP: net.ParseIP(dst), Port: 90, Zone: zone})
			if err == nil {
				t.Errorf("to %s, zone %q: it was sent", dst, zone)
			}
		}
	}
	for i, name := range []string{"lab0", "lab1"} {
		index := testenv.Must(nl.IfNameToIndex(name))(t)
		for _, dst := range []string{"fe80::b", "ff02::1"} {
			want := name + dst
			if _, err := pc.WriteTo([]byte(want), &net.UDPAddr{IP: net.ParseIP(dst), Port: 90, Zone: strconv.Itoa(index)}); err != nil {
				t.Fatalf("to %s, zone %d: %v", dst, index, err)
			}
			b := make([]byte, 100)
			n, from, err := there[i].ReadFrom(b)
			if err != nil || string(b[:n]) != want {
				t.Fatalf("got %q, %v, want %q", b[:n], err, want)
			}
			// To where it came from.
			testenv.Must(there[i].WriteTo([]byte("back"), from))(t)
			pc.SetDeadline(time.Now().Add(10 * time.Second))
			if n, _, err := pc.ReadFrom(b); err != nil || string(b[:n]) != "back" {
				t.Fatalf("got %q, %v, want an answer", b[:n], err)
			}
		}
		// A connected socket has the zone's name.
		testenv.Dial(t, s, "udp6", "[fe80::b%"+name+"]:90")
	}
}

// TestUnscopedPrefixes has link-local addresses whose networks have other lengths than
// 64 bits, of which the kernel makes routes of that length.
func TestUnscopedPrefixes(t *testing.T) {
	s := made(t, Config{Interfaces: []Interface{
		{VNL: "mem://" + t.Name() + "0", Name: "lab0", Addrs: testenv.Prefixes("fe80::a/80", "fe80:1::a/10", "fe80:2::a/128")},
		{VNL: "mem://" + t.Name() + "1", Name: "lab1", Addrs: testenv.Prefixes("fe80::a/96", "fe80:3::a/48")},
	}})
	pc := testenv.ListenPacket(t, s, "udp6", "[::]:0")
	for _, dst := range []string{"fe80::b", "fe80::1:0:0:b", "fe80:1::b", "fe80:2::b", "fe80:3::b", "feb0::b"} {
		if _, err := pc.WriteTo([]byte("astray"), &net.UDPAddr{IP: net.ParseIP(dst), Port: 90, Zone: "lab1"}); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("to %s: got %v, want no route to host", dst, err)
		}
	}
}

// TestZonesElsewhere has zones where they are not literals of Dial: of names, of name
// servers, of groups, and of addresses that have none.
func TestZonesElsewhere(t *testing.T) {
	lab := [2]string{"mem://" + t.Name() + "0", "mem://" + t.Name() + "1"}
	there := open(t, lab[1], "fe80::53/64", "fd00::53/64")
	server := testenv.ListenPacket(t, there, "udp6", "[fe80::53%vde0]:53")
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
				}}
			}
			answer, _ := m.Pack()
			server.WriteTo(answer, from)
		}
	}()
	s := made(t, Config{
		Interfaces: []Interface{
			{VNL: lab[0], Name: "lab0", Addrs: testenv.Prefixes("fe80::a/64")},
			{VNL: lab[1], Name: "lab1", Addrs: testenv.Prefixes("fe80::a/64")},
		},
		DNS: DNS{
			Servers: []netip.AddrPort{netip.MustParseAddrPort("[fe80::53%lab1]:53")},
			Hosts: map[string][]netip.Addr{
				"here":   {netip.MustParseAddr("fe80::a%lab1")},
				"astray": {netip.MustParseAddr("fd00::53%lab1")},
			},
		},
	})
	if addrs, err := s.LookupNetIP(t.Context(), "ip4", "host.example"); err != nil || len(addrs) != 1 || addrs[0].String() != "192.0.2.7" {
		t.Errorf("a name server with a zone: %v, %v", addrs, err)
	}
	ln := testenv.Listen(t, s, "tcp", "here:80")
	if got, want := ln.Addr().String(), "[fe80::a%lab1]:80"; got != want {
		t.Errorf("listening on %s, want %s", got, want)
	}
	pc := testenv.ListenPacket(t, s, "udp", "here:80")
	if got, want := pc.LocalAddr().String(), "[fe80::a%lab1]:80"; got != want {
		t.Errorf("a socket of packets is at %s, want %s", got, want)
	}
	for _, tt := range []struct{ network, address string }{
		{"udp", "[fd00::53%lab1]:53"},
		{"tcp", "[fd00::53%lab1]:53"},
		{"udp", "[ff05::1%lab1]:53"},
		{"udp", "astray:53"},
		{"ip6:ipv6-icmp", "fd00::53%lab1"},
	} {
		err := testenv.Closing(s.Dial(tt.network, tt.address))
		if err == nil || !strings.Contains(err.Error(), "it has a zone, which only link-local addresses have") {
			t.Errorf("dial %s %s: got %v, want an error about its zone", tt.network, tt.address, err)
		}
	}
	for _, group := range []string{"[ff02::5%lab0]:99", "[ff05::5%lab1]:99"} {
		if err := testenv.Closing(s.ListenMulticastUDP("udp", "", netip.MustParseAddrPort(group))); err != nil {
			t.Errorf("%s: %v", group, err)
		}
	}
}

// TestRawIP pings with raw sockets, made without privilege.
func TestRawIP(t *testing.T) {
	a, b := pair(t)
	tests := []struct {
		network, address string
		echo, reply      byte
	}{
		{"ip4:icmp", "10.0.0.1", 8, 0},
		{"ip:1", "10.0.0.1", 8, 0},
		{"ip6:ipv6-icmp", "fc00::1:1", 128, 129},
	}
	for _, tt := range tests {
		t.Run(tt.network, func(t *testing.T) {
			c := testenv.Dial(t, b, tt.network, tt.address)
			checkIn(t, b, c)
			if _, ok := c.(*net.IPConn); !ok {
				t.Errorf("a %T", c)
			}
			if a, ok := c.RemoteAddr().(*net.IPAddr); !ok || a.String() != tt.address {
				t.Errorf("remote address %v", c.RemoteAddr())
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			msg := []byte{tt.echo, 0, 0, 0, 0, 1, 0, 1}
			msg[2], msg[3] = ^tt.echo, ^byte(2) // IPv4; the kernel does IPv6's
			testenv.Must(c.Write(msg))(t)
			for {
				buf := make([]byte, 200)
				n, _, err := c.(*net.IPConn).ReadFrom(buf) // without the IPv4 header
				if err != nil {
					for _, s := range []*Stack{a, b} {
						out, _ := s.Command(t.Context(), "sh", "-c", "ip -s addr; ip neigh").CombinedOutput()
						t.Logf("%s\n%+v", out, s.Stats())
					}
					t.Fatal(err)
				}
				if n >= 8 && buf[0] == tt.reply {
					break
				}
			}
		})
	}
	p := testenv.ListenPacket(t, a, "ip4:icmp", "10.0.0.1")
	checkIn(t, a, p)
	p.SetDeadline(time.Now().Add(10 * time.Second))
	var ping sync.WaitGroup
	defer ping.Wait()
	ping.Go(func() { b.Command(t.Context(), "ping", "-c", "1", "10.0.0.1").Run() })
	if n, from, err := p.ReadFrom(make([]byte, 200)); err != nil || from.String() != "10.0.0.2" {
		t.Errorf("got %d bytes of %v, %v", n, from, err)
	}
}

// TestHostDecidesNothing has the host in the way: the same addresses, a hosts
// name, IPv6 switched off. It changes settings of the test's own namespace.
func TestHostDecidesNothing(t *testing.T) {
	pair(t)
	canary, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err == nil { // an ordinary user may not
		defer canary.Close()
		defer func() {
			canary.SetDeadline(time.Now().Add(10 * time.Millisecond))
			if n, from, err := canary.ReadFrom(make([]byte, 512)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the host's DNS server was asked: %d bytes from %v, %v", n, from, err)
			}
		}()
	}
	s := made(t, Config{
		Interfaces: []Interface{{VNL: "mem://" + t.Name(), Addrs: testenv.Prefixes("10.0.0.3/24", "fc00::1:3/64")}},
		DNS:        DNS{Hosts: map[string][]netip.Addr{"server": testenv.Addrs("10.0.0.1", "fc00::1:1"), "here": testenv.Addrs("10.0.0.3")}},
	})
	hostname, _ := os.Hostname()
	for _, name := range []string{hostname, "ip6-allnodes", "nosuch.example"} {
		if c, err := s.Dial("tcp", name+":80"); err == nil {
			t.Errorf("%s, a name of the host, leads to %v", name, c.RemoteAddr())
		}
	}
	ln, err := s.Listen("tcp", "here:0")
	if err != nil || !strings.HasPrefix(ln.Addr().String(), "10.0.0.3:") {
		t.Fatalf("a name of the stack: %v, %v", ln, err)
	}
	ln.Close()
	var op *net.OpError
	if _, err := s.Listen("tcp", "nosuch.example:0"); !errors.As(err, &op) {
		t.Errorf("a name that does not exist: %v", err)
	}
	if _, err := s.Dial("tcp", "server:9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens there: %v", err)
	}
}
