package dns

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

// refuseDial is for lookups that need no server.
func refuseDial(t testing.TB) DialFunc {
	return func(_ context.Context, network, address string) (net.Conn, error) {
		t.Errorf("dialled %s %s", network, address)
		return nil, errors.New("not to be dialled")
	}
}

func TestNew(t *testing.T) {
	server := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}
	addr := addrs("10.0.0.1")
	tests := []struct {
		name, err string
		cfg       Config
	}{
		{name: "zero"},
		{name: "all", cfg: Config{Servers: server, Search: []string{"a.example", "b.", "."}, Ndots: 3,
			Hosts: map[string][]netip.Addr{"a": addr, "B.": nil, "_x.y-z.9": addr}, Timeout: 1, Attempts: 1}},
		{name: "server", cfg: Config{Servers: []netip.AddrPort{{}}}, err: "dns: Servers: a server without an address"},
		{name: "unspecified", cfg: Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("[::]:53")}},
			err: "dns: Servers: :: is not the address of a server"},
		{name: "zone", cfg: Config{Servers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone("a\nb"), 53)}},
			err: `dns: Servers: zone "a\nb" is not the name of an interface`},
		{name: "multicast", cfg: Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("224.0.0.251:53")}}, err: "dns: Servers: 224"},
		{name: "search", cfg: Config{Search: []string{"a..b"}}, err: `dns: Search: "a..b" is not a domain name`},
		{name: "empty search", cfg: Config{Search: []string{""}}, err: `dns: Search: ""`},
		{name: "ndots", cfg: Config{Ndots: -1}, err: "dns: Ndots: -1 is negative"},
		{name: "timeout", cfg: Config{Timeout: -1}, err: "dns: Timeout: -1ns is negative"},
		{name: "attempts", cfg: Config{Attempts: -1}, err: "dns: Attempts: -1 is negative"},
		{name: "cache", cfg: Config{Cache: -1}, err: "dns: Cache: -1 is negative"},
		{name: "host", cfg: Config{Hosts: map[string][]netip.Addr{"a b": addr}}, err: `dns: Hosts: "a b" is not a host name`},
		{name: "host literal", cfg: Config{Hosts: map[string][]netip.Addr{"10.0.0.1": addr}}, err: `dns: Hosts: "10.0.0.1"`},
		{name: "host address", cfg: Config{Hosts: map[string][]netip.Addr{"a": {{}}}}, err: `dns: Hosts: "a": an address is the zero`},
		{name: "host twice", cfg: Config{Hosts: map[string][]netip.Addr{"A.": addr, "a": addr}},
			err: `dns: Hosts: "A." and "a" are the same name`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg, refuseDial(t))
			switch {
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)):
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
	if _, err := New(Config{}, nil); err == nil {
		t.Error("no error without a dial function")
	}
}

// TestNewCopies changes the configuration after New.
func TestNewCopies(t *testing.T) {
	cfg := Config{Hosts: map[string][]netip.Addr{"a": addrs("10.0.0.1"), "b": addrs("10.0.0.2")}}
	c, err := New(cfg, refuseDial(t))
	testenv.Check(t, err)
	cfg.Hosts["a"][0] = netip.MustParseAddr("10.9.9.9")
	delete(cfg.Hosts, "b")
	for name, want := range map[string]string{"a": "10.0.0.1", "b": "10.0.0.2", "localhost": "127.0.0.1 ::1"} {
		got, err := c.LookupNetIP(t.Context(), "ip", name)
		check(t, got, err, want, "")
		if err == nil {
			got[0] = netip.Addr{} // which belongs to the caller
		}
		wantAddrs(t, c, "ip", name, want, "")
	}
}

