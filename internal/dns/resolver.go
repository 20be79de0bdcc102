package dns

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// NewResolver returns a resolver of package net whose questions are answered by the client
// that current returns, or fail with its error. It is safe for concurrent use, and has
// goroutines during lookups only.
//
// Package net turns a name into absolute ones with the host's resolv.conf, and asks for them
// one after the other. Each of its questions is a lookup of the client:
//
//   - A name below a domain of the host's search list does not exist, and nothing is sent.
//     It is looked up if Config.Search has the domain, or one below it that the name is
//     below too; addresses in Config.Hosts are found.
//   - Other names are looked up with Config.Search and Config.Ndots. Whether the name that
//     package net was given ended with a dot is not known.
//   - For addresses of one family it looks for both, as one name of the search list is to
//     answer for both. The questions for both, which package net asks at the same time, are
//     one lookup. A family that cannot be found out is then as one without addresses, if the
//     other has some.
//   - The servers are asked once, with Config.Timeout for each and the timeout of the host's
//     resolv.conf for all. Package net repeats a question that failed as often as that file
//     says, for each of its servers.
//
// StrictErrors has package net stop at a failure. Otherwise it would go on with the host's
// search list, and report that the name does not exist.
func NewResolver(current func() (*Client, error)) *net.Resolver {
	hostDomains.get()
	var shared lookups
	return &net.Resolver{
		PreferGo:     true,
		StrictErrors: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := current()
			if err != nil {
				return nil, err
			}
			return newServerConn(ctx, func(ctx context.Context, q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode, error) {
				records, code, err := c.responder(&shared)(ctx, q)
				if _, ended := current(); ended != nil {
					return nil, 0, ended // not all was found out, perhaps
				}
				return records, code, err
			}), nil
		},
	}
}

// A responder answers a question with records or a code, or fails.
type responder func(ctx context.Context, q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode, error)

// A serverConn pretends to be a connection to a server: Read answers the queries that were
// written, with the framing of TCP, so that nothing is ever truncated. It ends with its
// context, which has the deadline that package net sets.
type serverConn struct {
	respond responder
	ctx     context.Context
	cancel  context.CancelCauseFunc

	queries bytes.Buffer // written, but not answered
	replies bytes.Buffer // not read
}

var _ net.Conn = (*serverConn)(nil)

func newServerConn(ctx context.Context, respond responder) *serverConn {
	s := &serverConn{respond: respond}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

func (s *serverConn) Write(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.queries.Write(p)
}

func (s *serverConn) Read(p []byte) (int, error) {
	if s.replies.Len() == 0 {
		query, err := ReadFrame(&s.queries)
		if err != nil {
			return 0, err
		}
		msg, err := answerQuery(s.ctx, query, s.respond)
		if err != nil && errors.Is(context.Cause(s.ctx), net.ErrClosed) {
			err = net.ErrClosed
		}
		if err != nil {
			return 0, err
		}
		s.replies.Write(Frame(msg))
	}
	return s.replies.Read(p)
}

// Close makes a waiting Read return net.ErrClosed.
func (s *serverConn) Close() error {
	s.cancel(net.ErrClosed)
	return nil
}

func (s *serverConn) SetDeadline(time.Time) error      { return nil }
func (s *serverConn) SetReadDeadline(time.Time) error  { return nil }
func (s *serverConn) SetWriteDeadline(time.Time) error { return nil }
func (s *serverConn) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "dns", Name: "stack"} }
func (s *serverConn) RemoteAddr() net.Addr             { return s.LocalAddr() }

// answerQuery returns the message that answers a query.
func answerQuery(ctx context.Context, query []byte, respond responder) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	records, code, err := respond(ctx, q)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID:                 h.ID,
			Response:           true,
			RecursionDesired:   h.RecursionDesired,
			RecursionAvailable: true,
			RCode:              code,
		},
		Questions: []dnsmessage.Question{q},
		Answers:   records,
	}
	msg, err := m.Pack()
	if err == nil && len(msg) > maxMessage {
		// The server had compressed names that Pack does not compress.
		err = askError{dnsError(misbehaving("an answer that is too large"), "")}
	}
	return msg, err
}

// responder answers questions of package net, those for addresses from shared lookups.
func (c *Client) responder(shared *lookups) responder {
	return func(ctx context.Context, q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode, error) {
		return c.answer(ctx, q, shared)
	}
}

