package dns

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/hex"
	"maps"
	"net"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

// TestPack compares a query with its bytes.
func TestPack(t *testing.T) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}
	const header, question = "1234 0100 0001 0000 0000 ", "0000 0161 07 6578616d706c65 00 001c 0001"
	const opt = "0001 0161 07 6578616d706c65 00 001c 0001  00 0029 04d0 00000000 0000"
	for _, tt := range []struct {
		edns bool
		want string
	}{{false, header + question}, {true, header + opt}} {
		got, err := pack(0x1234, q, tt.edns)
		want := unhex(t, tt.want)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("EDNS %v: got %x, %v, want %x", tt.edns, got, err, want)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	return testenv.Must(hex.DecodeString(strings.Join(strings.Fields(s), "")))(t)
}

//go:embed testdata/dnsmasq/*.hex
var dnsmasq embed.FS

// captured returns the messages of dnsmasq in testdata, by file name.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	files := testenv.Must(dnsmasq.ReadDir("testdata/dnsmasq"))(t)
	msgs := make(map[string][]byte)
	for _, f := range files {
		text := testenv.Must(dnsmasq.ReadFile(path.Join("testdata/dnsmasq", f.Name())))(t)
		msgs[strings.TrimSuffix(f.Name(), ".hex")] = unhex(t, string(text))
	}
	return msgs
}

// TestCaptured parses messages of dnsmasq; see testdata/dnsmasq/README.
func TestCaptured(t *testing.T) {
	tests := map[string]struct {
		rcode     dnsmessage.RCode
		truncated bool
		chain     []string
		addrs     string
	}{
		"a":         {chain: []string{"both.example."}, addrs: "10.1.2.3"},
		"aaaa":      {chain: []string{"both.example."}, addrs: "fd00::3"},
		"cname":     {chain: []string{"alias.example.", "both.example."}, addrs: "10.1.2.3"},
		"nodata":    {chain: []string{"v4.example."}},
		"nxdomain":  {rcode: dnsmessage.RCodeNameError, chain: []string{"none.example."}},
		"refused":   {rcode: dnsmessage.RCodeRefused, chain: []string{"elsewhere.test."}},
		"truncated": {truncated: true, chain: []string{"many.example."}},
	}
	msgs := captured(t)
	if got, want := slices.Sorted(maps.Keys(msgs)), slices.Sorted(maps.Keys(tests)); !slices.Equal(got, want) {
		t.Errorf("captured %v, want %v", got, want)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := testenv.Must(parseOwn(msgs[name]))(t)
			var m dnsmessage.Message
			testenv.Check(t, m.Unpack(msgs[name]))
			chain, err := r.follow([]string{m.Questions[0].Name.String()})
			if err != nil || !slices.Equal(chain, tt.chain) {
				t.Errorf("chain %v, %v, want %v", chain, err, tt.chain)
			}
			if got := addrsOf(r.recordsOf(tt.chain[len(tt.chain)-1])); r.rcode != tt.rcode || r.truncated != tt.truncated || !slices.Equal(got, addrs(tt.addrs)) {
				t.Errorf("got %v, %v, truncated %v, want %v, %v, %v", got, r.rcode, r.truncated, tt.addrs, tt.rcode, tt.truncated)
			}
		})
	}
}

// parseOwn parses a message as the reply to its own id and question.
func parseOwn(msg []byte) (reply, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return reply{}, err
	}
	q, err := p.Question()
	if err != nil {
		return reply{}, err
	}
	return parse(msg, h.ID, q)
}