// TestKnown looks up names that need no server.
func TestKnown(t *testing.T) {
	c, err := New(Config{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:0")},
		Search:  []string{"example"},
		Hosts: map[string][]netip.Addr{
			"db":            addrs("10.0.0.5 fd00::5 ::ffff:10.0.0.6"),
			"Web.Example.":  addrs("10.0.0.7"),
			"hidden":        nil,
			"mine.onion":    addrs("10.0.0.8"),
			"own.localhost": addrs("10.0.0.9"),
			"linklocal":     addrs("fe80::1%vde0"),
		},
	}, refuseDial(t))
	testenv.Check(t, err)
	const notFound, unsuitable = "no such host", "no suitable address found"
	label := strings.Repeat("x", 63)
	tests := []struct{ network, host, want, err string }{
		{host: "10.0.0.1", want: "10.0.0.1"},
		{host: "fd00::1", want: "fd00::1"},
		{host: "fe80::1%vde0", want: "fe80::1%vde0"},
		{host: "::ffff:10.0.0.1", want: "10.0.0.1"},
		{network: "ip4", host: "::ffff:10.0.0.1", want: "10.0.0.1"},
		{network: "ip4", host: "10.0.0.1", want: "10.0.0.1"},
		{network: "ip6", host: "fd00::1", want: "fd00::1"},
		{network: "ip4", host: "fd00::1", err: unsuitable},
		{network: "ip6", host: "10.0.0.1", err: unsuitable},
		{host: "db", want: "10.0.0.5 10.0.0.6 fd00::5"},
		{host: "DB.", want: "10.0.0.5 10.0.0.6 fd00::5"},
		{network: "ip6", host: "db", want: "fd00::5"},
		{host: "web.example", want: "10.0.0.7"},
		{host: "WEB.EXAMPLE.", want: "10.0.0.7"},
		{network: "ip6", host: "web.example", err: unsuitable},
		{host: "hidden", err: notFound},
		{host: "linklocal", want: "fe80::1%vde0"},
		{host: "localhost", want: "127.0.0.1 ::1"},
		{host: "LocalHost.", want: "127.0.0.1 ::1"},
		{network: "ip4", host: "a.b.localhost", want: "127.0.0.1"},
		{network: "ip6", host: "a.localhost.", want: "::1"},
		{host: "own.localhost", want: "10.0.0.9"},
		{host: "mine.onion", want: "10.0.0.8"},
		{host: "other.onion", err: notFound},
		{host: "onion.", err: notFound},
		{host: "a..localhost", err: notFound},
		{host: "", err: notFound},
		{host: ".", err: notFound},
		{host: "a..b", err: notFound},
		{host: ".a", err: notFound},
		{host: "a..", err: notFound},
		{host: "-a", err: notFound},
		{host: "a-.b", err: notFound},
		{host: "a b", err: notFound},
		{host: "a\x00b", err: notFound},
		{host: "bücher.example", err: notFound},
		{host: "10.0.0.256", err: notFound},
		{host: "127.1", err: notFound},
		{host: "[::1]", err: notFound},
		{host: "10.0.0.1:80", err: notFound},
		{host: label + "x.example", err: notFound},
		{host: strings.Repeat(label+".", 3) + strings.Repeat("x", 62), err: notFound},
	}
	for _, tt := range tests {
		t.Run(tt.network+" "+tt.host, func(t *testing.T) {
			err := wantAddrs(t, c, cmp.Or(tt.network, "ip"), tt.host, tt.want, tt.err)
			if dnsErr, ok := err.(*net.DNSError); tt.err != "" && (!ok || !dnsErr.IsNotFound || dnsErr.Name != tt.host) {
				t.Errorf("error %#v, want a DNSError that says not found", err)
			}
		})
	}
	if _, err := c.LookupNetIP(t.Context(), "tcp", "10.0.0.1"); err != net.UnknownNetworkError("tcp") {
		t.Errorf("network tcp: error %v, want an unknown network", err)
	}
}

func TestLookup(t *testing.T) {
	testenv.NoLeaks(t)
	f := newFake(t, zone{
		"both.example.":  {"A 10.0.0.1", "AAAA fd00::1", "A 10.0.0.2", "A 10.0.0.1", "TXT x"},
		"v4.example.":    {"A 10.0.0.4"},
		"v6.example.":    {"AAAA fd00::6"},
		"empty.example.": {"TXT x"},
		"alias.example.": {"CNAME Middle.example."},
		"middle.example.": {"CNAME other.example.", // found only under the name as it is asked for
			"TXT x"},
		"Middle.example.": {"CNAME both.example."},
		"mapped.example.": {"AAAA ::ffff:10.0.0.1", "AAAA fd00::7"},
	}.serve)
	c := newClient(t, Config{}, f)
	const notFound = ": no such host"
	tests := []struct{ network, host, want, err string }{
		{"ip", "both.example", "10.0.0.1 10.0.0.2 fd00::1", ""},
		{"ip4", "both.example", "10.0.0.1 10.0.0.2", ""},
		{"ip6", "both.example", "fd00::1", ""},
		{"ip", "both.example.", "10.0.0.1 10.0.0.2 fd00::1", ""},
		{"ip", "v4.example", "10.0.0.4", ""},
		{"ip", "v6.example", "fd00::6", ""},
		{"ip6", "v4.example", "", notFound},
		{"ip", "empty.example", "", notFound},
		{"ip", "none.example", "", notFound},
		{"ip", "alias.example", "10.0.0.1 10.0.0.2 fd00::1", ""},
		{"ip", "mapped.example", "fd00::7", ""},
	}
	for _, tt := range tests {
		t.Run(tt.network+" "+tt.host, func(t *testing.T) {
			err := wantAddrs(t, c, tt.network, tt.host, tt.want, tt.err)
			want := &net.DNSError{Err: "no such host", Name: tt.host, Server: f.addr.String(), IsNotFound: true}
			if dnsErr, ok := err.(*net.DNSError); tt.err != "" && ok {
				dnsErr.UnwrapErr = nil
				if !reflect.DeepEqual(dnsErr, want) {
					t.Errorf("error %#v, want %#v", dnsErr, want)
				}
			}
		})
	}
}

