package dns

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

var (
	_ dnstest.Lookuper = (*Client)(nil)
	_ dnstest.Lookuper = (*net.Resolver)(nil)
)

// names is the zone of TestLookups.
var names = zone{
	"example.":                           {"MX 20 b.example.", "MX 5 a.example.", "NS ns1.example.", "NS ns2.example.", "TXT hello"},
	"www.example.":                       {"A 10.0.0.1", "AAAA fd00::1"},
	"alias.example.":                     {"CNAME middle.example."},
	"middle.example.":                    {"CNAME www.example."},
	"talias.example.":                    {"CNAME example."},
	"dangling.example.":                  {"CNAME nowhere.example."},
	"_http._tcp.example.":                {"SRV 2 0 80 c.example.", "SRV 1 0 80 b.example.", "SRV 1 9 80 a.example."},
	"_imap._tcp.example.":                {"SRV 0 0 0 ."},
	"_sip._udp.example.":                 {"CNAME _sip._udp.www.example."},
	"_sip._udp.www.example.":             {"SRV 1 1 5060 www.example."},
	"null.example.":                      {"MX 0 ."},
	"literal.example.":                   {"MX 1 10.0.0.25.", "MX 2 not_valid-.example."},
	"badns.example.":                     {"NS a!.example.", "NS ok.example."},
	"badsrv.example.":                    {"SRV 1 1 1 a!.example.", "SRV 1 1 1 ok.example."},
	"badname.example.":                   {"CNAME b!.example."},
	"b!.example.":                        {"A 10.0.0.9", "SRV 1 1 1 ok.example."},
	"1.0.0.10.in-addr.arpa.":             {"PTR www.example."},
	"2.0.0.10.in-addr.arpa.":             {"CNAME 2.part.0.0.10.in-addr.arpa."},
	"2.part.0.0.10.in-addr.arpa.":        {"PTR two.example.", "PTR a!.example."},
	reverseName(netip.IPv6Unspecified()): {"PTR six.example."},
	".":                                  {"NS a.root."},
	"fails.example.":                     nil,
}

func TestLookups(t *testing.T) {
	testenv.NoLeaks(t)
	f := newFake(t, func(q *query) {
		if q.Name.String() == "fails.example." {
			rcode(dnsmessage.RCodeServerFailure)(q)
			return
		}
		names.serve(q)
	})
	c := newClient(t, Config{Search: []string{"example"}, Timeout: testenv.Timeout, Hosts: map[string][]netip.Addr{
		"Db.Example": addrs("10.0.0.5"), "db": addrs("10.0.0.5 fe80::5%vde0"), "hidden": nil,
	}}, f)
	const notFound, invalid = "no such host", "DNS response contained records which contain invalid names"
	tests := []struct{ call, want, err string }{
		{call: "txt example.", want: "hello"},
		{call: "txt talias", want: "hello"},
		{call: "txt none", err: notFound},
		{call: "txt www", err: notFound},
		{call: "txt fails", err: "server misbehaving"},
		{call: "txt a..b", err: notFound},
		{call: "txt ", err: notFound},
		{call: "txt localhost", err: notFound},
		{call: "txt x.onion", err: notFound},
		{call: "mx example", want: "5 a.example., 20 b.example."},
		{call: "mx null", want: "0 ."},
		{call: "mx literal", want: "1 10.0.0.25.", err: invalid},
		{call: "ns example", want: "ns1.example., ns2.example."},
		{call: "ns badns", want: "ok.example.", err: invalid},
		{call: "ns .", want: "a.root."},
		{call: "srv http tcp example", want: "_http._tcp.example.: 1 9 80 a.example., 1 0 80 b.example., 2 0 80 c.example."},
		{call: "srv _http._tcp", want: "_http._tcp.example.: 1 9 80 a.example., 1 0 80 b.example., 2 0 80 c.example."},
		{call: "srv sip udp example", want: "_sip._udp.www.example.: 1 1 5060 www.example."},
		{call: "srv imap tcp example", want: "_imap._tcp.example.: 0 0 0 ."},
		{call: "srv http udp example", err: notFound},
		{call: "srv badsrv", want: "badsrv.example.: 1 1 1 ok.example.", err: invalid},
		{call: "srv badname", err: "SRV header name is invalid"},
		{call: "cname www", want: "www.example."},
		{call: "cname alias", want: "www.example."},
		{call: "cname ALIAS.example.", want: "www.example."},
		{call: "cname dangling", want: "nowhere.example."},
		{call: "cname badname", err: invalid},
		{call: "cname example.", err: notFound},
		{call: "cname none", err: notFound},
		{call: "cname 10.0.0.1", err: notFound},
		{call: "cname fd00::1", err: notFound},
		{call: "cname db", want: "db"},
		{call: "cname DB.example.", want: "DB.example."},
		{call: "cname hidden", err: notFound},
		{call: "cname localhost", want: "localhost"},
		{call: "addr 10.0.0.1", want: "www.example."},
		{call: "addr ::ffff:10.0.0.1", want: "www.example."},
		{call: "addr 10.0.0.2", want: "two.example.", err: invalid},
		{call: "addr ::", want: "six.example."},
		{call: "addr 10.0.0.3", err: notFound},
		{call: "addr 10.0.0.5", want: "db, Db.Example."},
		{call: "addr fe80::5%vde0", want: "db"},
		{call: "addr fe80::5", err: notFound},
		{call: "addr fe80::5%vde1", err: "unrecognized address"},
		{call: "addr 127.0.0.1", want: "localhost"},
		{call: "addr ::1", want: "localhost"},
		{call: "addr www", err: "unrecognized address"},
		{call: "addr ", err: "unrecognized address"},
		{call: "host alias", want: "10.0.0.1, fd00::1"},
		{call: "host 010.0.0.1", err: notFound},
		{call: "host ::FFFF:10.0.0.1", want: "::FFFF:10.0.0.1"},
		{call: "host fe80::1%x", want: "fe80::1%x"},
		{call: "host db", want: "10.0.0.5, fe80::5%vde0"},
		{call: "host none", err: notFound},
		{call: "ip www", want: "10.0.0.1, fd00::1"},
		{call: "ip4 www", want: "10.0.0.1"},
		{call: "ip6 www", want: "fd00::1"},
		{call: "ipaddr db", want: "10.0.0.5, fe80::5%vde0"},
		{call: "ipaddr ", err: notFound},
	}
	for _, tt := range tests {
		t.Run(tt.call, func(t *testing.T) {
			got, err := dnstest.Call(t.Context(), c, tt.call)
			dnsErr, ok := errors.AsType[*net.DNSError](err)
			switch {
			case tt.err == "" && err != nil, tt.err != "" && (!ok || dnsErr.Err != tt.err):
				t.Errorf("error %#v, want %q", err, tt.err)
			case got != tt.want:
				t.Errorf("got %q, want %q", got, tt.want)
			case ok && (dnsErr.IsNotFound != (tt.err == notFound) || dnsErr.IsTimeout):
				t.Errorf("error %#v", dnsErr)
			}
		})
	}
	if _, err := c.LookupIP(t.Context(), "tcp", "www"); err != net.UnknownNetworkError("tcp") {
		t.Errorf("network tcp: %v", err)
	}
	for _, q := range f.asked() {
		if strings.Contains(q, "localhost") || strings.Contains(q, "onion") || strings.Contains(q, "db") {
			t.Errorf("asked %q", q)
		}
	}
	// The errors name what was looked up, as those of package net.
	for line, want := range map[string]net.DNSError{
		"txt none":           {Name: "none", Server: f.addr.String(), IsNotFound: true},
		"srv http udp none.": {Name: "_http._udp.none.", Server: f.addr.String(), IsNotFound: true},
		"addr 10.0.0.3":      {Name: "3.0.0.10.in-addr.arpa.", Server: f.addr.String(), IsNotFound: true},
		"cname none":         {Name: "none", Server: f.addr.String(), IsNotFound: true},
		"host none":          {Name: "none", Server: f.addr.String(), IsNotFound: true},
	} {
		_, err := dnstest.Call(t.Context(), c, line)
		got, _ := errors.AsType[*net.DNSError](err)
		want.Err, want.UnwrapErr = notFound, got.UnwrapErr
		if *got != want {
			t.Errorf("%s: error %#v, want %#v", line, *got, want)
		}
	}
}

