package rtnl_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

// TestRules adds rules of all kinds, finds them in the list in the kernel's order, and
// deletes them.
func TestRules(t *testing.T) {
	c, _ := dial(t)
	kernels := testenv.Must(c.Rules())(t)
	tests := []struct {
		text string
		rule rtnl.Rule
	}{
		{"10 from 10.0.0.0/8 to 10.9.0.0/16 TOS 0x10 iif x0 lookup 1000",
			rtnl.Rule{Priority: 10, Src: prefix("10.1.2.3/8"), Dst: prefix("10.9.0.0/16"), TOS: 0x10, IIF: "x0", Table: 1000}},
		{"20 not oif x1 mark 0x7/0xffffffff prohibit",
			rtnl.Rule{Priority: 20, Invert: true, Mark: 7, OIF: "x1", Action: rtnl.RuleProhibit}},
		{"30 protocol 6 source port 80 port 1000-2000 lookup 254",
			rtnl.Rule{Priority: 30, IPProto: 6, SrcPorts: rtnl.PortRange{First: 80, Last: 80}, DstPorts: rtnl.PortRange{First: 1000, Last: 2000}, MinPrefixLen: 1}},
		{"40 goto 50", rtnl.Rule{Priority: 40, Action: rtnl.RuleGoto, Goto: 50, Protocol: rtnl.ProtocolStatic}},
		{"50 lookup 5", rtnl.Rule{Priority: 50, Table: 5, Realm: 3<<16 | 4}},
		{"9 lookup 6", rtnl.Rule{Table: 6}}, // the kernel's choice, before the second rule
		{"10 of IPv6 unreachable", rtnl.Rule{IPv6: true, Priority: 10, Action: rtnl.RuleUnreachable}},
		{"20 from fd00::/64 lookup 70000", rtnl.Rule{Priority: 20, Src: prefix("fd00::/64"), Table: 70000}},
	}
	var want []string
	for _, tt := range tests {
		check(t, c.RuleAdd(tt.rule))
		want = append(want, tt.text)
	}
	var got []string
	for _, r := range testenv.Must(c.Rules())(t) {
		if !slices.Contains(kernels, r) {
			got = append(got, r.String())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	first := tests[0].rule
	if err := c.RuleAdd(first); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second time: %v, want EEXIST", err)
	}
	for _, tt := range tests {
		check(t, c.RuleDel(tt.rule))
		if err := c.RuleDel(tt.rule); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s, deleted twice: %v, want ESRCH", tt.text, err)
		}
	}
	if left := testenv.Must(c.Rules())(t); !slices.Equal(left, kernels) {
		t.Errorf("%v are left of %v", left, kernels)
	}
}

// TestRuleDelExact deletes what ip(8) has made, in a random order: that and nothing else.
func TestRuleDelExact(t *testing.T) {
	h := newHost(t)
	h.ip(
		"rule add pref 100 from 10.0.0.0/8 table 1000",
		"rule add pref 100 not from 11.0.0.0/8 table 1000",
		"rule add pref 100 dport 99 ipproto udp table 1000",
		"rule add pref 100 sport 80 ipproto tcp table 1000",
		"rule add pref 100 fwmark 1 table 1000",
		"rule add pref 0 from 10.0.0.1 table 1000",
		"rule add pref 101 l3mdev",
		"-6 rule add pref 100 table 1000",
		"-6 rule add pref 100 to fd00::/64 table 1000",
	)
	// Without NLM_F_EXCL, for the kernel takes the rules that say more for the same.
	body := []byte{unix.AF_INET, 0, 0, 0, 0, 0, 0, unix.FR_ACT_TO_TBL, 0, 0, 0, 0}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.FRA_PRIORITY, Data: binary.NativeEndian.AppendUint32(nil, 100)},
		{Type: unix.FRA_TABLE, Data: binary.NativeEndian.AppendUint32(nil, 1000)},
	})
	check(t, err)
	_, err = h.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWRULE, Flags: netlink.Create}, Data: append(body, attrs...)})
	check(t, err)
	if err := h.RuleDel(rtnl.Rule{Priority: 100, Table: 1000}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a rule behind others that say more: %v, want EBUSY", err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for all := testenv.Must(h.Rules())(t); len(all) > 0; {
		i := rng.IntN(len(all))
		err := h.RuleDel(all[i])
		if errors.Is(err, unix.EBUSY) && strings.Contains(err.Error(), "remove rule 100") {
			continue // its turn comes
		}
		check(t, err)
		all = slices.Delete(all, i, i+1)
		if got := testenv.Must(h.Rules())(t); !slices.Equal(got, all) {
			t.Fatalf("got  %v\nwant %v", got, all)
		}
	}
}

// TestRuleInvalid has rules that are refused on entry.
func TestRuleInvalid(t *testing.T) {
	c, _ := dial(t)
	for _, tt := range []struct {
		rule rtnl.Rule
		want string
	}{
		{rtnl.Rule{Src: prefix("10.0.0.0/8"), Dst: prefix("fd00::/64")}, "not of the family"},
		{rtnl.Rule{IPv6: true, Src: prefix("10.0.0.0/8")}, "IPv6 is set"},
		{rtnl.Rule{Dst: prefix("::ffff:10.0.0.0/104")}, "in IPv6 form"},
		{rtnl.Rule{SrcPorts: rtnl.PortRange{First: 2, Last: 1}}, "ports 2-1"},
		{rtnl.Rule{DstPorts: rtnl.PortRange{First: 65535, Last: 65535}}, "ports 65535"},
		{rtnl.Rule{IIF: "a/b"}, "cannot be an interface name"},
		{rtnl.Rule{MinPrefixLen: -1}, "MinPrefixLen"},
		{rtnl.Rule{Action: rtnl.RuleGoto, Priority: 9}, "rtnl: add rule 9 goto 0"},
	} {
		if err := c.RuleAdd(tt.rule); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.rule, err, tt.want)
		}
	}
}