// TestQuery checks the queries themselves.
func TestQuery(t *testing.T) {
	testenv.NoLeaks(t)
	f := newFake(t, zone{"www.example.": {"A 10.0.0.1"}}.serve)
	c := newClient(t, Config{}, f)
	const rounds = 20
	for range rounds {
		wantAddrs(t, c, "ip", "www.example", "10.0.0.1", "")
	}
	ids, ports := make(map[uint16]bool), make(map[uint16]bool)
	queries := f.queries()
	for _, q := range queries {
		ids[q.header.ID], ports[q.from.Port()] = true, true
		if q.edns != maxPacket || q.Class != dnsmessage.ClassINET || q.network != "udp" {
			t.Errorf("query %v of class %v with EDNS size %d, want class IN and %d", q, q.Class, q.edns, maxPacket)
		}
	}
	if n := len(queries); n != 2*rounds {
		t.Errorf("%d queries for %d lookups, want two each", n, rounds)
	}
	if len(ids) < rounds || len(ports) < rounds {
		t.Errorf("%d ids and %d ports in %d queries: they should be random", len(ids), len(ports), len(queries))
	}
}

func TestSearch(t *testing.T) {
	long := strings.Repeat("x", 63) + "." + strings.Repeat("y", 60)
	tests := []struct {
		name   string
		search []string
		ndots  int
		host   string
		want   string
	}{
		{name: "no search", host: "a", want: "a."},
		{name: "dots of the host", search: []string{"s1", "s2."}, host: "a.b", want: "a.b. a.b.s1. a.b.s2."},
		{name: "too few dots", search: []string{"s1", "s2."}, host: "a", want: "a.s1. a.s2. a."},
		{name: "ndots 3", search: []string{"s1"}, ndots: 3, host: "a.b.c", want: "a.b.c.s1. a.b.c."},
		{name: "enough for ndots 3", search: []string{"s1"}, ndots: 3, host: "a.b.c.d", want: "a.b.c.d. a.b.c.d.s1."},
		{name: "absolute", search: []string{"s1"}, host: "a.", want: "a."},
		{name: "absolute with dots", search: []string{"s1"}, ndots: 3, host: "a.b.", want: "a.b."},
		{name: "root", search: []string{".", "s1"}, host: "a", want: "a.s1. a."},
		{name: "too long", search: []string{long + "." + long, "s1"}, host: "host", want: "host.s1. host."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, rcode(dnsmessage.RCodeNameError))
			c := newClient(t, Config{Search: tt.search, Ndots: tt.ndots}, f)
			wantAddrs(t, c, "ip4", tt.host, "", "lookup "+tt.host+" on "+f.addr.String()+": no such host")
			var order []string
			for _, q := range f.queries() {
				order = append(order, q.Name.String())
			}
			if got := strings.Join(order, " "); got != tt.want {
				t.Errorf("asked for %s, want %s", got, tt.want)
			}
		})
	}
}

// TestSearchGoesOn checks which answers end a search.
func TestSearchGoesOn(t *testing.T) {
	found := zone{"a.second.": {"A 10.0.0.1"}}.serve
	for _, tt := range []struct {
		name          string
		first, second handler
		want, err     string
	}{
		{name: "no such name", first: rcode(dnsmessage.RCodeNameError), second: found, want: "10.0.0.1"},
		{name: "no data", first: rcode(dnsmessage.RCodeSuccess), second: found, want: "10.0.0.1"},
		{name: "server failure", first: rcode(dnsmessage.RCodeServerFailure), second: found, want: "10.0.0.1"},
		{name: "refused", first: rcode(dnsmessage.RCodeRefused), second: found, want: "10.0.0.1"},
		{name: "silence", first: silent, second: found, err: "i/o timeout"},
		{name: "a name without an answer may exist", first: rcode(dnsmessage.RCodeServerFailure),
			second: rcode(dnsmessage.RCodeNameError), err: "server misbehaving"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			f := newPipeFake("10.0.0.1:53", func(q *query) {
				if q.Name.String() == "a.first." {
					tt.first(q)
				} else {
					tt.second(q)
				}
			})
			wantAddrs(t, newPipeClient(t, Config{Search: []string{"first", "second"}}, f), "ip", "a", tt.want, tt.err)
		})
	}
}

