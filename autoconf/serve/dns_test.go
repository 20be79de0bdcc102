package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

// newNames returns a server without sockets that knows some names and has a client.
func newNames(t testing.TB, upstream ...netip.AddrPort) *dnsServer {
	cfg := testenv.Must(Config{
		Domain: "lab.example",
		Hosts: map[string][]netip.Addr{
			"www": testenv.Addrs("10.0.0.80", "fd00::80"), "a.b.lab.example": testenv.Addrs("10.0.0.81"), "mail.example.org": testenv.Addrs("192.0.2.25"),
			"big": slices.Repeat(testenv.Addrs("10.0.0.82"), 100),
		},
		DNS: DNS{Upstream: upstream},
	}.check())(t)
	_, err := cfg.DHCP4.network(network)
	testenv.Check(t, err)
	table := newTable(cfg, network[0], network)
	for i, name := range []string{"host.lab.example", "x.y.lab.example", ""} {
		c := &client{key: fmt.Sprint(i), mac: mac(i), name: name}
		if _, ok := table.lease(c, netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + i)}), false, time.Now()); !ok {
			t.Fatal("no lease")
		}
	}
	own := append(slices.Clone(network), testenv.Prefixes("fd00::1/64")...)
	return testenv.Must(newDNS(cfg, table, nil, own, noSockets{}))(t)
}

// noSockets makes none.
type noSockets struct{ sockets }

func (noSockets) ListenPacket(_, _ string) (net.PacketConn, error) { return noConn{}, nil }
func (noSockets) Listen(_, _ string) (net.Listener, error)         { return noConn{}, nil }

type noConn struct {
	net.PacketConn
	net.Listener
}

func (noConn) Close() error   { return nil }
func (noConn) Addr() net.Addr { return nil }

// query returns a query, with EDNS if size is not 0.
func query(t testing.TB, name string, typ dnsmessage.Type, size int) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		var h dnsmessage.ResourceHeader
		testenv.Check(t, h.SetEDNS0(size, 0, false))
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	return testenv.Must(m.Pack())(t)
}

// text returns a response: "AA NoError 10.0.0.80".
func text(t *testing.T, r []byte) string {
	var m dnsmessage.Message
	testenv.Check(t, m.Unpack(r))
	if m.ID != 77 || !m.Response {
		t.Errorf("the header is %+v", m.Header)
	}
	s := strings.TrimPrefix(m.RCode.String(), "RCode")
	if m.Authoritative {
		s = "AA " + s
	}
	if m.Truncated {
		s = "TC " + s
	}
	for _, a := range m.Answers {
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			s += " " + netip.AddrFrom4(b.A).String()
		case *dnsmessage.AAAAResource:
			s += " " + netip.AddrFrom16(b.AAAA).String()
		case *dnsmessage.PTRResource:
			s += " " + b.PTR.String()
		}
	}
	return s
}