func (c *Client) answer(ctx context.Context, q dnsmessage.Question, shared *lookups) ([]dnsmessage.Resource, dnsmessage.RCode, error) {
	name := q.Name.String()
	once := *c
	once.attempts = 1
	var (
		a      answer
		failed *net.DNSError
	)
	switch q.Type {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		a, failed = shared.find(ctx, lookupKey{c, fold(name)}, q.Type, func(ctx context.Context) (answer, *net.DNSError) {
			return once.find(ctx, q.Type, name)
		})
		addrs := once.ordered(ofType(q.Type, a.addrs))
		a.records = each(addrs, addrRecord)
	default:
		a, failed = once.find(ctx, q.Type, name)
	}
	switch {
	case failed == nil:
	case failed.IsNotFound:
		return nil, dnsmessage.RCodeNameError, nil
	case errors.Is(failed, errNotImplemented):
		return nil, dnsmessage.RCodeNotImplemented, nil
	default:
		return nil, 0, askError{failed}
	}
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
	var records []dnsmessage.Resource
	if fold(a.name) != fold(name) {
		canonical, err := dnsmessage.NewName(a.name)
		if err != nil {
			return nil, 0, err
		}
		records = append(records, dnsmessage.Resource{Header: header, Body: &dnsmessage.CNAMEResource{CNAME: canonical}})
		header.Name = canonical
	}
	for _, r := range a.records {
		records = append(records, dnsmessage.Resource{Header: header, Body: r})
	}
	return records, dnsmessage.RCodeSuccess, nil
}

// errNotImplemented is about a type of records that package net does not ask for.
var errNotImplemented = errors.New("not implemented")

// find finds the records of an absolute name.
func (c *Client) find(ctx context.Context, typ dnsmessage.Type, name string) (answer, *net.DNSError) {
	host := name // as package net was given it, perhaps
	if name != "." {
		host = strings.TrimSuffix(name, ".")
	}
	switch typ {
	case dnsmessage.TypePTR: // of an address
		if names, ok := c.hosts.byAddr[fold(name)]; ok {
			ptr := func(n string) dnsmessage.ResourceBody {
				return &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(absolute(n))}
			}
			return answer{name: name, records: each(names, ptr)}, nil
		}
		return c.lookupRecords(ctx, typ, name)
	case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME:
		if _, ok := c.hosts.addrs(host); !ok && c.isOfHost(name) {
			return answer{}, dnsError(errNoSuchHost, "")
		}
		types := typesOf["ip"]
		if typ == dnsmessage.TypeCNAME {
			types = typesOf["CNAME"]
		}
		a, err := c.lookup(ctx, types, host)
		a.name, a.records = absolute(a.name), nil
		return a, err
	case dnsmessage.TypeTXT, dnsmessage.TypeMX, dnsmessage.TypeNS, dnsmessage.TypeSRV:
		if c.isOfHost(name) {
			return answer{}, dnsError(errNoSuchHost, "")
		}
		return c.lookupRecords(ctx, typ, host)
	}
	return answer{}, dnsError(errNotImplemented, "")
}

func addrRecord(a netip.Addr) dnsmessage.ResourceBody {
	if a.Is4() {
		return &dnsmessage.AResource{A: a.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: a.As16()}
}

// isOfHost reports whether an absolute name is below a domain that package net appends to
// names, and that the stack does not have. Without servers, nobody is asked.
func (c *Client) isOfHost(name string) bool {
	if len(c.servers) == 0 {
		return false
	}
	return slices.ContainsFunc(hostDomains.get(), func(domain string) bool {
		return isBelow(name, domain) && fold(name) != domain && !slices.ContainsFunc(c.search, func(own string) bool {
			return isBelow(own, domain) && isBelow(name, own)
		})
	})
}

// hostDomains are the domains that package net appends to names, in this process.
var hostDomains domainList

// A domainList follows the changes of a search list. A lookup that began before the last
// change has the list of that time.
type domainList struct {
	mu          sync.Mutex // guards the lists
	now, before []string
}

// get returns the domains, absolute and folded.
func (l *domainList) get() []string {
	domains := netDomains()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(domains, l.now) {
		l.before, l.now = l.now, domains
	}
	return slices.Concat(l.now, l.before)
}

// netDomains returns the domains that package net appends to a name, by having it look one
// up. It caches resolv.conf, and takes the domain of the machine's name where that has none.
func netDomains() []string {
	const host = "x"
	var domains []string
	none := func(_ context.Context, q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode, error) {
		if domain := strings.TrimPrefix(fold(q.Name.String()), host+"."); domain != "" {
			domains = append(domains, domain)
		}
		return nil, dnsmessage.RCodeNameError, nil
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return newServerConn(ctx, none), nil
	}}
	r.LookupTXT(context.Background(), host) // does not exist
	return domains
}

// askError is a DNSError whose text goes into another one, of package net.
type askError struct{ *net.DNSError }

func (e askError) Error() string {
	if e.Server == "" {
		return e.Err
	}
	return e.Err + " (asked " + e.Server + ")"
}

// Temporary makes package net stop, see NewResolver.
func (e askError) Temporary() bool { return e.DNSError.Temporary() || isServerError(e.UnwrapErr) }
