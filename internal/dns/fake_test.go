package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) {
	// Package net makes channels at its first lookups. Those of a synctest bubble would be
	// of no use to the next test.
	none := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	r := &net.Resolver{PreferGo: true, Dial: none}
	r.LookupTXT(context.Background(), "a.example.")
	r.LookupHost(context.Background(), "a.example.")
	testenv.Main(m)
}

// bubble runs a subtest with the clock of testing/synctest, which also fails it if a
// goroutine of a lookup does not end.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// takes fails the test unless it is want after start.
func takes(t *testing.T, want time.Duration, start time.Time) {
	t.Helper()
	if took := time.Since(start); took != want {
		t.Errorf("took %v, want %v", took, want)
	}
}

// A query is a query to a fake server, which it answers.
type query struct {
	network string
	from    netip.AddrPort
	header  dnsmessage.Header
	dnsmessage.Question
	edns int          // the size of packets that it allows; 0 without EDNS
	raw  func([]byte) // writes bytes: a packet, or a piece of the stream
}

// A handler answers queries, rightly or wrongly.
type handler func(q *query)

func (q *query) String() string {
	s := fmt.Sprintf("%s %s %s", q.network, strings.TrimPrefix(q.Type.String(), "Type"), q.Name)
	if q.edns == 0 {
		s += " plain"
	}
	return s
}

// message is the right answer with the records.
func (q *query) message(answers ...dnsmessage.Resource) dnsmessage.Message {
	return dnsmessage.Message{
		Header: dnsmessage.Header{
			ID:                 q.header.ID,
			Response:           true,
			RecursionDesired:   true,
			RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q.Question},
		Answers:   slices.Clone(answers), // Pack writes into them
	}
}

func (q *query) send(m dnsmessage.Message) { q.sendBytes(packed(m)) }

// reply sends the right answer with the records.
func (q *query) reply(answers ...dnsmessage.Resource) { q.send(q.message(answers...)) }

// truncate sends the beginning of an answer that is too large for UDP.
func (q *query) truncate(answers ...dnsmessage.Resource) {
	m := q.message(answers...)
	m.Truncated = true
	q.send(m)
}

func (q *query) sendBytes(msg []byte) {
	if q.network == "tcp" {
		msg = Frame(msg)
	}
	q.raw(msg)
}

func packed(m dnsmessage.Message) []byte {
	msg, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return msg
}

func silent(*query) {}

func truncated(q *query) { q.truncate() }

// eitherNetwork and eitherType answer queries over UDP and TCP, or for A and AAAA
// records, in different ways.
func eitherNetwork(udp, tcp handler) handler {
	return func(q *query) {
		if q.network == "udp" {
			udp(q)
		} else {
			tcp(q)
		}
	}
}

func eitherType(a, aaaa handler) handler {
	return func(q *query) {
		if q.Type == dnsmessage.TypeA {
			a(q)
		} else {
			aaaa(q)
		}
	}
}

// rcode answers with a code only.
func rcode(code dnsmessage.RCode) handler {
	return func(q *query) {
		m := q.message()
		m.RCode = code
		q.send(m)
	}
}

// A zone has records such as "A 10.0.0.1" by absolute name.
type zone map[string][]string

// serve answers from the zone, with the aliases that lead to the answer.
func (z zone) serve(q *query) {
	m := q.message()
	name := q.Name.String()
	records, ok := z[name]
	if !ok {
		records, ok = z[fold(name)]
	}
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for hops := 0; hops < 20; hops++ {
		next := ""
		for _, text := range records {
			r := record(name, text)
			if r.Header.Type == q.Type || r.Header.Type == dnsmessage.TypeCNAME {
				m.Answers = append(m.Answers, r)
			}
			if c, ok := r.Body.(*dnsmessage.CNAMEResource); ok {
				next = c.CNAME.String()
			}
		}
		name, records = next, z[next]
	}
	q.send(m)
}

// record makes a record from its owner and "TYPE data".
func record(owner, text string) dnsmessage.Resource {
	typ, data, _ := strings.Cut(text, " ")
	fields := strings.Fields(data)
	last := func() dnsmessage.Name { return dnsmessage.MustNewName(fields[len(fields)-1]) }
	number := func(i int) (n uint16) { fmt.Sscan(fields[i], &n); return n }
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner), Class: dnsmessage.ClassINET, TTL: 60}
	var body dnsmessage.ResourceBody
	switch typ {
	case "A":
		h.Type, body = dnsmessage.TypeA, &dnsmessage.AResource{A: netip.MustParseAddr(data).As4()}
	case "AAAA":
		h.Type, body = dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(data).As16()}
	case "CNAME":
		h.Type, body = dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: last()}
	case "NS":
		h.Type, body = dnsmessage.TypeNS, &dnsmessage.NSResource{NS: last()}
	case "SOA":
		h.Type, body = dnsmessage.TypeSOA, &dnsmessage.SOAResource{NS: last(), MBox: last()}
	case "PTR":
		h.Type, body = dnsmessage.TypePTR, &dnsmessage.PTRResource{PTR: last()}
	case "MX":
		h.Type, body = dnsmessage.TypeMX, &dnsmessage.MXResource{Pref: number(0), MX: last()}
	case "SRV":
		h.Type, body = dnsmessage.TypeSRV, &dnsmessage.SRVResource{Priority: number(0), Weight: number(1), Port: number(2), Target: last()}
	case "TXT":
		h.Type, body = dnsmessage.TypeTXT, &dnsmessage.TXTResource{TXT: []string{data}}
	default:
		panic("record of type " + typ)
	}
	return dnsmessage.Resource{Header: h, Body: body}
}