// FuzzParse parses any bytes as a reply. A valid one, packed and parsed again, is the same.
func FuzzParse(f *testing.F) {
	for _, msg := range captured(f) {
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, err := parseOwn(msg)
		if err != nil {
			return
		}
		if r, err := parse(msg, ^id(msg), dnsmessage.Question{}); err == nil {
			t.Errorf("accepted with another id: %+v", r)
		}
		var m dnsmessage.Message
		if err := m.Unpack(msg); err != nil {
			return // for example a malformed SOA record, which is skipped
		}
		if len(m.Questions) != 1 {
			return // FORMERR without a question
		}
		again, err := m.Pack()
		if err != nil {
			return // for example a TXT record without text
		}
		r2, err := parseOwn(again)
		if err != nil {
			t.Fatalf("%x, written again as %x: %v", msg, again, err)
		}
		if !reflect.DeepEqual(r, r2) {
			t.Fatalf("got %+v, and %+v from the same written again", r, r2)
		}
		name := m.Questions[0].Name.String()
		chain, err := r.follow([]string{name})
		if err != nil {
			return
		}
		if len(chain) > maxChain || len(slices.Compact(slices.Sorted(slices.Values(each(chain, fold))))) != len(chain) {
			t.Errorf("chain %q is too long or has a loop", chain)
		}
		for _, link := range chain {
			if _, err := dnsmessage.NewName(link); err != nil {
				t.Errorf("%q cannot be asked for: %v", link, err)
			}
		}
		for _, a := range addrsOf(r.recordsOf(chain[len(chain)-1])) {
			if a.Is4() != (m.Questions[0].Type == dnsmessage.TypeA) || a.Is4In6() || !a.IsValid() {
				t.Errorf("%v as a record of type %v", a, m.Questions[0].Type)
			}
		}
	})
}

func id(msg []byte) uint16 { return uint16(msg[0])<<8 | uint16(msg[1]) }

// FuzzAnswer passes any bytes to the server side of a resolver.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"localhost.", "1.0.0.127.in-addr.arpa.", "db.example.", "."} {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeTXT} {
			msg := testenv.Must(pack(1, dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}, true))(f)
			f.Add(msg)
		}
	}
	c, err := New(Config{}, refuseDial(f))
	testenv.Check(f, err)
	f.Fuzz(func(t *testing.T, query []byte) {
		msg, err := answerQuery(t.Context(), query, c.responder(new(lookups)))
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(msg); err != nil || m.ID != id(query) || !m.Response || len(m.Questions) != 1 {
			t.Errorf("answer %x: %v, %v", msg, m.GoString(), err)
		}
	})
}

// A cannedConn answers each query with the same message.
type cannedConn struct {
	net.Conn
	stream bool
	reply  []byte
	unread bytes.Buffer
}

func (c *cannedConn) Write(query []byte) (int, error) {
	reply := slices.Clone(c.reply)
	if c.stream {
		copy(reply, query[2:4])
		reply = Frame(reply)
	} else {
		copy(reply, query[:2])
	}
	c.unread.Write(reply)
	return len(query), nil
}
func (c *cannedConn) Read(b []byte) (int, error) { return c.unread.Read(b) }
func (c *cannedConn) Close() error               { return nil }

