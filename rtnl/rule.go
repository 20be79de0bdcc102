package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
)

// A Rule chooses the routing table of packets ("ip rule"). Rules are looked at in the
// order of Priority; fields that are zero match every packet.
type Rule struct {
	// IPv6 says whose rule it is where neither Src nor Dst says so.
	IPv6 bool
	// Priority is the place of the rule, the lowest first. For RuleAdd, 0 is the kernel's
	// choice, just behind the rule of TableLocal, which alone has 0.
	Priority uint32

	Src, Dst netip.Prefix
	TOS      TOS
	IIF, OIF string // names of interfaces: where a packet came in; what its socket is bound to
	Mark     uint32 // of packets and sockets (SO_MARK)
	Mask     uint32 // bits of Mark that count; RuleAdd takes 0 as all if Mark is not 0
	IPProto  uint8  // such as 6 for TCP and 17 for UDP
	SrcPorts PortRange
	DstPorts PortRange
	Invert   bool // the rule is for packets that do not match

	Action RuleAction
	Table  Table  // of RuleLookup; RuleAdd takes 0 as TableMain if there are no Attrs
	Goto   uint32 // of RuleGoto: the priority of a later rule
	// MinPrefixLen passes over routes of the table whose prefixes are shorter: 1 ignores
	// default routes. It is the number after suppress_prefixlength of ip(8), plus 1.
	MinPrefixLen int
	Realm        Realm    // IPv4 only
	Protocol     Protocol // the program that made the rule; 0 as of ip(8)
	// Attrs are attributes that have no field here, in wire format, such as those for
	// users, tunnels and DSCP.
	Attrs string
}

// allPorts is the mask of a port that has to be equal.
const allPorts = 1<<16 - 1

// A PortRange is a range of ports. The zero PortRange is all packets, also of protocols
// that have no ports.
type PortRange struct{ First, Last uint16 }

// String returns, for example, "80" or "1000-2000".
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// RuleAction is what a rule does. RuleAdd takes 0 as RuleLookup.
type RuleAction uint8

// The kernel's actions.
const (
	RuleLookup      RuleAction = 1 // looks the destination up in Table; without a route there the next rule decides
	RuleGoto        RuleAction = 2 // continues with the rule of priority Goto
	RuleNop         RuleAction = 3
	RuleBlackhole   RuleAction = 6 // drops
	RuleUnreachable RuleAction = 7 // drops, and answers with network unreachable
	RuleProhibit    RuleAction = 8 // drops, and answers with prohibited
)

// String returns the name of the action.
func (a RuleAction) String() string {
	names := map[RuleAction]string{
		RuleLookup: "lookup", RuleGoto: "goto", RuleNop: "nop",
		RuleBlackhole: "blackhole", RuleUnreachable: "unreachable", RuleProhibit: "prohibit",
	}
	if name, ok := names[a]; ok {
		return name
	}
	return "action " + strconv.Itoa(int(a))
}

// String returns, for example, "100 from 10.0.0.0/8 lookup 254".
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", r.Priority)
	if r.IPv6 && !r.Src.IsValid() && !r.Dst.IsValid() {
		b.WriteString(" of IPv6")
	}
	if r.Invert {
		b.WriteString(" not")
	}
	add := func(given bool, name string, value any) {
		if given {
			fmt.Fprintf(&b, " %s %v", name, value)
		}
	}
	add(r.Src.IsValid(), "from", r.Src)
	add(r.Dst.IsValid(), "to", r.Dst)
	add(r.TOS != 0, "TOS", fmt.Sprintf("%#x", uint8(r.TOS)))
	add(r.IIF != "", "iif", r.IIF)
	add(r.OIF != "", "oif", r.OIF)
	add(r.Mark|r.Mask != 0, "mark", fmt.Sprintf("%#x/%#x", r.Mark, r.Mask))
	add(r.IPProto != 0, "protocol", r.IPProto)
	add(r.SrcPorts != PortRange{}, "source port", r.SrcPorts)
	add(r.DstPorts != PortRange{}, "port", r.DstPorts)
	fmt.Fprintf(&b, " %v", r.Action)
	switch r.Action {
	case RuleLookup:
		fmt.Fprintf(&b, " %d", r.Table)
	case RuleGoto:
		fmt.Fprintf(&b, " %d", r.Goto)
	}
	return b.String()
}

