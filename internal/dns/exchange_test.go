package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

var zoneA = zone{"a.example.": {"A 10.0.0.1"}}

// TestServers has servers that are no help before one that is.
func TestServers(t *testing.T) {
	tests := []struct {
		name  string
		first handler
		err   string // if there is no other server
		temp  bool
	}{
		{name: "SERVFAIL", first: rcode(dnsmessage.RCodeServerFailure), err: "server misbehaving", temp: true},
		{name: "REFUSED", first: rcode(dnsmessage.RCodeRefused), err: "server misbehaving"},
		{name: "NOTIMP", first: rcode(dnsmessage.RCodeNotImplemented), err: "server misbehaving"},
		{name: "FORMERR", first: rcode(dnsmessage.RCodeFormatError), err: "server misbehaving"},
		{name: "unknown code", first: rcode(11), err: "server misbehaving"},
		{name: "extended code", first: func(q *query) {
			m := q.message()
			opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
			opt.Header.SetEDNS0(1232, 16, false)
			m.Additionals = append(m.Additionals, opt)
			q.send(m)
		}, err: "server misbehaving"},
		{name: "referral", first: func(q *query) {
			m := q.message()
			m.RecursionAvailable = false
			m.Authorities = append(m.Authorities, record(".", "NS a.root."))
			q.send(m)
		}, err: "lame referral"},
		{name: "garbage over TCP", first: func(q *query) {
			m := q.message()
			m.Truncated = true
			if q.network == "udp" {
				q.send(m)
			} else {
				q.sendBytes([]byte("garbage"))
			}
		}, err: "cannot unmarshal DNS message"},
		{name: "TCP with another id", first: func(q *query) {
			m := q.message(record("a.example.", "A 10.6.6.6"))
			if q.network == "udp" {
				m.Truncated = true
			} else {
				m.ID++
			}
			q.send(m)
		}, err: "cannot unmarshal DNS message"},
		{name: "TCP that ends", first: func(q *query) {
			m := q.message()
			m.Truncated = true
			if q.network == "udp" {
				q.send(m)
			} else {
				q.raw([]byte{1}) // and the connection is closed, below
			}
		}, err: "server misbehaving"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			bad, good := newFake(t, tt.first), newFake(t, zoneA.serve)
			bad.hangUp = true
			c := newClient(t, Config{Timeout: testenv.Timeout}, bad, good)
			got, err := c.LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, "10.0.0.1", "")
			if n := len(good.asked()); n != 1 {
				t.Errorf("the second server was asked %d times, want once", n)
			}

			c = newClient(t, Config{Timeout: testenv.Timeout, Attempts: 3}, bad)
			before := len(bad.asked())
			got, err = c.LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, "", "lookup a.example on "+bad.addr.String()+": "+tt.err)
			var dnsErr *net.DNSError
			if !errors.As(err, &dnsErr) || dnsErr.IsNotFound || dnsErr.IsTimeout || dnsErr.IsTemporary != tt.temp {
				t.Errorf("error %#v, want temporary %v and no other flag", dnsErr, tt.temp)
			}
			if n := len(bad.asked()) - before; n < 3 {
				t.Errorf("the only server was asked %d times, want 3 attempts", n)
			}
		})
	}
	t.Run("port closed", func(t *testing.T) {
		testenv.NoLeaks(t)
		gone, good := newFake(t, silent), newFake(t, zoneA.serve)
		gone.stop()
		got, err := newClient(t, Config{Timeout: testenv.Timeout}, gone, good).LookupNetIP(t.Context(), "ip4", "a.example")
		check(t, got, err, "10.0.0.1", "")
		got, err = newClient(t, Config{Timeout: testenv.Timeout}, gone).LookupNetIP(t.Context(), "ip4", "a.example")
		check(t, got, err, "", "connection refused")
	})
	t.Run("final", func(t *testing.T) {
		testenv.NoLeaks(t)
		for _, code := range []dnsmessage.RCode{dnsmessage.RCodeNameError, dnsmessage.RCodeSuccess} {
			other := newFake(t, zoneA.serve)
			got, err := newClient(t, Config{}, newFake(t, rcode(code)), other).LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, "", "no such host")
			if asked := other.asked(); len(asked) > 0 {
				t.Errorf("%v: another server was asked too: %v", code, asked)
			}
		}
	})
}