// FuzzLookup has a server that answers with any bytes. The names that are found are valid,
// and package net understands what its resolver is answered.
func FuzzLookup(f *testing.F) {
	for _, msg := range captured(f) {
		f.Add(msg)
	}
	for _, r := range []string{"TXT a b", "MX 10 b.example.", "NS b.example.", "SRV 1 2 3 b.example.", "PTR b.example.", "CNAME b.example.", "MX 1 not-.valid."} {
		rec := record("1.0.0.10.in-addr.arpa.", r)
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{Response: true, RecursionAvailable: true},
			Questions: []dnsmessage.Question{{Name: rec.Header.Name, Type: rec.Header.Type, Class: dnsmessage.ClassINET}},
			Answers:   []dnsmessage.Resource{rec},
		}
		f.Add(packed(m))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var p dnsmessage.Parser
		if _, err := p.Start(msg); err != nil {
			return
		}
		q, err := p.Question()
		if err != nil {
			return
		}
		cfg := Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}, Attempts: 1, Cache: 1}
		c, err := New(cfg, func(_ context.Context, network, _ string) (net.Conn, error) {
			return &cannedConn{stream: network == "tcp", reply: msg}, nil
		})
		testenv.Check(t, err)
		name, ctx := absolute(q.Name.String()), t.Context()
		var names []string
		switch q.Type {
		case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME:
			if found, err := c.LookupCNAME(ctx, name); err == nil {
				names = append(names, found)
			}
		case dnsmessage.TypePTR:
			names = found(c.LookupAddr(ctx, "10.0.0.1")) // the seed with its question
		case dnsmessage.TypeMX:
			mxs := found(c.LookupMX(ctx, name))
			if !slices.IsSortedFunc(mxs, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) }) {
				t.Errorf("not sorted: %v", mxs)
			}
			for _, mx := range mxs {
				if _, err := netip.ParseAddr(strings.TrimSuffix(mx.Host, ".")); err != nil {
					names = append(names, mx.Host)
				}
			}
		case dnsmessage.TypeNS:
			names = each(found(c.LookupNS(ctx, name)), func(ns *net.NS) string { return ns.Host })
		case dnsmessage.TypeSRV:
			cname, srvs, _ := c.LookupSRV(ctx, "", "", name)
			if !slices.IsSortedFunc(srvs, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) }) {
				t.Errorf("not sorted: %v", srvs)
			}
			names = each(srvs, func(s *net.SRV) string { return s.Target })
			if len(srvs) > 0 {
				names = append(names, cname)
			}
		case dnsmessage.TypeTXT:
			c.LookupTXT(ctx, name)
		}
		for _, n := range names {
			if !isDomain(n) {
				t.Errorf("%q is no valid name", n)
			}
		}
		query, err := pack(7, q, true)
		if err != nil {
			return
		}
		answer, err := answerQuery(ctx, query, c.responder(new(lookups)))
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || len(answer) > maxMessage || m.ID != 7 || m.Questions[0] != q {
			t.Errorf("answer %x: %v, %v", answer, m.GoString(), err)
		}
	})
}

// found returns the results of a lookup, those beside an error too.
func found[T any](list []T, _ error) []T { return list }

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name, domain string
		want         bool
	}{
		{"localhost", "localhost", true}, {"A.LOCALHOST.", "localhost", true}, {"notlocalhost", "localhost", false},
		{"localhost.example", "localhost", false}, {"a.b.", "b.", true}, {"a.b.", ".", true}, {".", ".", true},
	} {
		if got := isBelow(tt.name, tt.domain); got != tt.want {
			t.Errorf("isBelow(%q, %q) = %v", tt.name, tt.domain, got)
		}
	}
	for addr, want := range map[string]string{
		"10.1.2.255":    "255.2.1.10.in-addr.arpa.",
		"2001:db8::a1f": "f.1.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
	} {
		if got := reverseName(addrs(addr)[0]); got != want {
			t.Errorf("reverseName(%s) = %s, want %s", addr, got, want)
		}
	}
	// Other bytes than ASCII letters do not change.
	if got := fold("A\xc3\x84\xffZ."); got != "a\xc3\x84\xffz." {
		t.Errorf("fold = %q", got)
	}
}

// FuzzName checks that valid names, and the candidates for them, fit into a message.
func FuzzName(f *testing.F) {
	for _, name := range []string{"a", "a.b.", "10.0.0.1", "a..b", "-a", strings.Repeat("a.", 126) + "a", "x_y"} {
		f.Add(name, "example.org")
	}
	f.Fuzz(func(t *testing.T, name, domain string) {
		c, err := New(Config{Search: []string{domain}, Hosts: map[string][]netip.Addr{name: {netip.IPv6Unspecified()}}}, refuseDial(t))
		if err != nil {
			return
		}
		if _, err := c.LookupNetIP(t.Context(), "ip6", name); err != nil {
			t.Errorf("%q is a host and not found: %v", name, err)
		}
		for _, candidate := range c.candidates(name) {
			if _, err := dnsmessage.NewName(candidate); err != nil || !strings.HasSuffix(candidate, ".") {
				t.Errorf("%q is looked up as %q: %v", name, candidate, err)
			}
		}
		if names, err := c.LookupAddr(t.Context(), "::"); err != nil || absolute(names[0]) != absolute(name) {
			t.Errorf("%q has an address, whose names are %q, %v", name, names, err)
		}
	})
}