// withDefaults returns the rule as the kernel lists it.
func (r Rule) withDefaults() Rule {
	switch {
	case r.Src.IsValid():
		r.IPv6 = r.Src.Addr().Is6()
	case r.Dst.IsValid():
		r.IPv6 = r.Dst.Addr().Is6()
	}
	// The kernel does not list prefixes of length 0, which match all.
	for _, p := range []*netip.Prefix{&r.Src, &r.Dst} {
		if *p = p.Masked(); p.Bits() == 0 {
			*p = netip.Prefix{}
		}
	}
	if r.Action == 0 {
		r.Action = RuleLookup
	}
	if r.Table == 0 && r.Action == RuleLookup && r.Attrs == "" {
		r.Table = TableMain
	}
	if r.Mark != 0 && r.Mask == 0 {
		r.Mask = 1<<32 - 1
	}
	return r
}

// check checks a rule of the caller's.
func (r *Rule) check() error {
	fam := uint8(afUnspec)
	for _, p := range []struct {
		what string
		netip.Prefix
	}{{"source prefix", r.Src}, {"destination", r.Dst}} {
		if p.Prefix == (netip.Prefix{}) {
			continue
		}
		if !p.IsValid() {
			return invalid(syscall.EINVAL, "the %s is not valid", p.what)
		}
		if fam == afUnspec {
			fam = family(p.Addr())
		}
		if p.Addr().Is4In6() {
			return invalid(syscall.EINVAL, "%s %v: an IPv4 address in IPv6 form", p.what, p.Prefix)
		}
		if err := checkAddr(p.what, p.Addr(), fam); err != nil {
			return err
		}
	}
	if r.IPv6 && fam == afInet {
		return invalid(syscall.EINVAL, "IPv6 is set, but the addresses are of IPv4")
	}
	for _, p := range []PortRange{r.SrcPorts, r.DstPorts} {
		if p != (PortRange{}) && (p.First == 0 || p.First > p.Last || p.Last == 1<<16-1) {
			return invalid(syscall.EINVAL, "ports %v: not a range within 1-65534", p)
		}
	}
	for _, name := range []string{r.IIF, r.OIF} {
		if name != "" {
			if err := checkName(name); err != nil {
				return err
			}
		}
	}
	if r.MinPrefixLen < 0 || r.MinPrefixLen > 129 {
		return invalid(syscall.EINVAL, "MinPrefixLen %d", r.MinPrefixLen)
	}
	return nil
}

