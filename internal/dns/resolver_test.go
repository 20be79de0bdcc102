package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

// resolverOf returns a resolver of package net that uses the client.
func resolverOf(c *Client) *net.Resolver {
	return NewResolver(func() (*Client, error) { return c, nil })
}

// TestResolver uses the methods of net.Resolver. Their names are absolute, so
// that the search list of the host plays no part.
func TestResolver(t *testing.T) {
	testenv.NoLeaks(t)
	var big, texts []string
	for i := range 100 {
		texts = append(texts, strings.Repeat("x", 100+i))
		big = append(big, "TXT "+texts[i])
	}
	z := zone{
		"www.example.":               {"A 10.0.0.1", "AAAA fd00::1"},
		"alias.example.":             {"CNAME www.example."},
		"example.":                   {"MX 20 b.example.", "MX 10 a.example.", "NS ns.example.", "TXT hello"},
		"_http._tcp.example.":        {"SRV 1 0 80 www.example."},
		"1.0.0.10.in-addr.arpa.":     {"PTR www.example."},
		"big.example.":               big,
		"9.0.0.10.in-addr.arpa.":     {"PTR wrong.example."},
		"hosts.example.":             {"A 10.6.6.6", "TXT from the server"},
		"localhost.":                 {"TXT not to be asked"},
		"anything.localhost.":        {"TXT not to be asked"},
		reverseName(addrs("::1")[0]): {"PTR not.to.be.asked."},
	}
	f := newFake(t, func(q *query) {
		if q.network == "udp" && q.Name.String() == "big.example." {
			q.truncate()
		} else {
			z.serve(q)
		}
	})
	r := resolverOf(newClient(t, Config{Timeout: testenv.Timeout, Hosts: map[string][]netip.Addr{
		"Hosts.example": addrs("10.0.0.9 fd00::9"),
		"second":        addrs("10.0.0.9"),
		"hidden.test":   nil,
	}}, newFake(t, rcode(dnsmessage.RCodeRefused)), f))
	ctx := t.Context()
	tests := []struct {
		name string
		call func() (any, error)
		want any
		err  string
	}{
		{name: "TXT", call: func() (any, error) { return r.LookupTXT(ctx, "example.") }, want: []string{"hello"}},
		{name: "TXT over TCP", call: func() (any, error) { return r.LookupTXT(ctx, "big.example.") }, want: texts},
		{name: "MX", call: func() (any, error) { return r.LookupMX(ctx, "example.") },
			want: []*net.MX{{Host: "a.example.", Pref: 10}, {Host: "b.example.", Pref: 20}}},
		{name: "NS", call: func() (any, error) { return r.LookupNS(ctx, "example.") }, want: []*net.NS{{Host: "ns.example."}}},
		{name: "SRV", call: func() (any, error) { _, s, err := r.LookupSRV(ctx, "http", "tcp", "example."); return s, err },
			want: []*net.SRV{{Target: "www.example.", Port: 80, Priority: 1}}},
		{name: "CNAME", call: func() (any, error) { return r.LookupCNAME(ctx, "alias.example.") }, want: "www.example."},
		{name: "address", call: func() (any, error) { return r.LookupAddr(ctx, "10.0.0.1") }, want: []string{"www.example."}},
		{name: "host", call: func() (any, error) { a, err := r.LookupHost(ctx, "alias.example."); slices.Sort(a); return a, err },
			want: []string{"10.0.0.1", "fd00::1"}},
		{name: "ip6", call: func() (any, error) { return r.LookupNetIP(ctx, "ip6", "www.example.") }, want: addrs("fd00::1")},
		{name: "host in Hosts", call: func() (any, error) { a, err := r.LookupHost(ctx, "hosts.example."); slices.Sort(a); return a, err },
			want: []string{"10.0.0.9", "fd00::9"}},
		{name: "other type of a host in Hosts", call: func() (any, error) { return r.LookupTXT(ctx, "hosts.example.") },
			want: []string{"from the server"}},
		{name: "address in Hosts", call: func() (any, error) { return r.LookupAddr(ctx, "10.0.0.9") },
			want: []string{"Hosts.example.", "second."}},
		{name: "IPv6 address in Hosts", call: func() (any, error) { return r.LookupAddr(ctx, "fd00::9") }, want: []string{"Hosts.example."}},
		{name: "hidden", call: func() (any, error) { return r.LookupHost(ctx, "hidden.test.") }, err: "no such host"},
		{name: "localhost TXT", call: func() (any, error) { return r.LookupTXT(ctx, "localhost.") }, err: "no such host"},
		{name: "below localhost", call: func() (any, error) { return r.LookupNetIP(ctx, "ip6", "any.thing.localhost.") }, want: addrs("::1")},
		{name: "no such name", call: func() (any, error) { return r.LookupTXT(ctx, "none.example.") }, err: "no such host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.call()
			switch {
			case tt.err != "":
				dnsErr, ok := errors.AsType[*net.DNSError](err)
				if !ok || !strings.Contains(dnsErr.Err, tt.err) || !dnsErr.IsNotFound {
					t.Errorf("error %#v, want a DNSError with %q, not found", err, tt.err)
				}
			case err != nil || !reflect.DeepEqual(got, tt.want):
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	for _, q := range f.asked() {
		if strings.Contains(q, "localhost") || strings.Contains(q, "A hosts.") || strings.Contains(q, "hidden") {
			t.Errorf("asked a server: %s", q)
		}
	}
}

// TestResolverMany has a name with more addresses than are of use, for each of which the
// stack would make a socket.
func TestResolverMany(t *testing.T) {
	testenv.NoLeaks(t)
	records, _ := many(2 * maxAddrs)
	f := newFake(t, eitherNetwork(truncated, func(q *query) { q.reply(records...) }))
	sources := 0
	c := newClient(t, Config{Timeout: testenv.Timeout, Source: func(netip.Addr) (netip.Addr, bool) {
		sources++
		return netip.Addr{}, false
	}}, f)
	got, err := resolverOf(c).LookupNetIP(t.Context(), "ip4", "a.example.")
	if err != nil || len(got) != maxAddrs || sources != maxAddrs {
		t.Errorf("got %d addresses with %d sources, %v, want %d", len(got), sources, err, maxAddrs)
	}
}

// TestResolverErrors checks what package net makes of the errors.
func TestResolverErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		servers []handler
		cancel  time.Duration
		err     string
		temp    bool
		expire  bool
	}{
		{name: "no servers", err: "the stack has no DNS servers (set Config.DNS, or call SetDNS)"},
		{name: "SERVFAIL", servers: []handler{rcode(dnsmessage.RCodeServerFailure)},
			err: "server misbehaving (asked 10.0.0.1:53)", temp: true},
		{name: "silence", servers: []handler{silent}, err: "i/o timeout (asked 10.0.0.1:53)", temp: true, expire: true},
		{name: "canceled", servers: []handler{silent}, cancel: time.Second, err: "operation was canceled"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var fakes []*fake
			for _, h := range tt.servers {
				fakes = append(fakes, newPipeFake("10.0.0.1:53", h))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.cancel != 0 {
				time.AfterFunc(tt.cancel, cancel)
			}
			_, err := resolverOf(newPipeClient(t, Config{}, fakes...)).LookupTXT(ctx, "a.example.")
			dnsErr, ok := errors.AsType[*net.DNSError](err)
			if !ok || dnsErr.Err != tt.err || dnsErr.IsNotFound || dnsErr.IsTimeout != tt.expire || dnsErr.IsTemporary != tt.temp {
				t.Errorf("error %#v, want %q, temporary %v, timeout %v", err, tt.err, tt.temp, tt.expire)
			}
			if canceled := errors.Is(err, context.Canceled); canceled != (tt.cancel != 0) {
				t.Errorf("error %v, wraps Canceled %v", err, canceled)
			}
		})
	}
}

// TestResolverEnds has a lookup end with the client: what was found out until then may not be all.
func TestResolverEnds(t *testing.T) {
	testenv.NoLeaks(t)
	var ended atomic.Bool
	c := newClient(t, Config{}, newFake(t, func(q *query) {
		ended.Store(true)
		rcode(dnsmessage.RCodeNameError)(q)
	}))
	r := NewResolver(func() (*Client, error) {
		if ended.Load() {
			return nil, net.ErrClosed
		}
		return c, nil
	})
	_, err := r.LookupNetIP(t.Context(), "ip", "a.example.")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || e.IsNotFound || !strings.Contains(e.Err, net.ErrClosed.Error()) {
		t.Errorf("got %#v", err)
	}
}

// TestResolverLossy loses some of the queries in every way. The name exists, so it is found,
// or that is unknown.
func TestResolverLossy(t *testing.T) {
	z := zone{"a.example.": {"A 10.0.0.1", "AAAA fd00::1"}}
	for network, want := range map[string]string{"ip": "10.0.0.1 fd00::1", "ip4": "10.0.0.1", "ip6": "fd00::1"} {
		for lost := range 1 << 6 {
			bubble(t, fmt.Sprintf("%s/%06b", network, lost), func(t *testing.T) {
				var queries, losses atomic.Int32
				r := resolverOf(newPipeClient(t, Config{}, newPipeFake("10.0.0.1:53", func(q *query) {
					if n := queries.Add(1) - 1; lost>>n&1 != 0 {
						losses.Add(1)
						return
					}
					z.serve(q)
				})))
				got, err := r.LookupNetIP(t.Context(), network, "a.example.")
				slices.SortFunc(got, netip.Addr.Compare)
				e, _ := errors.AsType[*net.DNSError](err)
				switch {
				case losses.Load() == 0 && (err != nil || !slices.Equal(got, addrs(want))):
					t.Errorf("got %v, %v, want %s", got, err, want)
				case err != nil && (e == nil || e.IsNotFound || !e.IsTemporary), err == nil && len(got) == 0:
					t.Errorf("%d queries of %d lost: got %v, %#v", losses.Load(), queries.Load(), got, err)
				}
			})
		}
	}
}

// TestResolverShares has two users look up a name, one of which gives up. They and their
// questions share one lookup, which goes on for the other.
func TestResolverShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := zone{"a.example.": {"A 10.0.0.1", "AAAA fd00::1"}}
		f := newPipeFake("10.0.0.1:53", func(q *query) {
			time.Sleep(time.Second)
			z.serve(q)
		})
		r := resolverOf(newPipeClient(t, Config{}, f))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := r.LookupHost(ctx, "a.example.")
			ended <- err
		}()
		time.Sleep(time.Second / 4)
		time.AfterFunc(time.Second/4, cancel)
		go func() {
			_, err := r.LookupHost(t.Context(), "a.example.")
			ended <- err
		}()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the first lookup: %v", err)
		}
		if err := <-ended; err != nil || len(f.asked()) != 2 {
			t.Errorf("the second lookup: %v, queries %q", err, f.asked())
		}
		// A shorter deadline is not that of others.
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		go func() {
			_, err := r.LookupHost(short, "a.example.")
			ended <- err
		}()
		synctest.Wait()
		if _, err := r.LookupHost(t.Context(), "a.example."); err != nil {
			t.Errorf("beside a short lookup: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the short lookup: %v", err)
		}
	})
}