// TestCandidates sees which names are asked for records other than addresses.
func TestCandidates(t *testing.T) {
	testenv.NoLeaks(t)
	for line, want := range map[string]string{
		"txt a":          "a.s1. a.s2. a.",
		"mx a.b":         "a.b.s1. a.b.s2. a.b.",
		"ns A.b.c":       "A.b.c. A.b.c.s1. A.b.c.s2.",
		"txt a.":         "a.",
		"srv x tcp a":    "_x._tcp.a. _x._tcp.a.s1. _x._tcp.a.s2.",
		"srv x tcp a.":   "_x._tcp.a.",
		"addr 10.0.0.1":  "1.0.0.10.in-addr.arpa.",
		"cname a.b.c.d.": "a.b.c.d.",
	} {
		f := newFake(t, rcode(dnsmessage.RCodeNameError))
		_, err := dnstest.Call(t.Context(), newClient(t, Config{Search: []string{"s1", "s2"}, Ndots: 2}, f), line)
		if dnsErr, ok := err.(*net.DNSError); !ok || !dnsErr.IsNotFound {
			t.Errorf("%s: %v", line, err)
		}
		var order []string
		for _, q := range f.queries() {
			order = append(order, q.Name.String())
		}
		if got := strings.Join(slices.Compact(order), " "); got != want {
			t.Errorf("%s: asked for %s, want %s", line, got, want)
		}
	}
}

// TestOrder draws many orders of servers.
func TestOrder(t *testing.T) {
	srvs := []*net.SRV{
		{Target: "c", Priority: 2, Weight: 9}, {Target: "none", Priority: 1}, {Target: "one", Priority: 1, Weight: 1},
		{Target: "three", Priority: 1, Weight: 3}, {Target: "zero", Priority: 1},
	}
	const rounds = 4000
	got := make(map[string]int)
	for range rounds {
		list := slices.Clone(srvs)
		sortSRV(list)
		got[strings.Join(each(list, func(s *net.SRV) string { return s.Target }), " ")]++
	}
	if n := got["three one none zero c"] + got["three one zero none c"]; n < rounds*70/100 || n > rounds*80/100 {
		t.Errorf("the heaviest was first %d times of %d: %v", n, rounds, got)
	}
	for order := range maps.Keys(got) {
		f := strings.Fields(order)
		if len(f) != 5 || f[4] != "c" || f[0] == "none" || f[1] == "zero" || len(got) < 2 {
			t.Errorf("order %s", order)
		}
	}

	// Mail servers of one preference are in any order.
	f := newFake(t, zone{"example.": {"MX 1 a.", "MX 1 b.", "MX 0 c."}}.serve)
	c := newClient(t, Config{Timeout: testenv.Timeout}, f)
	seen := make(map[string]bool)
	for range 40 {
		got, err := dnstest.Call(t.Context(), c, "mx example.")
		testenv.Check(t, err)
		seen[got] = true
	}
	if want := map[string]bool{"0 c., 1 a., 1 b.": true, "0 c., 1 b., 1 a.": true}; !maps.Equal(seen, want) {
		t.Errorf("orders %v, want %v", seen, want)
	}
}
