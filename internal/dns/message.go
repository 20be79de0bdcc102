package dns

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// maxPacket is the size of the largest answer over UDP. It passes every IPv6 path
// unfragmented; fragments are easily lost and forged.
const maxPacket = 1232

// pack returns a query.
func pack(id uint16, q dnsmessage.Question, edns bool) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q},
	}
	if edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(maxPacket, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = append(m.Additionals, opt)
	}
	return m.Pack()
}

// A reply is the answer to a question. Names are absolute.
type reply struct {
	server    string
	rcode     dnsmessage.RCode
	truncated bool // there is more over TCP; the fields below are not set
	referral  bool // it only names other servers
	records   []resource
	aliases   map[string]string // CNAME records, by folded owner
	zones     []string          // owners of the SOA records of a denial (RFC 2308)
	ttl       uint32            // for how many seconds it may be kept
}

// A resource is a record of the type that was asked for.
type resource struct {
	owner string // folded
	body  dnsmessage.ResourceBody
}

var (
	errNotReply   = errors.New("not the answer to the question")
	errNoQuestion = errors.New("reply without the question")
)

// parse parses a message that may be the reply to a question. The error is errNotReply if it
// has another id or question. Other errors are about a reply that is malformed or
// incomplete.
func parse(msg []byte, id uint16, q dnsmessage.Question) (reply, error) {
	var (
		r reply
		p dnsmessage.Parser
	)
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return r, errNotReply
	}
	r.rcode, r.truncated = h.RCode, h.Truncated
	switch asked, err := p.Question(); {
	case errors.Is(err, dnsmessage.ErrSectionDone) && (r.truncated || isFailure(h.RCode)):
		// Servers that fail, or do not understand a query, may return its header
		// only. It has no answer.
		return r, nil
	case errors.Is(err, dnsmessage.ErrSectionDone):
		return r, errNoQuestion
	case err != nil:
		return r, err
	case asked.Type != q.Type, asked.Class != q.Class, fold(asked.Name.String()) != fold(q.Name.String()):
		return r, errNotReply
	}
	if err := p.SkipQuestion(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return r, errNotReply
	}
	if r.truncated || isFailure(h.RCode) {
		return r, nil
	}
	return r, r.parseSections(&p, h, q)
}

// isFailure reports whether a reply with the code has no answer to the question.
func isFailure(code dnsmessage.RCode) bool {
	return code != dnsmessage.RCodeSuccess && code != dnsmessage.RCodeNameError
}

// lacksEDNS reports whether a server that replies with the code may not know EDNS (RFC 6891,
// section 7).
func lacksEDNS(code dnsmessage.RCode) bool {
	return code == dnsmessage.RCodeFormatError || code == dnsmessage.RCodeNotImplemented
}

func (r *reply) parseSections(p *dnsmessage.Parser, h dnsmessage.Header, q dnsmessage.Question) error {
	answers := 0
	ttl, negative := uint32(maxTTL), uint32(maxTTL)
	err := eachRecord(p.AnswerHeader, func(rh dnsmessage.ResourceHeader) error {
		answers++
		if rh.Class != dnsmessage.ClassINET || rh.Type != q.Type && rh.Type != dnsmessage.TypeCNAME {
			return p.SkipAnswer()
		}
		ttl = min(ttl, ttlOf(rh.TTL))
		return r.parseAnswer(p, rh)
	})
	if err != nil {
		return err
	}
	err = eachRecord(p.AuthorityHeader, func(rh dnsmessage.ResourceHeader) error {
		switch rh.Type {
		case dnsmessage.TypeSOA:
			r.zones = append(r.zones, fold(rh.Name.String()))
			if soa, err := p.SOAResource(); err == nil {
				negative = min(negative, maxNegativeTTL, ttlOf(rh.TTL), ttlOf(soa.MinTTL))
				return nil
			}
			negative = 0
		case dnsmessage.TypeNS:
			r.referral = answers == 0 && !h.Authoritative && !h.RecursionAvailable
		}
		return p.SkipAuthority()
	})
	if err != nil {
		return err
	}
	switch {
	case h.RCode == dnsmessage.RCodeSuccess && len(r.records) > 0:
		r.ttl = ttl
	case len(r.zones) > 0:
		r.ttl = min(ttl, negative)
	case h.RCode == dnsmessage.RCodeSuccess && len(r.aliases) > 0: // they lead out of the answer
		r.ttl = ttl
	default: // a denial that must not be kept (RFC 2308, section 5)
	}
	r.referral = r.referral && len(r.zones) == 0
	return eachRecord(p.AdditionalHeader, func(rh dnsmessage.ResourceHeader) error {
		if rh.Type == dnsmessage.TypeOPT {
			r.rcode = rh.ExtendedRCode(h.RCode)
		}
		return p.SkipAdditional()
	})
}