// A fake is a DNS server of this process.
type fake struct {
	addr   netip.AddrPort
	handle handler
	hangUp bool // end a stream after one answer
	// refuses is the network on which a fake of newPipeFake does not listen.
	refuses string
	stop    func()

	mu  sync.Mutex // guards log
	log []*query
}

// queries returns the queries so far.
func (f *fake) queries() []*query {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// asked returns the queries so far as text, sorted: those for A and AAAA race.
func (f *fake) asked() []string {
	var log []string
	for _, q := range f.queries() {
		log = append(log, q.String())
	}
	slices.Sort(log)
	return log
}

// serve parses a query and calls the handler.
func (f *fake) serve(network string, from netip.AddrPort, msg []byte, raw func([]byte)) {
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil || len(m.Questions) != 1 || !m.RecursionDesired {
		panic(fmt.Sprintf("bad query %x: %v", msg, err))
	}
	q := &query{network: network, from: from, header: m.Header, Question: m.Questions[0], raw: raw}
	for _, r := range m.Additionals {
		if r.Header.Type == dnsmessage.TypeOPT {
			q.edns = int(r.Header.Class)
		}
	}
	f.mu.Lock()
	f.log = append(f.log, q)
	f.mu.Unlock()
	f.handle(q)
}

func (f *fake) serveStream(conn net.Conn, from netip.AddrPort) {
	for {
		msg, err := ReadFrame(conn)
		if err != nil {
			return
		}
		// The client may be gone before the handler has written everything.
		f.serve("tcp", from, msg, func(b []byte) { conn.Write(b) })
		if f.hangUp {
			return
		}
	}
}

// newFake starts a server on UDP and TCP of one loopback port.
func newFake(t testing.TB, h handler) *fake {
	t.Helper()
	f := &fake{handle: h}
	var (
		udp net.PacketConn
		tcp net.Listener
		err error
	)
	for range 100 { // until a port is free for both
		if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			break
		}
		tcp.Close()
	}
	testenv.Check(t, err)
	f.addr = tcp.Addr().(*net.TCPAddr).AddrPort()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				f.serve("udp", from.(*net.UDPAddr).AddrPort(), slices.Clone(buf[:n]), func(b []byte) { udp.WriteTo(b, from) })
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { defer conn.Close(); f.serveStream(conn, conn.RemoteAddr().(*net.TCPAddr).AddrPort()) })
		}
	})
	f.stop = sync.OnceFunc(func() {
		udp.Close()
		tcp.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(f.stop)
	return f
}

// newPipeFake makes a server for tests in a bubble of testing/synctest, and for clients of
// newPipeClient.
func newPipeFake(addr string, h handler) *fake {
	return &fake{addr: netip.MustParseAddrPort(addr), handle: h}
}

func newPipeClient(t testing.TB, cfg Config, fakes ...*fake) *Client {
	t.Helper()
	return newClientOf(t, cfg, fakes, func(ctx context.Context, network string, f *fake) (net.Conn, error) {
		switch {
		case network != f.refuses:
		case network == "udp":
			return refusedConn{}, nil
		default:
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			if network == "tcp" {
				f.serveStream(server, f.addr)
				return
			}
			buf := make([]byte, 1<<16)
			for {
				n, err := server.Read(buf)
				if err != nil {
					return
				}
				f.serve("udp", f.addr, slices.Clone(buf[:n]), func(b []byte) { server.Write(b) })
			}
		}()
		return client, nil
	})
}

// A refusedConn is a UDP socket to a closed port.
type refusedConn struct{ net.Conn }

func (refusedConn) Write(b []byte) (int, error) { return len(b), nil }
func (refusedConn) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Net: "udp", Err: syscall.ECONNREFUSED}
}
func (refusedConn) Close() error { return nil }

// newClient returns a client of the servers.
func newClient(t testing.TB, cfg Config, fakes ...*fake) *Client {
	t.Helper()
	return newClientOf(t, cfg, fakes, func(ctx context.Context, network string, f *fake) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, f.addr.String())
	})
}

// newClientOf fails the test if anything but the servers is dialled.
func newClientOf(t testing.TB, cfg Config, fakes []*fake, dial func(context.Context, string, *fake) (net.Conn, error)) *Client {
	t.Helper()
	for _, f := range fakes {
		cfg.Servers = append(cfg.Servers, f.addr)
	}
	c, err := New(cfg, func(ctx context.Context, network, address string) (net.Conn, error) {
		for _, f := range fakes {
			if f.addr.String() == address && (network == "udp" || network == "tcp") {
				return dial(ctx, network, f)
			}
		}
		t.Errorf("dialled %s %s, which is not a server of the stack", network, address)
		return nil, errors.New("not a server")
	})
	testenv.Check(t, err)
	return c
}

// addrs parses addresses separated by blanks.
func addrs(list string) []netip.Addr {
	var as []netip.Addr
	for _, s := range strings.Fields(list) {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// wantAddrs looks up a host. It wants the addresses, or an error with the text, which it
// returns.
func wantAddrs(t testing.TB, c *Client, network, host, want, wantErr string) error {
	t.Helper()
	got, err := c.LookupNetIP(t.Context(), network, host)
	check(t, got, err, want, wantErr)
	return err
}

// check compares the result of a lookup with the addresses, or with a part of the error's
// text.
func check(t testing.TB, got []netip.Addr, err error, want, wantErr string) {
	t.Helper()
	switch {
	case wantErr != "":
		if err == nil || !strings.Contains(err.Error(), wantErr) || got != nil {
			t.Errorf("got %v, error %v, want one with %q", got, err, wantErr)
		}
	case err != nil || !slices.Equal(got, addrs(want)):
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