// TestAnswers answers questions.
func TestAnswers(t *testing.T) {
	const a, aaaa, ptr, mx, all = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeMX, dnsmessage.TypeALL
	alone, forwards := newNames(t), newNames(t, netip.MustParseAddrPort("192.0.2.53:53"))
	for _, tt := range []struct {
		name string
		typ  dnsmessage.Type
		want string // of both; what one of them forwards has a *
	}{
		{"www.lab.example.", a, "AA Success 10.0.0.80"},
		{"WWW.Lab.Example.", aaaa, "AA Success fd00::80"},
		{"www.lab.example.", all, "AA Success 10.0.0.80 fd00::80"},
		{"www.lab.example.", mx, "AA Success"},
		{"host.lab.example.", a, "AA Success 10.0.0.50"},
		{"host.lab.example.", aaaa, "AA Success"},
		{"nobody.lab.example.", a, "AA NameError"},
		{"lab.example.", a, "AA Success"},
		{"b.lab.example.", a, "AA Success"}, // a name is below it
		{"y.lab.example.", a, "AA Success"},
		{"mail.example.org.", a, "AA Success 192.0.2.25"},
		{"50.0.0.10.in-addr.arpa.", ptr, "AA Success host.lab.example."},
		{"80.0.0.10.in-addr.arpa.", ptr, "AA Success www.lab.example."},
		{"52.0.0.10.in-addr.arpa.", ptr, "AA NameError"}, // a client without a name
		{"25.2.0.192.in-addr.arpa.", ptr, "AA Success mail.example.org."},
		{"26.2.0.192.in-addr.arpa.", ptr, "NameError*"},
		{"050.0.0.10.in-addr.arpa.", ptr, "NameError*"},
		{"0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "AA Success www.lab.example."},
		{"1.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "AA NameError"},
		{"g.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "NameError*"},
		{"xlab.example.", a, "NameError*"},
		{"example.org.", mx, "NameError*"},
		{"example.org.", all, "NameError"},
		{"host.", a, "NameError"}, // no domain
		{"org.", mx, "NameError*"},
		{".", dnsmessage.TypeNS, "NameError*"},
	} {
		want, other := strings.CutSuffix(tt.want, "*")
		r, forward := alone.answer(query(t, tt.name, tt.typ, 0), minUDP)
		if forward {
			t.Fatalf("%s %v is forwarded to nobody", tt.name, tt.typ)
		}
		if got := text(t, r); got != want {
			t.Errorf("%s %v: got %s, want %s", tt.name, tt.typ, got, want)
		}
		if r, forward := forwards.answer(query(t, tt.name, tt.typ, 0), minUDP); forward != other {
			t.Errorf("%s %v: forwarded: %v, got %x", tt.name, tt.typ, forward, r)
		}
	}
	// Sizes, and what is malformed.
	for _, tt := range []struct {
		size, limit int
		want        string
	}{{0, minUDP, "TC AA Success"}, {100, minUDP, "TC AA Success"}, {4096, minUDP, "TC AA Success"}, {0, maxTCP, "AA Success 10.0.0.82"}} {
		r, _ := alone.answer(query(t, "big.lab.example.", a, tt.size), tt.limit)
		if got := text(t, r); !strings.HasPrefix(got, tt.want) || len(r) > tt.limit && tt.limit == minUDP {
			t.Errorf("%d bytes by EDNS: got %s", tt.size, got)
		}
	}
	good := query(t, "www.lab.example.", a, 1232)
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		want   string // empty: no response
	}{
		{"a response", func(b []byte) []byte { b[2] |= 0x80; return b }, ""},
		{"half a header", func(b []byte) []byte { return b[:11] }, ""},
		{"an update", func(b []byte) []byte { b[2] |= 5 << 3; return b }, "NotImplemented"},
		{"no question", func(b []byte) []byte { b[5] = 0; return b }, "FormatError"},
		{"two questions", func(b []byte) []byte { b[5] = 2; return b }, "FormatError"},
		{"half a question", func(b []byte) []byte { return b[:20] }, "FormatError"},
		{"half an option", func(b []byte) []byte { return b[:len(b)-1] }, "FormatError"},
		{"a later EDNS", func(b []byte) []byte { b[len(b)-5] = 1; return b }, "Success"}, // and BADVERS
		{"Chaos", func(b []byte) []byte { b[len(b)-12] = 3; return b }, "Refused"},
	} {
		r, forward := forwards.answer(tt.change(slices.Clone(good)), minUDP)
		if got := ""; forward || (len(r) > 0) != (tt.want != "") {
			t.Errorf("%s: forwarded: %v, got %x", tt.name, forward, r)
		} else if r != nil {
			if got = text(t, r); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
			}
		}
	}
}

// TestForwardSize has a server that answers with more than the client takes over UDP: whoever
// invents a sender has little sent there.
func TestForwardSize(t *testing.T) {
	for _, tt := range []struct {
		edns, answers int
		want          string
	}{{0, 10, "Success" + strings.Repeat(" 192.0.2.1", 10)}, {0, 40, "TC Success"}, {1232, 40, "Success" + strings.Repeat(" 192.0.2.1", 40)}, {4096, 100, "TC Success"}} {
		d := newNames(t, netip.MustParseAddrPort("192.0.2.53:53"))
		d.dial = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				b := make([]byte, maxUDP)
				n, err := far.Read(b)
				var m dnsmessage.Message
				if err != nil || m.Unpack(b[:n]) != nil {
					t.Error("no query")
					return
				}
				m.Response = true
				for range tt.answers {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
					})
				}
				far.Write(testenv.Must(m.Pack())(t))
			}()
			return near, nil
		}
		r := d.forward(t.Context(), "udp", query(t, "www.example.com.", dnsmessage.TypeA, tt.edns))
		if got := text(t, r); got != tt.want || len(r) > max(tt.edns, minUDP) {
			t.Errorf("%d answers for %d bytes: got %s, %d bytes", tt.answers, tt.edns, got, len(r))
		}
	}
}

// A scarce socket has no descriptors for a while.
type scarce struct {
	noConn
	left   atomic.Int32 // errors
	closed chan struct{}
}

func (s *scarce) fail() error {
	if s.left.Add(-1) >= 0 {
		return syscall.EMFILE
	}
	<-s.closed
	return net.ErrClosed
}

func (s *scarce) Accept() (net.Conn, error)              { return nil, s.fail() }
func (s *scarce) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, s.fail() }
func (s *scarce) Close() error                           { close(s.closed); return nil }

// TestScarce has no descriptors for a while, and then for long.
func TestScarce(t *testing.T) {
	for errs, want := range map[int32]error{readErrors - 1: nil, readErrors: syscall.EMFILE} {
		synctest.Test(t, func(t *testing.T) {
			d := newNames(t)
			l, pc := &scarce{closed: make(chan struct{})}, &scarce{closed: make(chan struct{})}
			l.left.Store(errs)
			pc.left.Store(3)
			d.streams, d.packets = []net.Listener{l}, []net.PacketConn{pc}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			began := time.Now()
			if err := d.run(ctx); !errors.Is(err, want) {
				t.Errorf("after %d errors: %v, want %v", errs, err, want)
			}
			if took := time.Since(began); took < 40*time.Second || want == nil && took < 10*time.Minute {
				t.Errorf("it has ended after %v", took)
			}
		})
	}
}

// FuzzDNS has a server read queries. What it answers can be read, and fits.
func FuzzDNS(f *testing.F) {
	for _, name := range []string{"www.lab.example.", "big.lab.example.", "example.org.", "50.0.0.10.in-addr.arpa.", "."} {
		f.Add(query(f, name, dnsmessage.TypeALL, 4096))
		f.Add(query(f, name, dnsmessage.TypeA, 0))
	}
	d := newNames(f, netip.MustParseAddrPort("192.0.2.53:53"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, forward := d.answer(b, minUDP)
		if forward {
			if q, _, ok := parseQuery(b, minUDP); !ok || isResponse(b, q.header.ID, q) {
				t.Errorf("forwarded: %x", b)
			}
		}
		if r == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(r); err != nil || !m.Response || len(r) > maxUDP {
			t.Errorf("%x: got %x, %v", b, r, err)
		}
	})
}
