package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

var zoneA = zone{"a.example.": {"A 10.0.0.1"}}

// TestPortClosed has a server that is not there.
func TestPortClosed(t *testing.T) {
	testenv.NoLeaks(t)
	gone, good := newFake(t, silent), newFake(t, zoneA.serve)
	gone.stop()
	wantAddrs(t, newClient(t, Config{Timeout: testenv.Timeout}, gone, good), "ip4", "a.example", "10.0.0.1", "")
	wantAddrs(t, newClient(t, Config{Timeout: testenv.Timeout}, gone), "ip4", "a.example", "", "connection refused")
}

// TestSpoof sends forged packets before the answer.
func TestSpoof(t *testing.T) {
	evil, good := record("a.example.", "A 10.6.6.6"), record("a.example.", "A 10.0.0.1")
	change := func(f func(m *dnsmessage.Message)) handler {
		return func(q *query) {
			m := q.message(evil)
			f(&m)
			q.send(m)
		}
	}
	tests := []struct {
		name  string
		spoof handler
	}{
		{name: "id", spoof: change(func(m *dnsmessage.Message) { m.ID++ })},
		{name: "not a response", spoof: change(func(m *dnsmessage.Message) { m.Response = false })},
		{name: "opcode", spoof: change(func(m *dnsmessage.Message) { m.OpCode = 5 })},
		{name: "question name", spoof: change(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("b.example.") })},
		{name: "question type", spoof: change(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeTXT })},
		{name: "question class", spoof: change(func(m *dnsmessage.Message) { m.Questions[0].Class++ })},
		{name: "two questions", spoof: change(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) })},
		{name: "empty packet", spoof: func(q *query) { q.sendBytes(nil) }},
		{name: "short header", spoof: func(q *query) { q.sendBytes(packed(q.message(evil))[:11]) }},
		{name: "noise", spoof: func(q *query) { q.sendBytes([]byte(strings.Repeat("\xff", 600))) }},
		{name: "another address", spoof: func(q *query) {
			other, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(q.from))
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			other.Write(packed(q.message(evil)))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			f := newFake(t, func(q *query) {
				tt.spoof(q)
				q.reply(good)
			})
			wantAddrs(t, newClient(t, Config{Timeout: testenv.Timeout}, f), "ip4", "a.example", "10.0.0.1", "")
			if n := len(f.asked()); n != 1 {
				t.Errorf("%d queries, want one: waiting should go on", n)
			}
		})
	}
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
	truncated := func(q *query) { q.truncate(records[:3]...) }
	tests := []struct {
		name     string
		udp, tcp handler
		want     []netip.Addr
		queries  []string
	}{
		{name: "truncated", udp: truncated, tcp: func(q *query) { q.reply(records[:100]...) }, want: all[:100]},
		{name: "cut within a record", udp: func(q *query) {
			m := q.message(records[:3]...)
			m.Truncated = true
			b := packed(m)
			q.sendBytes(b[:len(b)-2])
		}, tcp: zoneA.serve, want: addrs("10.0.0.1")},
		{name: "larger than asked for", udp: func(q *query) { q.reply(records...) },
			tcp: func(q *query) { q.reply(records[:99]...) }, want: all[:99]},
		{name: "written in pieces", udp: truncated, tcp: func(q *query) {
			for _, b := range Frame(packed(q.message(records[:20]...))) {
				q.raw([]byte{b})
			}
		}, want: all[:20]},
		{name: "truncated over TCP too", udp: truncated, tcp: truncated, want: all[:3]},
		{name: "bounded", udp: truncated, tcp: func(q *query) { q.reply(records...) }, want: all[:maxAddrs]},
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
			f := newFake(t, eitherNetwork(tt.udp, tt.tcp))
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
		return func(q *query) { q.reply(records...) }
	}
	// piecewise answers with one alias at a time, as a server that is no resolver.
	piecewise := func(records []dnsmessage.Resource) handler {
		return func(q *query) {
			for _, r := range records {
				if r.Header.Name == q.Name {
					q.reply(r)
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
			q.reply(r)
		}, err: "no such host", queries: 1},
		{name: "out of the answer", h: piecewise(chainOf(1)), want: "10.0.0.1", queries: 2},
		{name: "often out of the answer", h: piecewise(chainOf(maxChain - 1)), want: "10.0.0.1", queries: maxChain},
		{name: "too often", h: piecewise(chainOf(maxChain)), err: "server misbehaving", queries: maxChain},
		{name: "loop out of the answer", h: piecewise(loop), err: "server misbehaving", queries: 2},
		{name: "to a name that does not exist", h: piecewise(loop[:1]), err: "no such host", queries: 2},
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
			wantAddrs(t, newClient(t, Config{Timeout: testenv.Timeout}, f), "ip4", "a.example", tt.want, tt.err)
			if asked := f.asked(); len(asked) != tt.queries {
				t.Errorf("asked %q, want %d queries", asked, tt.queries)
			}
		})
	}
}
