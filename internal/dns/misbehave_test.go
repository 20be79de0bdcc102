package dns

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestMisbehaving has a server that misbehaves, alone and with a good one after it. It
// checks which of them answers, how long that takes, and the error.
func TestMisbehaving(t *testing.T) {
	const first, second = "10.0.0.1", "10.0.0.2"
	good := func(q *query) { q.reply(record("a.example.", "A "+first)) }
	// overTCP misbehaves over TCP, and sends its clients there.
	overTCP := func(h handler) handler { return eitherNetwork(truncated, h) }
	// withEDNS misbehaves for queries with EDNS. It answers others, over TCP.
	withEDNS := func(h handler) handler {
		return func(q *query) {
			if q.edns != 0 {
				h(q)
			} else {
				overTCP(good)(q)
			}
		}
	}
	// changed sends the good answer with a change.
	changed := func(change func(m *dnsmessage.Message)) handler {
		return func(q *query) {
			m := q.message(record("a.example.", "A "+first))
			change(&m)
			q.send(m)
		}
	}
	// mangled sends the bytes of a good answer with a change; record is the offset of its
	// first record.
	mangled := func(mangle func(b []byte, record int) []byte) handler {
		return func(q *query) {
			m := q.message(record("a.example.", "A "+first))
			q.sendBytes(mangle(packed(m), len(packed(q.message()))))
		}
	}
	cut := mangled(func(b []byte, _ int) []byte { return b[:len(b)-1] })
	headerOnly := func(code dnsmessage.RCode) handler {
		return changed(func(m *dnsmessage.Message) { m.RCode, m.Questions, m.Answers = code, nil, nil })
	}
	const (
		unmarshal   = "cannot unmarshal DNS message"
		misbehaving = "server misbehaving"
		lame        = "lame referral"
		refused     = "connection refused"
		timedOut    = "i/o timeout"
		notFound    = "no such host"
	)
	afterEDNS := []string{"tcp A a.example. plain", "udp A a.example.", "udp A a.example. plain"}
	tests := []struct {
		name      string
		h         handler
		refuses   string
		hangUp    bool
		want, err string // without another server
		final     bool   // and with one, which is not asked; else that answers
		slow      bool   // each try that fails takes its time
		temporary bool   // the error; errors of the network always are
		queries   []string
	}{
		{name: "silent", h: silent, err: timedOut, slow: true},
		{name: "ICMP refuses", refuses: "udp", err: refused},
		{name: "SERVFAIL", h: rcode(dnsmessage.RCodeServerFailure), err: misbehaving, temporary: true},
		{name: "SERVFAIL, header only", h: headerOnly(dnsmessage.RCodeServerFailure), err: misbehaving, temporary: true},
		{name: "REFUSED", h: rcode(dnsmessage.RCodeRefused), err: misbehaving},
		{name: "REFUSED, header only", h: headerOnly(dnsmessage.RCodeRefused), err: misbehaving},
		{name: "NOTIMP", h: rcode(dnsmessage.RCodeNotImplemented), err: misbehaving},
		{name: "FORMERR", h: rcode(dnsmessage.RCodeFormatError), err: misbehaving},
		{name: "unknown code", h: rcode(11), err: misbehaving},
		{name: "extended code", h: changed(func(m *dnsmessage.Message) {
			opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
			opt.Header.SetEDNS0(1232, 16, false)
			m.Additionals = append(m.Additionals, opt)
		}), err: misbehaving},
		{name: "referral", h: func(q *query) {
			m := q.message()
			m.RecursionAvailable = false
			m.Authorities = append(m.Authorities, record(".", "NS a.root."))
			q.send(m)
		}, err: lame},
		{name: "FORMERR on EDNS", h: withEDNS(rcode(dnsmessage.RCodeFormatError)), want: first, final: true, queries: afterEDNS},
		{name: "FORMERR on EDNS, header only", h: withEDNS(headerOnly(dnsmessage.RCodeFormatError)),
			want: first, final: true, queries: afterEDNS},
		{name: "NOTIMP on EDNS", h: withEDNS(rcode(dnsmessage.RCodeNotImplemented)), want: first, final: true, queries: afterEDNS},
		{name: "SERVFAIL on EDNS", h: withEDNS(rcode(dnsmessage.RCodeServerFailure)), want: first},
		{name: "drops EDNS", h: withEDNS(silent), want: first, slow: true},
		{name: "cut", h: cut, err: unmarshal},
		{name: "cut with EDNS", h: withEDNS(cut), want: first},
		{name: "cut in the question", h: mangled(func(b []byte, record int) []byte { return b[:record-1] }), err: unmarshal},
		{name: "cut in the additional section", h: func(q *query) {
			m := q.message(record("a.example.", "A "+first))
			m.Additionals = append(m.Additionals, record("b.example.", "A "+first))
			b := packed(m)
			q.sendBytes(b[:len(b)-1])
		}, err: unmarshal},
		{name: "cut before the records", h: mangled(func(b []byte, record int) []byte { return b[:record] }), err: unmarshal},
		{name: "wrong length of a record", h: mangled(func(b []byte, _ int) []byte {
			b[len(b)-5] = 3 // of four
			return b[:len(b)-1]
		}), err: unmarshal},
		{name: "compression loop", h: mangled(func(b []byte, at int) []byte {
			// The owner of the record becomes a pointer to itself.
			b[at], b[at+1] = 0xc0|byte(at>>8), byte(at)
			return b
		}), err: unmarshal},
		{name: "compression loop in the question", h: mangled(func(b []byte, _ int) []byte {
			b[12], b[13] = 0xc0, 12
			return b
		}), err: unmarshal},
		{name: "no question section", h: changed(func(m *dnsmessage.Message) { m.Questions = nil }), err: unmarshal},
		{name: "NXDOMAIN without question section", h: headerOnly(dnsmessage.RCodeNameError), err: unmarshal},
		{name: "truncated to the header", h: eitherNetwork(changed(func(m *dnsmessage.Message) {
			m.Truncated, m.Questions, m.Answers = true, nil, nil
		}), good), want: first, final: true},
		// Anybody may have sent these: the reply may follow.
		{name: "wrong id", h: changed(func(m *dnsmessage.Message) { m.ID++ }), err: timedOut, slow: true},
		{name: "wrong question", h: changed(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("b.example.") }),
			err: timedOut, slow: true},
		{name: "sends the query back", h: changed(func(m *dnsmessage.Message) { m.Response, m.Answers = false, nil }),
			err: timedOut, slow: true},
		{name: "less than a header", h: mangled(func(b []byte, _ int) []byte { return b[:11] }), err: timedOut, slow: true},

		{name: "TCP refuses", h: overTCP(nil), refuses: "tcp", err: refused},
		{name: "TCP closes", h: overTCP(silent), hangUp: true, err: misbehaving},
		{name: "TCP closes in the message", h: overTCP(func(q *query) { q.raw(Frame(packed(q.message()))[:9]) }), hangUp: true,
			err: misbehaving},
		{name: "TCP stalls", h: overTCP(silent), err: timedOut, slow: true},
		{name: "TCP length too large", h: overTCP(func(q *query) { q.raw(append([]byte{0xff, 0xff}, packed(q.message())...)) }),
			err: timedOut, slow: true},
		{name: "TCP length too small", h: overTCP(func(q *query) { q.raw(append([]byte{0, 20}, packed(q.message())...)) }),
			err: unmarshal},
		{name: "TCP length 0", h: overTCP(func(q *query) { q.raw([]byte{0, 0}) }), err: unmarshal},
		{name: "TCP with a wrong id", h: overTCP(changed(func(m *dnsmessage.Message) { m.ID++ })), err: unmarshal},
		{name: "TCP with garbage", h: overTCP(func(q *query) { q.sendBytes([]byte("garbage")) }), err: unmarshal},
		{name: "TCP without question section", h: overTCP(changed(func(m *dnsmessage.Message) { m.Questions = nil })),
			err: unmarshal},
		{name: "refuses TCP for what fits with EDNS", h: func(q *query) {
			if q.edns != 0 {
				good(q)
			} else {
				q.truncate()
			}
		}, refuses: "tcp", want: first, final: true},

		{name: "huge", h: func(q *query) {
			m := q.message(record("a.example.", "A "+first))
			for range 200 {
				m.Answers = append(m.Answers, record("a.example.", "TXT "+strings.Repeat("x", 250)))
			}
			q.send(m)
		}, want: first, final: true},
		// These are answers, which the next server would confirm.
		{name: "NXDOMAIN", h: rcode(dnsmessage.RCodeNameError), err: notFound, final: true},
		{name: "no data", h: rcode(dnsmessage.RCodeSuccess), err: notFound, final: true},
		{name: "another name", h: func(q *query) { q.reply(record("b.example.", "A "+first)) }, err: notFound, final: true},
		{name: "CNAME loop", h: func(q *query) {
			q.reply(record("a.example.", "CNAME b.example."), record("b.example.", "CNAME a.example."))
		}, err: misbehaving, final: true},
	}
	for _, tt := range tests {
		for _, both := range []bool{false, true} {
			name, want, wantErr, failures := tt.name+", alone", tt.want, tt.err, 1
			switch {
			case both && !tt.final:
				name, want, wantErr = tt.name+", two servers", second, ""
			case both:
				name = tt.name + ", two servers"
			case tt.err != "":
				failures = 2
			}
			if !tt.slow {
				failures = 0
			}
			bubble(t, name, func(t *testing.T) {
				bad := newPipeFake("10.0.0.1:53", tt.h)
				bad.refuses, bad.hangUp = tt.refuses, tt.hangUp
				other := newPipeFake("10.0.0.2:53", func(q *query) { q.reply(record("a.example.", "A "+second)) })
				fakes := []*fake{bad, other}
				if !both {
					fakes = fakes[:1]
				}
				c := newPipeClient(t, Config{}, fakes...)
				defer takes(t, time.Duration(failures)*3*time.Second, time.Now())
				err := wantAddrs(t, c, "ip4", "a.example", want, wantErr)
				synctest.Wait()
				asked := bad.asked()
				if !both && tt.queries != nil && !slices.Equal(asked, tt.queries) {
					t.Errorf("asked %q, want %q", asked, tt.queries)
				}
				if !tt.final && wantErr != "" && tt.refuses != "udp" && len(asked) < 2 {
					t.Errorf("the only server was asked %d times, want 2 attempts", len(asked))
				}
				if n := len(other.asked()); (n == 1) != (want == second) || n > 1 {
					t.Errorf("the other server was asked %d times", n)
				}
				dnsErr, ok := err.(*net.DNSError)
				temporary := tt.temporary || wantErr == refused || wantErr == timedOut
				if wantErr != "" && (!ok || dnsErr.IsNotFound != (wantErr == notFound) || dnsErr.IsTimeout != (wantErr == timedOut) ||
					dnsErr.IsTemporary != temporary || !strings.HasPrefix(err.Error(), "lookup a.example on 10.0.0.1:53: ")) {
					t.Errorf("error %#v, want temporary %v and the other flags as in %q", err, temporary, wantErr)
				}
			})
		}
	}
}