// TestResolverOneByOne asks for A and AAAA records one after the other, as package net does
// with the option single-request of the host's resolv.conf, of a server that is silent about AAAA.
func TestResolverOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := zone{"a.example.": {"A 10.0.0.1"}}
		c := newPipeClient(t, Config{}, newPipeFake("10.0.0.1:53", eitherType(z.serve, silent)))
		shared := new(lookups)
		ask := func(typ dnsmessage.Type) (int, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			q := dnsmessage.Question{Name: dnsmessage.MustNewName("a.example."), Type: typ, Class: dnsmessage.ClassINET}
			records, code, err := c.answer(ctx, q, shared)
			if code != dnsmessage.RCodeSuccess {
				err = errors.Join(err, errors.New(code.String()))
			}
			return len(records), err
		}
		if n, err := ask(dnsmessage.TypeA); err != nil || n != 1 {
			t.Errorf("A: %d records, %v, want one", n, err)
		}
		if n, err := ask(dnsmessage.TypeAAAA); err != nil || n != 0 {
			t.Errorf("AAAA after A: %d records, %v, want none", n, err)
		}
		if n, err := ask(dnsmessage.TypeAAAA); err == nil {
			t.Errorf("AAAA alone: %d records, want an error", n)
		}
		time.Sleep(sharedAfter)
		synctest.Wait()
		if len(shared.running) != 0 {
			t.Errorf("%d lookups are left", len(shared.running))
		}
	})
}