func (r *Rule) encode() ([]byte, error) {
	b := ruleQuery(r.IPv6)
	b[1], b[2] = uint8(max(r.Dst.Bits(), 0)), uint8(max(r.Src.Bits(), 0))
	b[3] = uint8(r.TOS)
	if b[4] = uint8(r.Table); r.Table > 0xff {
		b[4] = rtTableCompat
	}
	b[7] = uint8(r.Action)
	if r.Invert {
		binary.NativeEndian.PutUint32(b[8:], fibRuleInvert)
	}
	addr := func(typ uint16, p netip.Prefix) netlink.Attribute {
		if p.Bits() <= 0 {
			return netlink.Attribute{}
		}
		return raw(typ, p.Addr().AsSlice())
	}
	small := func(typ uint16, v uint8) netlink.Attribute {
		if v == 0 {
			return netlink.Attribute{}
		}
		return raw(typ, []byte{v})
	}
	ports := func(typ uint16, p PortRange) netlink.Attribute {
		if p == (PortRange{}) {
			return netlink.Attribute{}
		}
		return raw(typ, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, p.First), p.Last))
	}
	var shortest, mask netlink.Attribute
	if r.MinPrefixLen > 0 {
		shortest = number(fraSuppressPrefixLen, uint32(r.MinPrefixLen-1))
	}
	if r.Mark|r.Mask != 0 {
		mask = number(fraFwMask, r.Mask)
	}
	b, err := encode(b,
		addr(fraDst, r.Dst), addr(fraSrc, r.Src),
		words(fraIIFName, r.IIF), words(fraOIFName, r.OIF),
		nonzero(fraGoto, r.Goto), nonzero(fraPriority, r.Priority),
		nonzero(fraFwMark, r.Mark), mask,
		nonzero(fraFlow, uint32(r.Realm)),
		shortest,
		nonzero(fraTable, uint32(r.Table)),
		small(fraProtocol, uint8(r.Protocol)), small(fraIPProto, r.IPProto),
		ports(fraSPortRange, r.SrcPorts), ports(fraDPortRange, r.DstPorts))
	return append(b, r.Attrs...), err
}

// decodeRule returns false for other families, such as multicast routing.
func decodeRule(b []byte) (Rule, bool, error) {
	const kind = "rule message"
	var (
		r        Rule
		fam      uint8
		src, dst netip.Addr
		other    []netlink.Attribute
	)
	if len(b) >= sizeofRtMsg {
		fam = b[0]
		var ok bool
		if src, ok = unspecified(fam); !ok {
			return Rule{}, false, nil
		}
		dst, r.IPv6 = src, fam == afInet6
		r.TOS, r.Table, r.Action = TOS(b[3]), Table(b[4]), RuleAction(b[7])
		r.Invert = uint32At(b, 8)&fibRuleInvert != 0
	}
	ports := func(ad *netlink.AttributeDecoder, p *PortRange) {
		ad.Do(func(b []byte) error {
			if len(b) != 4 {
				return fmt.Errorf("range of ports of %d bytes", len(b))
			}
			*p = PortRange{binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])}
			return nil
		})
	}
	err := decode(kind, b, sizeofRtMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case fraDst:
			addrAttr(ad, fam, &dst)
		case fraSrc:
			addrAttr(ad, fam, &src)
		case fraIIFName:
			r.IIF = ad.String()
		case fraOIFName:
			r.OIF = ad.String()
		case fraGoto:
			r.Goto = ad.Uint32()
		case fraPriority:
			r.Priority = ad.Uint32()
		case fraFwMark:
			r.Mark = ad.Uint32()
		case fraFwMask:
			r.Mask = ad.Uint32()
		case fraFlow:
			r.Realm = Realm(ad.Uint32())
		case fraSuppressPrefixLen:
			if n := ad.Int32(); n >= 0 && n <= 128 { // -1 is none
				r.MinPrefixLen = int(n) + 1
			}
		case fraTable:
			r.Table = Table(ad.Uint32())
		case fraProtocol:
			r.Protocol = Protocol(ad.Uint8())
		case fraIPProto:
			r.IPProto = ad.Uint8()
		case fraSPortRange:
			ports(ad, &r.SrcPorts)
		case fraDPortRange:
			ports(ad, &r.DstPorts)
		case rtaUnspec, fraPad:
		case fraSPortMask, fraDPortMask:
			if ad.Uint16() == allPorts { // newer kernels say so of every single port
				break
			}
			fallthrough
		default:
			other = append(other, raw(ad.Type(), ad.Bytes()))
		}
	})
	if err != nil {
		return Rule{}, false, err
	}
	for _, p := range []struct {
		to   *netip.Prefix
		addr netip.Addr
		bits int
	}{{&r.Dst, dst, int(b[1])}, {&r.Src, src, int(b[2])}} {
		if p.bits == 0 {
			continue
		}
		if *p.to = netip.PrefixFrom(p.addr, p.bits).Masked(); !p.to.IsValid() {
			return Rule{}, false, malformed(kind, fmt.Errorf("address %v, prefix length %d", p.addr, p.bits))
		}
	}
	r.Attrs = string(marshal(other...))
	return r, true, nil
}