// TestSpoof sends what is not the answer before the answer.
func TestSpoof(t *testing.T) {
	evil := record("a.example.", "A 10.6.6.6")
	tests := []struct {
		name  string
		spoof func(q *query, m *dnsmessage.Message) []byte // nil: m as it was changed
	}{
		{name: "id", spoof: func(q *query, m *dnsmessage.Message) []byte { m.ID++; return nil }},
		{name: "not a response", spoof: func(q *query, m *dnsmessage.Message) []byte { m.Response = false; return nil }},
		{name: "opcode", spoof: func(q *query, m *dnsmessage.Message) []byte { m.OpCode = 5; return nil }},
		{name: "question name", spoof: func(q *query, m *dnsmessage.Message) []byte {
			m.Questions[0].Name = dnsmessage.MustNewName("b.example.")
			return nil
		}},
		{name: "question type", spoof: func(q *query, m *dnsmessage.Message) []byte { m.Questions[0].Type = dnsmessage.TypeTXT; return nil }},
		{name: "question class", spoof: func(q *query, m *dnsmessage.Message) []byte { m.Questions[0].Class++; return nil }},
		{name: "two questions", spoof: func(q *query, m *dnsmessage.Message) []byte {
			m.Questions = append(m.Questions, m.Questions[0])
			return nil
		}},
		{name: "empty packet", spoof: func(q *query, m *dnsmessage.Message) []byte { return []byte{} }},
		{name: "short header", spoof: func(q *query, m *dnsmessage.Message) []byte { return packed(*m)[:11] }},
		{name: "noise", spoof: func(q *query, m *dnsmessage.Message) []byte { return []byte(strings.Repeat("\xff", 600)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, func(q *query) {
				m := q.message(evil)
				bad := tt.spoof(q, &m)
				if bad == nil {
					bad = packed(m)
				}
				q.sendBytes(bad)
				q.send(q.message(record("a.example.", "A 10.0.0.1")))
			})
			c := newClient(t, Config{Timeout: testenv.Timeout}, f)
			got, err := c.LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, "10.0.0.1", "")
			if n := len(f.asked()); n != 1 {
				t.Errorf("%d queries, want one: waiting should go on", n)
			}
		})
	}
	t.Run("another address", func(t *testing.T) {
		testenv.NoLeaks(t)
		f := newFake(t, func(q *query) {
			other, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(q.from))
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			other.Write(packed(q.message(evil)))
			q.send(q.message(record("a.example.", "A 10.0.0.1")))
		})
		got, err := newClient(t, Config{Timeout: testenv.Timeout}, f).LookupNetIP(t.Context(), "ip4", "a.example")
		check(t, got, err, "10.0.0.1", "")
	})
	t.Run("only spoofs", func(t *testing.T) {
		testenv.NoLeaks(t)
		f := newFake(t, func(q *query) { m := q.message(evil); m.ID++; q.send(m) })
		got, err := newClient(t, Config{Timeout: 50 * time.Millisecond}, f).LookupNetIP(t.Context(), "ip4", "a.example")
		check(t, got, err, "", "i/o timeout")
	})
}

// many returns n different A records of a.example.
func many(n int) (records []dnsmessage.Resource, addrs []netip.Addr) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		records = append(records, record("a.example.", "A "+a.String()))
		addrs = append(addrs, a)
	}
	return records, addrs
}