// TestEDNSDropped has a gateway that drops queries with EDNS. Once that is known, lookups do
// not wait for it, nor does the resolver of package net.
func TestEDNSDropped(t *testing.T) {
	dropped := func(q *query) {
		if q.edns == 0 {
			zone{"a.example.": {"A 10.0.0.1", "AAAA fd00::1", "TXT hello"}}.serve(q)
		}
	}
	lookup := func(t *testing.T, c *Client, want time.Duration) {
		t.Helper()
		defer takes(t, want, time.Now())
		wantAddrs(t, c, "ip", "a.example", "10.0.0.1 fd00::1", "")
	}
	bubble(t, "remembered", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", dropped)
		c := newPipeClient(t, Config{}, f)
		lookup(t, c, 3*time.Second)
		lookup(t, c, 0)
		synctest.Wait()
		// The gateway is replaced by one that knows nothing else.
		f.handle = func(q *query) {
			if q.edns != 0 {
				zone{"a.example.": {"A 10.0.0.1", "AAAA fd00::1"}}.serve(q)
			}
		}
		lookup(t, c, 3*time.Second)
		lookup(t, c, 0)
	})
	bubble(t, "one attempt", func(t *testing.T) {
		c := newPipeClient(t, Config{Attempts: 1}, newPipeFake("10.0.0.1:53", dropped))
		wantAddrs(t, c, "ip", "a.example", "", "i/o timeout")
		lookup(t, c, 0)
	})
	bubble(t, "cancelled", func(t *testing.T) {
		f := newPipeFake("10.0.0.1:53", silent)
		c := newPipeClient(t, Config{}, f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		got, err := c.LookupNetIP(ctx, "ip4", "a.example")
		check(t, got, err, "", "i/o timeout")
		synctest.Wait()
		f.handle = zoneA.serve
		wantAddrs(t, c, "ip4", "a.example", "10.0.0.1", "")
		for _, q := range f.queries() {
			if q.edns == 0 {
				t.Errorf("%v: the server had no time to fail", q)
			}
		}
	})
	bubble(t, "resolver of package net", func(t *testing.T) {
		c := newPipeClient(t, Config{}, newPipeFake("10.0.0.1:53", dropped))
		got, err := resolverOf(c).LookupTXT(t.Context(), "a.example.")
		if err != nil || len(got) != 1 || got[0] != "hello" {
			t.Errorf("got %q, %v, want hello", got, err)
		}
	})
}