// eachRecord calls parse for each record of a section.
func eachRecord(next func() (dnsmessage.ResourceHeader, error), parse func(dnsmessage.ResourceHeader) error) error {
	for {
		h, err := next()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err == nil {
			err = parse(h)
		}
		if err != nil {
			return err
		}
	}
}

// Bounds of the time for which an answer is kept, in seconds: a day, and for a denial what
// RFC 2308, section 5, calls sensible.
const (
	maxTTL         = 24 * 60 * 60
	maxNegativeTTL = 3 * 60 * 60
)

// ttlOf returns a TTL; one with the highest bit counts as 0 (RFC 2181, section 8).
func ttlOf(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}

var errLength = errors.New("record with a wrong length")

// parseAnswer parses a record of class INET that has the type of the question or is an
// alias.
func (r *reply) parseAnswer(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) error {
	owner := fold(h.Name.String())
	res, err := p.Answer()
	if err != nil {
		return err
	}
	switch body := res.Body.(type) {
	case *dnsmessage.CNAMEResource:
		if r.aliases == nil {
			r.aliases = make(map[string]string)
		}
		if _, ok := r.aliases[owner]; !ok {
			r.aliases[owner] = body.CNAME.String()
		}
		return nil
	case *dnsmessage.AResource:
		if h.Length != 4 {
			return errLength
		}
	case *dnsmessage.AAAAResource:
		if h.Length != 16 {
			return errLength
		}
		// An IPv4-mapped address is not on an IPv6 network (RFC 4291, section
		// 2.5.5.2), and would be dialled over IPv4.
		if netip.AddrFrom16(body.AAAA).Is4In6() {
			return nil
		}
	}
	r.records = append(r.records, resource{owner, res.Body})
	return nil
}

// follow extends a chain of names by the aliases of the reply, up to a name that has records
// or no alias.
func (r *reply) follow(chain []string) ([]string, error) {
	for {
		last := chain[len(chain)-1]
		next, ok := r.aliases[fold(last)]
		switch {
		case !ok || len(r.recordsOf(last)) > 0:
			return chain, nil
		case slices.ContainsFunc(chain, func(name string) bool { return fold(name) == fold(next) }):
			return nil, misbehaving("CNAME loop")
		case len(chain) == maxChain:
			return nil, misbehaving("CNAME chain too long")
		}
		chain = append(chain, next)
	}
}

// recordsOf returns the records of a name.
func (r *reply) recordsOf(name string) []dnsmessage.ResourceBody {
	var bodies []dnsmessage.ResourceBody
	name = fold(name)
	for _, rec := range r.records {
		if rec.owner == name {
			bodies = append(bodies, rec.body)
		}
	}
	return bodies
}

// denies reports whether the reply says that the name has no such record, by the SOA record
// of a zone around it (RFC 2308, section 2.2).
func (r *reply) denies(name string) bool {
	return slices.ContainsFunc(r.zones, func(zone string) bool { return isBelow(name, zone) })
}

// fault returns the error of a server that does not resolve the name.
func (r *reply) fault() error {
	switch {
	case r.rcode == dnsmessage.RCodeNameError:
		return nil
	case r.rcode == dnsmessage.RCodeServerFailure:
		return &serverError{text: "server misbehaving", detail: "SERVFAIL", temporary: true}
	case r.rcode != dnsmessage.RCodeSuccess:
		return misbehaving(r.rcode.String())
	case r.referral:
		return &serverError{text: "lame referral", detail: "the server does not resolve names for its clients"}
	}
	return nil
}