// TestErrors checks all fields of the errors.
func TestErrors(t *testing.T) {
	testenv.NoLeaks(t)
	closed := newFake(t, silent).addr // only the dial functions below fail
	refused := &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("read", syscall.ECONNREFUSED)}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name    string
		ctx     context.Context
		servers []netip.AddrPort
		dialErr error
		want    net.DNSError
		is      error
	}{
		{name: "no servers",
			want: net.DNSError{Err: "the stack has no DNS servers (set Config.DNS, or call SetDNS)"}},
		{name: "network", servers: []netip.AddrPort{closed}, dialErr: refused,
			want: net.DNSError{Err: "read udp: read: connection refused", Server: closed.String(), IsTemporary: true}, is: syscall.ECONNREFUSED},
		{name: "closed stack", servers: []netip.AddrPort{closed}, dialErr: net.ErrClosed,
			want: net.DNSError{Err: "use of closed network connection", Server: closed.String()}, is: net.ErrClosed},
		{name: "timeout", servers: []netip.AddrPort{closed}, dialErr: &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
			want: net.DNSError{Err: "i/o timeout", Server: closed.String(), IsTimeout: true, IsTemporary: true}, is: context.DeadlineExceeded},
		{name: "canceled", ctx: canceled, servers: []netip.AddrPort{closed}, dialErr: errors.New("not dialled"),
			want: net.DNSError{Err: "operation was canceled"}, is: context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Config{Servers: tt.servers}, func(context.Context, string, string) (net.Conn, error) { return nil, tt.dialErr })
			testenv.Check(t, err)
			_, err = c.LookupNetIP(cmp.Or(tt.ctx, t.Context()), "ip", "a.example")
			got, ok := err.(*net.DNSError)
			if !ok {
				t.Fatalf("error %#v, want a DNSError", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v does not wrap %v", err, tt.is)
			}
			tt.want.Name, tt.want.UnwrapErr = "a.example", got.UnwrapErr
			if *got != tt.want {
				t.Errorf("error %#v, want %#v", *got, tt.want)
			}
		})
	}
}

// TestHostIsIgnored asks for the names in /etc/hosts.
func TestHostIsIgnored(t *testing.T) {
	testenv.NoLeaks(t)
	f, err := os.Open("/etc/hosts")
	if err != nil {
		t.Skip(err) // this system has no such file
	}
	defer f.Close()
	server := newFake(t, func(q *query) { q.reply(record(q.Name.String(), "A 10.11.12.13")) })
	c := newClient(t, Config{}, server)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		for _, name := range fields[min(1, len(fields)):] {
			if isBelow(name, "localhost") || !isName(name) {
				continue
			}
			wantAddrs(t, c, "ip4", name, "10.11.12.13", "")
		}
	}
}

// TestConcurrent makes many lookups with one client, and with its resolver.
func TestConcurrent(t *testing.T) {
	testenv.NoLeaks(t)
	z := make(zone)
	for i := range 32 {
		z[fmt.Sprintf("h%d.example.", i)] = []string{fmt.Sprintf("A 10.0.0.%d", i+1), fmt.Sprintf("AAAA fd00::%x", i+1)}
	}
	// Two servers, the first of which answers half of the names.
	first := newFake(t, eitherType(rcode(dnsmessage.RCodeRefused), z.serve))
	c := newClient(t, Config{Timeout: testenv.Timeout}, first, newFake(t, z.serve))
	r := resolverOf(c)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for range 4 {
				name, want4, want6 := fmt.Sprintf("h%d.example.", i), fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("fd00::%x", i+1)
				wantAddrs(t, c, "ip", name, want4+" "+want6, "")
				if got, err := r.LookupHost(t.Context(), name); err != nil || len(got) != 2 || !slices.Contains(got, want4) || !slices.Contains(got, want6) {
					t.Errorf("resolver, %s: %q, %v", name, got, err)
				}
			}
		})
	}
	wg.Wait()
}
