package stack_test

import (
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestRename exchanges the names of interfaces of each kind: counters and the
// emulator are those of the interface, not of the name.
func TestRename(t *testing.T) {
	netnstest.NoLeaks(t)
	vnl := "mem://" + t.Name()
	for _, tt := range []struct {
		name  string
		iface Interface
	}{
		{"TAP", Interface{}},
		{"veth", Interface{Kind: "veth"}},
		{"mem", Interface{VNL: vnl}},
		{"lan", Interface{VNL: "lan://" + t.Name()}},
		{"netemu", Interface{VNL: "netemu://{" + vnl + "}"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, second := tt.iface, Interface{}
			first.Addrs, second.Addrs = testenv.Prefixes("10.0.0.1/24"), testenv.Prefixes("10.0.1.1/24")
			s := made(t, Config{Interfaces: []Interface{first, second}})
			before := s.Stats().Interfaces
			nl := testenv.Opened(s.RTNL())(t)
			rename := func(index int, name string) {
				t.Helper()
				testenv.Check(t, nl.LinkSetDown(index))
				testenv.Check(t, nl.LinkSetName(index, name))
				testenv.Check(t, nl.LinkSetUp(index))
			}
			rename(before[0].Index, "new")
			check := func(names ...string) {
				t.Helper()
				st := s.Stats().Interfaces
				for i, want := range names {
					if st[i].Name != want || st[i].Index != before[i].Index || st[i].Err != nil || st[i].TxFrames < before[i].TxFrames {
						t.Errorf("got %+v, was %+v, want the name %q", st[i], before[i], want)
					}
				}
			}
			check("new", "vde1")
			rename(before[1].Index, "vde0")
			check("new", "vde0")
			rename(before[0].Index, "vde1")
			check("vde1", "vde0")

			_, err := s.Emulator("vde1")
			if is := tt.name == "netemu"; is != (err == nil) {
				t.Errorf("emulator of vde1: %v", err)
			}
			if _, err = s.Emulator("vde0"); err == nil {
				t.Error("vde0 has the emulator of another interface")
			}
			testenv.Check(t, nl.LinkDel(before[0].Index))
			if tt.name == "mem" || tt.name == "lan" {
				if st := s.Stats().Interfaces[0]; st.Err == nil {
					t.Errorf("%+v of an interface that was removed", st)
				}
			}
			last := s.Stats().Interfaces[1]
			testenv.Check(t, s.Close())
			if st := s.Stats().Interfaces[1]; st.TxFrames < last.TxFrames {
				t.Errorf("after Close: %+v, before %+v", st, last)
			}
		})
	}
}