// RuleAdd adds a rule; EEXIST if there is the same one, ENOENT and others as the kernel
// says for a Goto without target, or attributes that it does not have.
func (c *Conn) RuleAdd(r Rule) error {
	err := r.check()
	if r = r.withDefaults(); err == nil {
		err = c.send(rtmNewRule, netlink.Excl|netlink.Create, &r)
	}
	return fail("add rule", r, err)
}

// RuleDel deletes a rule, and no other: one that Rules listed, or that RuleAdd was given.
// With Priority 0 it is the first rule that is the same but for its priority. ESRCH if
// there is no such rule. The kernel deletes the first rule that has what a request says,
// so RuleDel lists them first; if the kernel would delete another, it returns EBUSY and
// names that rule. A rule that is added after the list is not seen.
func (c *Conn) RuleDel(r Rule) error {
	err := r.check()
	if err == nil {
		err = c.removeRule(r)
	}
	return fail("delete rule", r.withDefaults(), err)
}

// ruleQuery returns the request for the rules of a family.
func ruleQuery(ipv6 bool) []byte {
	b := make([]byte, sizeofRtMsg)
	b[0] = afInet
	if ipv6 {
		b[0] = afInet6
	}
	return b
}

func (c *Conn) removeRule(r Rule) error {
	added := r.withDefaults()
	r.IPv6 = added.IPv6
	answer, err := c.dump(rtmGetRule, ruleQuery(r.IPv6))
	if err != nil {
		return err
	}
	var before []Rule
	for _, m := range answer {
		other, ok, err := decodeRule(m.Data)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		want, listed := added, r
		if r.Priority == 0 {
			want.Priority, listed.Priority = other.Priority, other.Priority
		}
		if other == listed {
			want = listed
		}
		if other != want {
			before = append(before, other)
			continue
		}
		for _, b := range before {
			if want.hits(&b) {
				return invalid(syscall.EBUSY, "the kernel would delete another: remove rule %v first", b)
			}
		}
		want.Attrs = "" // that of users is refused outside the stack's user namespace
		body, err := want.encode()
		if want.Priority == 0 && err == nil { // without the attribute any priority would match
			body, err = encode(body, number(fraPriority, 0))
		}
		return c.change(rtmDelRule, 0, body, err)
	}
	return syscall.ESRCH
}

// hits reports whether a request to delete r matches other in the kernel: what the
// request does not say matches any. It returns true where kernels differ.
func (r *Rule) hits(other *Rule) bool {
	return r.Priority == other.Priority &&
		matches(r.Action, other.Action) && matches(r.Table, other.Table) &&
		matches(r.IIF, other.IIF) && matches(r.OIF, other.OIF) &&
		matches(r.Mark, other.Mark) && matches(r.Mask, other.Mask) &&
		matches(r.Src, other.Src) && matches(r.Dst, other.Dst) && matches(r.TOS, other.TOS) &&
		matches(r.IPProto, other.IPProto) && matches(r.Protocol, other.Protocol) &&
		matches(r.SrcPorts, other.SrcPorts) && matches(r.DstPorts, other.DstPorts) &&
		matches(r.MinPrefixLen, other.MinPrefixLen) && matches(r.Realm, other.Realm)
}

// Rules returns the rules of IPv4 and then those of IPv6, each in the order in which the
// kernel looks at them.
func (c *Conn) Rules() ([]Rule, error) {
	var all []Rule
	for _, ipv6 := range []bool{false, true} {
		rules, err := list(c, "list rules", rtmGetRule, ruleQuery(ipv6), decodeRule)
		if err != nil {
			return nil, err
		}
		all = append(all, rules...)
	}
	return all, nil
}
