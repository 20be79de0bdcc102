package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"golang.org/x/net/dns/dnsmessage"
)

// withTTL serves a zone whose records have the TTL, and whose denials an SOA record.
func withTTL(z zone, ttl, soaTTL, minimum uint32) handler {
	return func(q *query) {
		send := *q
		send.raw = func(msg []byte) {
			var m dnsmessage.Message
			if err := m.Unpack(msg); err != nil {
				panic(err)
			}
			for i := range m.Answers {
				m.Answers[i].Header.TTL = ttl
			}
			if soaTTL > 0 && (m.RCode != 0 || len(m.Answers) == 0) {
				soa := record("example.", "SOA ns.example.")
				soa.Header.TTL = soaTTL
				soa.Body.(*dnsmessage.SOAResource).MinTTL = minimum
				m.Authorities = append(m.Authorities, soa)
			}
			q.send(m)
		}
		z.serve(&send)
	}
}

// TestCache sees for how long answers are kept.
func TestCache(t *testing.T) {
	z := zone{"a.example.": {"A 10.0.0.1", "TXT a"}, "alias.example.": {"CNAME a.example."}}
	const day, hour = 24 * 60 * 60, 60 * 60
	tests := []struct {
		name          string
		call          string
		ttl, soa, min uint32
		want          time.Duration
	}{
		{name: "TTL", call: "txt a.example.", ttl: 30, want: 30 * time.Second},
		{name: "none", call: "txt a.example.", ttl: 0},
		{name: "at most a day", call: "txt a.example.", ttl: 9 * day, want: day * time.Second},
		{name: "highest bit", call: "txt a.example.", ttl: 1 << 31},
		{name: "alias", call: "txt alias.example.", ttl: 30, want: 30 * time.Second},
		{name: "no such name", call: "txt b.example.", soa: 60, min: 40, want: 40 * time.Second},
		{name: "no such name, TTL", call: "txt b.example.", soa: 40, min: 60, want: 40 * time.Second},
		{name: "no such name, without SOA", call: "txt b.example."},
		{name: "no such name, at most 3 hours", call: "txt b.example.", soa: day, min: day, want: 3 * hour * time.Second},
		{name: "no such record", call: "mx a.example.", soa: 60, min: 40, want: 40 * time.Second},
		{name: "no such record, without SOA", call: "mx a.example."},
		{name: "addresses", call: "ip4 a.example.", ttl: 30, want: 30 * time.Second},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			f := newPipeFake("10.0.0.1:53", withTTL(z, tt.ttl, tt.soa, tt.min))
			c := newPipeClient(t, Config{Cache: 10}, f)
			first, firstErr := dnstest.Call(t.Context(), c, tt.call)
			asked := len(f.queries())
			again := func() int {
				t.Helper()
				// Names have no case.
				got, err := dnstest.Call(t.Context(), c, strings.Replace(tt.call, "example", "EXAMPLE", 1))
				if got != first || (err == nil) != (firstErr == nil) {
					t.Errorf("got %q, %v, at first %q, %v", got, err, first, firstErr)
				}
				return len(f.queries()) - asked
			}
			if tt.want > 0 {
				time.Sleep(tt.want - time.Nanosecond)
				if n := again(); n > 0 {
					t.Errorf("asked %d times before the time was over", n)
				}
				time.Sleep(time.Nanosecond)
			}
			if n := again(); n == 0 {
				t.Error("not asked again")
			}
		})
	}
	bubble(t, "failures", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", rcode(dnsmessage.RCodeServerFailure))
		c := newPipeClient(t, Config{Cache: 10}, f)
		wantAddrs(t, c, "ip4", "a.example.", "", "misbehaving")
		f.handle = z.serve
		wantAddrs(t, c, "ip4", "a.example.", "10.0.0.1", "")
	})
	bubble(t, "off", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", withTTL(z, 30, 0, 0))
		c := newPipeClient(t, Config{}, f)
		for range 2 {
			wantAddrs(t, c, "ip4", "a.example.", "10.0.0.1", "")
		}
		if n := len(f.queries()); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
	})
	bubble(t, "full", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", func(q *query) { q.reply(record(q.Name.String(), "A 10.0.0.1")) })
		c := newPipeClient(t, Config{Cache: 8}, f)
		for i := range 100 {
			wantAddrs(t, c, "ip4", fmt.Sprintf("h%d.example.", i), "10.0.0.1", "")
			wantAddrs(t, c, "ip4", fmt.Sprintf("h%d.example.", i), "10.0.0.1", "")
			if n := len(c.cache.entries); n != min(i+1, 8) {
				t.Fatalf("%d entries after %d names", n, i+1)
			}
		}
		if n := len(f.queries()); n != 100 {
			t.Errorf("asked %d times, want 100", n)
		}
	})
	bubble(t, "large", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", eitherNetwork(truncated, func(q *query) {
			q.reply(slices.Repeat([]dnsmessage.Resource{record("a.example.", "TXT "+strings.Repeat("x", 200))}, 20)...)
		}))
		c := newPipeClient(t, Config{Cache: 8}, f)
		for range 2 {
			if _, err := c.LookupTXT(t.Context(), "a.example."); err != nil {
				t.Error(err)
			}
		}
		if n := len(f.queries()); n != 4 {
			t.Errorf("asked %d times, want 4", n)
		}
	})
}