// TestTCP has answers that do not fit into a packet.
func TestTCP(t *testing.T) {
	records, all := many(1000)
	truncated := func(q *query) {
		m := q.message(records[:3]...)
		m.Truncated = true
		q.send(m)
	}
	tests := []struct {
		name     string
		udp, tcp handler
		want     []netip.Addr
		queries  []string
	}{
		{name: "truncated", udp: truncated, tcp: func(q *query) { q.send(q.message(records[:100]...)) }, want: all[:100]},
		{name: "cut within a record", udp: func(q *query) {
			m := q.message(records[:3]...)
			m.Truncated = true
			b := packed(m)
			q.sendBytes(b[:len(b)-2])
		}, tcp: zoneA.serve, want: addrs("10.0.0.1")},
		{name: "larger than asked for", udp: func(q *query) { q.send(q.message(records...)) },
			tcp: func(q *query) { q.send(q.message(records[:99]...)) }, want: all[:99]},
		{name: "written in pieces", udp: truncated, tcp: func(q *query) {
			for _, b := range frame(packed(q.message(records[:20]...))) {
				q.raw([]byte{b})
			}
		}, want: all[:20]},
		{name: "truncated over TCP too", udp: truncated, tcp: truncated, want: all[:3]},
		{name: "bounded", udp: truncated, tcp: func(q *query) { q.send(q.message(records...)) }, want: all[:maxAddrs]},
		{name: "largest packet", udp: func(q *query) {
			m := q.message(record("a.example.", "A 10.0.0.1"))
			for len(packed(m)) < maxPacket-100 {
				m.Answers = append(m.Answers, record("a.example.", "TXT "+strings.Repeat("x", 50)))
			}
			m.Answers = append(m.Answers, record("a.example.", "TXT "))
			pad := maxPacket - len(packed(m))
			m.Answers[len(m.Answers)-1] = record("a.example.", "TXT "+strings.Repeat("x", pad))
			q.send(m)
		}, tcp: silent, want: addrs("10.0.0.1"), queries: []string{"udp A a.example."}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, func(q *query) {
				if q.network == "udp" {
					tt.udp(q)
				} else {
					tt.tcp(q)
				}
			})
			got, err := newClient(t, Config{Timeout: testenv.Timeout}, f).LookupNetIP(t.Context(), "ip4", "a.example")
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
			want := tt.queries
			if want == nil {
				want = []string{"tcp A a.example.", "udp A a.example."}
			}
			if got := f.asked(); !slices.Equal(got, want) {
				t.Errorf("asked %q, want %q", got, want)
			}
		})
	}
}

// TestEDNS has servers of the time before EDNS.
func TestEDNS(t *testing.T) {
	tests := []struct {
		name   string
		refuse handler
	}{
		{name: "FORMERR", refuse: rcode(dnsmessage.RCodeFormatError)},
		{name: "NOTIMP", refuse: rcode(dnsmessage.RCodeNotImplemented)},
		{name: "FORMERR without question", refuse: func(q *query) {
			m := q.message()
			m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil
			q.send(m)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, func(q *query) {
				switch {
				case q.edns != 0:
					tt.refuse(q)
				case q.network == "udp":
					m := q.message()
					m.Truncated = true
					q.send(m)
				default:
					zoneA.serve(q)
				}
			})
			got, err := newClient(t, Config{Timeout: testenv.Timeout, Attempts: 1}, f).LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, "10.0.0.1", "")
			want := []string{"tcp A a.example. plain", "udp A a.example.", "udp A a.example. plain"}
			if got := f.asked(); !slices.Equal(got, want) {
				t.Errorf("asked %q, want %q", got, want)
			}
		})
	}
}

// chainOf is a chain of n aliases from a.example. to an address.
func chainOf(n int) []dnsmessage.Resource {
	var records []dnsmessage.Resource
	name := "a.example."
	for i := range n {
		next := fmt.Sprintf("c%d.example.", i)
		records = append(records, record(name, "CNAME "+next))
		name = next
	}
	return append(records, record(name, "A 10.0.0.1"))
}