// TestResolverOneFamily looks for IPv4 addresses beside a lookup of both families. The server is
// silent about them, which is no reason to leave them out.
func TestResolverOneFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := zone{"a.example.": {"AAAA fd00::1"}}
		r := resolverOf(newPipeClient(t, Config{}, newPipeFake("10.0.0.1:53", eitherType(silent, z.serve))))
		both := make(chan error)
		go func() {
			_, err := r.LookupNetIP(t.Context(), "ip", "a.example.")
			both <- err
		}()
		synctest.Wait()
		_, err := r.LookupNetIP(t.Context(), "ip4", "a.example.")
		if e, ok := errors.AsType[*net.DNSError](err); !ok || e.IsNotFound || !e.IsTemporary {
			t.Errorf("IPv4: %#v, want that it is unknown", err)
		}
		if err := <-both; err != nil {
			t.Error(err)
		}
	})
}

// TestHostDomains has questions of package net on a host with a search list.
func TestHostDomains(t *testing.T) {
	testenv.NoLeaks(t)
	hostDomains = domainList{now: []string{"host.example.", "lan."}}
	defer func() { hostDomains = domainList{} }()
	z := zone{
		"www.lab.lan.":           {"A 10.0.0.1", "TXT lab"},
		"host.example.":          {"TXT the domain itself"},
		"www.example.":           {"A 10.0.0.3", "TXT example"},
		"v4.lab.lan.":            {"A 10.0.0.4"},
		"v4.":                    {"AAAA fd00::4"},
		"1.0.0.10.in-addr.arpa.": {"PTR www.lab.lan."},
		"a.b.lab.lan.":           {"TXT deep", "MX 1 www.lab.lan."},
		"six.lab.lan.":           {"AAAA fd00::6"},
		"failing.lab.lan.":       {"AAAA fd00::6"},
	}
	f := newFake(t, func(q *query) {
		if q.Name.String() == "failing.lab.lan." && q.Type == dnsmessage.TypeA || strings.HasPrefix(q.Name.String(), "broken.") {
			rcode(dnsmessage.RCodeRefused)(q)
		} else {
			z.serve(q)
		}
	})
	c := newClient(t, Config{Search: []string{"lab.lan"}, Timeout: testenv.Timeout, Hosts: map[string][]netip.Addr{"db.host.example": addrs("10.0.0.5")}}, f)
	const none, failure = "no such name", "failure"
	tests := []struct{ question, want, asked string }{
		{"A www.host.example.", none, ""},
		{"A WWW.Host.Example.", none, ""},
		{"TXT www.host.example.", none, ""},
		{"MX a.b.lan.", none, ""},
		{"TXT other.lan.", none, ""},
		{"TXT host.example.", "the domain itself", "TXT host.example."},
		{"A db.host.example.", "10.0.0.5", ""},
		{"AAAA db.host.example.", "", ""},
		{"TXT db.host.example.", none, ""},
		// The stack has these domains.
		{"A www.lab.lan.", "10.0.0.1", "A www.lab.lan., AAAA www.lab.lan."},
		{"TXT www.lab.lan.", "lab", "TXT www.lab.lan."},
		// The stack's search list.
		{"A www.", "CNAME www.lab.lan., 10.0.0.1", "A www.lab.lan., AAAA www.lab.lan."},
		{"CNAME www.", "CNAME www.lab.lan.", "A www.lab.lan., AAAA www.lab.lan., CNAME www.lab.lan."},
		{"TXT www.", "CNAME www.lab.lan., lab", "TXT www.lab.lan."},
		{"TXT a.b.", "CNAME a.b.lab.lan., deep", "TXT a.b., TXT a.b.lab.lan."},
		{"TXT www.example.", "example", "TXT www.example."},
		{"TXT none.example.", none, "TXT none.example., TXT none.example.lab.lan."},
		{"PTR 1.0.0.10.in-addr.arpa.", "www.lab.lan.", "PTR 1.0.0.10.in-addr.arpa."},
		{"PTR 2.0.0.10.in-addr.arpa.", none, "PTR 2.0.0.10.in-addr.arpa."},
		// Both families are of the same name.
		{"AAAA v4.", "CNAME v4.lab.lan.", "A v4.lab.lan., AAAA v4.lab.lan."},
		// An address of one family counts, whatever happens to the other, for those who
		// ask for it.
		{"AAAA failing.", "CNAME failing.lab.lan., fd00::6", "A failing.lab.lan., AAAA failing.lab.lan."},
		{"A failing.", failure, "A failing.lab.lan., AAAA failing.lab.lan."},
		{"MX broken.example.", failure, "MX broken.example., MX broken.example.lab.lan."},
		{"SOA host.example.", "NotImplemented", ""},
	}
	for _, tt := range tests {
		t.Run(tt.question, func(t *testing.T) {
			before := len(f.queries())
			typ, name, _ := strings.Cut(tt.question, " ")
			q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: types[typ], Class: dnsmessage.ClassINET}
			records, code, err := c.answer(t.Context(), q, new(lookups))
			var got []string
			for _, r := range records {
				got = append(got, text(r))
			}
			switch e, ok := errors.AsType[askError](err); {
			case ok && e.Temporary():
				got = []string{failure}
			case err != nil:
				t.Error(err)
			case code == dnsmessage.RCodeNameError:
				got = append(got, none)
			case code != 0:
				got = append(got, strings.TrimPrefix(code.String(), "RCode"))
			}
			if got := strings.Join(got, ", "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var asked []string
			for _, q := range f.queries()[before:] {
				asked = append(asked, strings.TrimSuffix(strings.TrimPrefix(q.String(), "udp "), " plain"))
			}
			slices.Sort(asked)
			if got := strings.Join(slices.Compact(asked), ", "); got != tt.asked {
				t.Errorf("asked %q, want %q", got, tt.asked)
			}
		})
	}
	t.Run("both families of failing.lab.lan.", func(t *testing.T) {
		got, err := resolverOf(c).LookupNetIP(t.Context(), "ip", "failing.lab.lan.")
		check(t, got, err, "fd00::6", "")
	})
	t.Run("no servers", func(t *testing.T) {
		c := testenv.Must(New(Config{}, refuseDial(t)))(t)
		_, err := resolverOf(c).LookupMX(t.Context(), "www.host.example")
		if err == nil || !strings.Contains(err.Error(), "no DNS servers") {
			t.Errorf("error %v, want that there are no servers", err)
		}
	})
	t.Run("changes", func(t *testing.T) {
		// The list before the last change counts too: a lookup may have begun with it.
		l := domainList{now: []string{"old."}}
		for range 3 {
			if got := l.get(); !slices.Contains(got, "old.") {
				t.Errorf("got %q, want the old domain too", got)
			}
		}
	})
}

