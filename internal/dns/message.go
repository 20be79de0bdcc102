package dns

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// maxPacket is the largest answer that is asked for over UDP: what passes every
// IPv6 path unfragmented, as fragments are easily lost and forged.
const maxPacket = 1232

// maxAddrs bounds the addresses that one answer gives. A name with more means
// any of them.
const maxAddrs = 128

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

// A reply is the answer to a question, with what of it is of use. Names are
// absolute and folded.
type reply struct {
	server    string
	msg       []byte // the whole message
	rcode     dnsmessage.RCode
	truncated bool // there is more over TCP; nothing below is filled in
	referral  bool // it only names other servers
	addrs     []addrRecord
	aliases   map[string]string // CNAME records, by owner
	zones     []string          // owners of the SOA records that come with a denial (RFC 2308)
}

type addrRecord struct {
	owner string
	addr  netip.Addr
}

var (
	errNotReply   = errors.New("not the answer to the question")
	errNoQuestion = errors.New("reply without the question")
)

// parse reads a message that may be the reply to a question. The error is
// errNotReply if it has another id or question, and another one if it is the reply
// and any of it is malformed or missing.
func parse(msg []byte, id uint16, q dnsmessage.Question) (reply, error) {
	r := reply{msg: msg}
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return r, errNotReply
	}
	r.rcode, r.truncated = h.RCode, h.Truncated
	switch asked, err := p.Question(); {
	case errors.Is(err, dnsmessage.ErrSectionDone) && (r.truncated || isFailure(h.RCode)):
		// Servers that fail, or do not understand a query, may return its header
		// only. It holds no answer to be believed.
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

// lacksEDNS reports whether a server that answers so is to be asked again
// without EDNS (RFC 6891, section 7).
func lacksEDNS(code dnsmessage.RCode) bool {
	return code == dnsmessage.RCodeFormatError || code == dnsmessage.RCodeNotImplemented
}

func (r *reply) parseSections(p *dnsmessage.Parser, h dnsmessage.Header, q dnsmessage.Question) error {
	answers := 0
	for ; ; answers++ {
		rh, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err == nil {
			err = r.parseAnswer(p, rh, q)
		}
		if err != nil {
			return err
		}
	}
	for {
		rh, err := p.AuthorityHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err == nil {
			err = p.SkipAuthority()
		}
		if err != nil {
			return err
		}
		switch rh.Type {
		case dnsmessage.TypeSOA:
			r.zones = append(r.zones, fold(rh.Name.String()))
		case dnsmessage.TypeNS:
			r.referral = answers == 0 && !h.Authoritative && !h.RecursionAvailable
		}
	}
	r.referral = r.referral && len(r.zones) == 0
	for {
		rh, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err == nil {
			err = p.SkipAdditional()
		}
		if err != nil {
			return err
		}
		if rh.Type == dnsmessage.TypeOPT {
			r.rcode = rh.ExtendedRCode(h.RCode)
		}
	}
}

var errLength = errors.New("record with a wrong length")

func (r *reply) parseAnswer(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, q dnsmessage.Question) error {
	if h.Class != dnsmessage.ClassINET || h.Type != q.Type && h.Type != dnsmessage.TypeCNAME {
		return p.SkipAnswer()
	}
	owner := fold(h.Name.String())
	switch h.Type {
	case dnsmessage.TypeA:
		a, err := p.AResource()
		if err == nil && h.Length != 4 {
			err = errLength
		}
		r.addrs = append(r.addrs, addrRecord{owner, netip.AddrFrom4(a.A)})
		return err
	case dnsmessage.TypeAAAA:
		a, err := p.AAAAResource()
		if err == nil && h.Length != 16 {
			err = errLength
		}
		// An IPv4-mapped address is none of an IPv6 network (RFC 4291, section
		// 2.5.5.2), and would be dialled by IPv4.
		if addr := netip.AddrFrom16(a.AAAA); !addr.Is4In6() {
			r.addrs = append(r.addrs, addrRecord{owner, addr})
		}
		return err
	case dnsmessage.TypeCNAME:
		c, err := p.CNAMEResource()
		if r.aliases == nil {
			r.aliases = make(map[string]string)
		}
		if _, ok := r.aliases[owner]; !ok {
			r.aliases[owner] = fold(c.CNAME.String())
		}
		return err
	}
	return p.SkipAnswer()
}

// follow appends to a chain of names those to which the aliases of the reply
// lead, up to a name that has addresses or no alias.
func (r *reply) follow(chain []string) ([]string, error) {
	for {
		last := chain[len(chain)-1]
		next, ok := r.aliases[last]
		switch {
		case !ok || len(r.of(last)) > 0:
			return chain, nil
		case slices.Contains(chain, next):
			return nil, misbehaving("CNAME loop")
		case len(chain) == maxChain:
			return nil, misbehaving("CNAME chain too long")
		}
		chain = append(chain, next)
	}
}

// of returns the addresses of a name.
func (r *reply) of(name string) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range r.addrs {
		if a.owner == name && len(addrs) < maxAddrs && !slices.Contains(addrs, a.addr) {
			addrs = append(addrs, a.addr)
		}
	}
	return addrs
}

// denies reports whether the reply says that the name has no such record: the
// SOA record of a zone around it is there (RFC 2308, section 2.2).
func (r *reply) denies(name string) bool {
	return slices.ContainsFunc(r.zones, func(zone string) bool { return isBelow(name, zone) })
}

// fault returns what is wrong with a server that gives this reply; the server
// that it came from is then no help.
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