func TestChain(t *testing.T) {
	reversed := slices.Clone(chainOf(4))
	slices.Reverse(reversed)
	answer := func(records ...dnsmessage.Resource) handler {
		return func(q *query) { q.send(q.message(records...)) }
	}
	// piecewise answers with one alias at a time, as a server that is no
	// resolver.
	piecewise := func(records []dnsmessage.Resource) handler {
		return func(q *query) {
			for _, r := range records {
				if r.Header.Name == q.Name {
					q.send(q.message(r))
					return
				}
			}
			rcode(dnsmessage.RCodeNameError)(q)
		}
	}
	loop := []dnsmessage.Resource{record("a.example.", "CNAME b.example."), record("b.example.", "CNAME a.example.")}
	tests := []struct {
		name      string
		h         handler
		want, err string
		queries   int
	}{
		{name: "in the answer", h: answer(chainOf(4)...), want: "10.0.0.1", queries: 1},
		{name: "in any order", h: answer(reversed...), want: "10.0.0.1", queries: 1},
		{name: "in any case", h: answer(record("A.Example.", "CNAME B.example."), record("b.EXAMPLE.", "A 10.0.0.1")),
			want: "10.0.0.1", queries: 1},
		{name: "longest", h: answer(chainOf(maxChain - 1)...), want: "10.0.0.1", queries: 1},
		{name: "too long", h: answer(chainOf(maxChain)...), err: "server misbehaving", queries: 1},
		{name: "loop", h: answer(loop...), err: "server misbehaving", queries: 1},
		{name: "to itself", h: answer(record("a.example.", "CNAME a.example.")), err: "server misbehaving", queries: 1},
		{name: "unrelated owners", h: answer(record("evil.example.", "A 10.6.6.6"), record("a.example.", "A 10.0.0.1"),
			record("example.", "A 10.6.6.6")), want: "10.0.0.1", queries: 1},
		{name: "only unrelated owners", h: answer(record("evil.example.", "A 10.6.6.6")), err: "no such host", queries: 1},
		{name: "other type", h: answer(record("a.example.", "AAAA fd00::1")), err: "no such host", queries: 1},
		{name: "other class", h: func(q *query) {
			r := record("a.example.", "A 10.6.6.6")
			r.Header.Class = dnsmessage.ClassCHAOS
			q.send(q.message(r))
		}, err: "no such host", queries: 1},
		{name: "out of the answer", h: piecewise(chainOf(1)), want: "10.0.0.1", queries: 2},
		{name: "often out of the answer", h: piecewise(chainOf(maxChain - 1)), want: "10.0.0.1", queries: maxChain},
		{name: "too often", h: piecewise(chainOf(maxChain)), err: "server misbehaving", queries: maxChain},
		{name: "loop out of the answer", h: piecewise(loop), err: "server misbehaving", queries: 2},
		{name: "to a name that is not", h: piecewise(loop[:1]), err: "no such host", queries: 2},
		{name: "not found at the end", h: func(q *query) {
			m := q.message(record("a.example.", "CNAME b.example."))
			m.RCode = dnsmessage.RCodeNameError
			q.send(m)
		}, err: "no such host", queries: 1},
		{name: "denied at the end", h: func(q *query) {
			m := q.message(record("a.example.", "CNAME b.example."))
			m.Authorities = append(m.Authorities, record("EXAMPLE.", "SOA ns.example."))
			q.send(m)
		}, err: "no such host", queries: 1},
		{name: "to a longest name", h: piecewise([]dnsmessage.Resource{
			record("a.example.", "CNAME "+strings.Repeat(strings.Repeat("x", 62)+".", 4)),
			record(strings.Repeat(strings.Repeat("x", 62)+".", 4), "A 10.0.0.1"),
		}), want: "10.0.0.1", queries: 2},
		{name: "to the root", h: piecewise([]dnsmessage.Resource{record("a.example.", "CNAME ."), record(".", "A 10.0.0.1")}),
			want: "10.0.0.1", queries: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, tt.h)
			got, err := newClient(t, Config{Timeout: testenv.Timeout}, f).LookupNetIP(t.Context(), "ip4", "a.example")
			check(t, got, err, tt.want, tt.err)
			if asked := f.asked(); len(asked) != tt.queries {
				t.Errorf("asked %q, want %d queries", asked, tt.queries)
			}
		})
	}
}