// TestTooLarge has an answer that does not fit into a message when its names are not
// compressed, as those of SRV records must not be.
func TestTooLarge(t *testing.T) {
	name := dnsmessage.MustNewName(strings.Repeat(strings.Repeat("x", 60)+".", 4))
	q := dnsmessage.Question{Name: name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET}
	msg := packed(dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Questions: []dnsmessage.Question{q}})
	const n = 3000
	for range n {
		//                owner       type   class  TTL         length priority, weight, port, target
		msg = append(msg, 0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 8, 0, 1, 0, 1, 0, 80, 0xc0, 12)
	}
	binary.BigEndian.PutUint16(msg[6:], n)
	c := testenv.Must(New(Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}},
		func(_ context.Context, network, _ string) (net.Conn, error) {
			return &cannedConn{stream: network == "tcp", reply: msg}, nil
		}))(t)
	if _, srvs, err := c.LookupSRV(t.Context(), "", "", name.String()); err != nil || len(srvs) != n {
		t.Errorf("got %d servers, %v, want %d", len(srvs), err, n)
	}
	_, _, err := resolverOf(c).LookupSRV(t.Context(), "", "", name.String())
	if e, ok := err.(*net.DNSError); !ok || e.Err != "server misbehaving" || e.IsNotFound || !e.IsTemporary {
		t.Errorf("error %#v, want that the server misbehaves", err)
	}
}

// types are the types of records by their names.
var types = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME, "MX": dnsmessage.TypeMX, "NS": dnsmessage.TypeNS,
	"PTR": dnsmessage.TypePTR, "SOA": dnsmessage.TypeSOA, "SRV": dnsmessage.TypeSRV, "TXT": dnsmessage.TypeTXT,
}

// text returns the contents of a record.
func text(r dnsmessage.Resource) string {
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.CNAMEResource:
		return "CNAME " + b.CNAME.String()
	case *dnsmessage.PTRResource:
		return b.PTR.String()
	case *dnsmessage.TXTResource:
		return strings.Join(b.TXT, "")
	}
	return r.GoString()
}

// TestServerConn uses the connection in ways that package net does not.
func TestServerConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", silent)
		dial := resolverOf(newPipeClient(t, Config{}, f)).Dial
		q := dnsmessage.Question{Name: dnsmessage.MustNewName("localhost."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
		known := testenv.Must(pack(7, q, true))(t)
		q.Name = dnsmessage.MustNewName("a.example.")
		unknown, err := pack(8, q, true)
		testenv.Check(t, err)
		open := func() net.Conn { return testenv.Must(dial(t.Context(), "udp", "192.0.2.1:53"))(t) }

		// Written in pieces, several at once, read in pieces.
		c := open()
		for _, b := range slices.Concat(Frame(known), Frame(known)) {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			msg, err := ReadFrame(c)
			testenv.Check(t, err)
			var m dnsmessage.Message
			if err := m.Unpack(msg); err != nil || m.ID != 7 || len(m.Answers) != 1 {
				t.Errorf("got %v, %v, want an answer with id 7", m.GoString(), err)
			}
		}
		if n, err := c.Read(make([]byte, 10)); err == nil {
			t.Errorf("read %d bytes without a query, want an error", n)
		}
		c.Close()

		// A deadline.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		c = testenv.Must(dial(ctx, "udp", "192.0.2.1:53"))(t)
		c.Write(Frame(unknown))
		if _, err := ReadFrame(c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want a timeout", err)
		}
		c.Close()

		// Close while a Read waits, and twice.
		c = open()
		c.Write(Frame(unknown))
		time.AfterFunc(time.Second, func() { c.Close() })
		if _, err := ReadFrame(c); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v, want net.ErrClosed", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write(Frame(known)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v, want net.ErrClosed", err)
		}

		// Nonsense.
		for _, msg := range [][]byte{{}, {1}, known[:11], known[:14]} {
			c = open()
			c.Write(Frame(msg))
			if n, err := c.Read(make([]byte, 10)); err == nil {
				t.Errorf("%x: read %d bytes, want an error", msg, n)
			}
			c.Close()
		}
		if asked := f.asked(); len(asked) == 0 {
			t.Error("the server was not asked")
		}
	})
}
