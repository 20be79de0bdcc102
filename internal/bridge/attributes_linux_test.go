//go:build amd64 || arm64

package bridge

import (
	"testing"

	"github.com/vdestack/vdestack/internal/linktest"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// end returns the end of a veth pair in a namespace of the test.
func end(t *testing.T) End {
	t.Helper()
	ns := testenv.Must(netns.New())(t)
	t.Cleanup(func() { ns.Close() })
	nl := testenv.Must(rtnl.Dial(netns.Sockets{NS: ns}))(t)
	t.Cleanup(func() { nl.Close() })
	return End{NS: ns, Netlink: nl, Name: "vde0", Index: firstIndex, MTU: 1500}
}

// TestAttributes compares the links in hubs with what the kernel gives "ip link add",
// set up.
func TestAttributes(t *testing.T) {
	const number = "it is another port"
	bridge := linktest.Join(linktest.InHub, linktest.Because("plugs do not tell which groups they want", "LINKINFO/DATA/MCAST_SNOOPING"),
		linktest.Because("a bridge keeps frames such as those of LLDP to itself", "LINKINFO/DATA/GROUP_FWD_MASK"))
	port := linktest.Join(linktest.InHub, linktest.VethEnd, linktest.Because(number, "LINKINFO/SLAVE_DATA/ID", "LINKINFO/SLAVE_DATA/NO", "LINKINFO/SLAVE_DATA/DESIGNATED_PORT"))
	veth := func(t *testing.T, nl *rtnl.Conn) int { return linktest.Add(t, nl, "veth") }
	portOf := func(t *testing.T, nl *rtnl.Conn) int {
		index := veth(t, nl)
		bridge, err := nl.IfNameToIndex("bridge0")
		if err == nil {
			err = nl.LinkSetMaster(index, bridge)
		}
		testenv.Check(t, err)
		return index
	}
	newUplink := func(t *testing.T) *uplink {
		s := joined(t)
		u := &uplink{sw: s}
		testenv.Check(t, u.make())
		return u
	}
	for _, tt := range []struct {
		name    string
		make    func(t *testing.T) (*rtnl.Conn, int)
		ref     func(t *testing.T, nl *rtnl.Conn) int
		differs linktest.Diff
	}{
		{"bridge", func(t *testing.T) (*rtnl.Conn, int) {
			s := joined(t)
			return s.nl, s.root
		}, func(t *testing.T, nl *rtnl.Conn) int { return linktest.Add(t, nl, "bridge") }, bridge},
		{"port", func(t *testing.T) (*rtnl.Conn, int) {
			s, e := joined(t), end(t)
			p, index, err := Plug(t.Context(), s.name, nil, e, nil)
			if err == nil {
				t.Cleanup(func() { p.Leave(true) })
				err = e.Netlink.LinkSetUp(index)
			}
			testenv.Check(t, err)
			return s.nl, p.index
		}, portOf, port},
		{"uplink", func(t *testing.T) (*rtnl.Conn, int) {
			u := newUplink(t)
			return u.sw.nl, u.near
		}, portOf, port},
		{"far end of the uplink", func(t *testing.T) (*rtnl.Conn, int) {
			u := newUplink(t)
			return u.sw.nl, u.far
		}, veth, linktest.Join(linktest.InHub, linktest.VethEnd)},
		{"far end of a pair", func(t *testing.T) (*rtnl.Conn, int) {
			e := end(t)
			p, dev, index, err := OpenPair(t.Context(), e, nic.Header)
			if err == nil {
				t.Cleanup(func() { dev.Close(); p.Remove() })
				err = e.Netlink.LinkSetUp(index)
			}
			testenv.Check(t, err)
			return p.hub.nl, p.far
		}, veth, linktest.Join(linktest.InHub, linktest.VethEnd)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nl, index := tt.make(t)
			linktest.Compare(t, nl, index, tt.ref(t, nl), tt.differs, false, func(i int) { AwaitCarrier(t.Context(), nl, i) })
		})
	}
}

// joined returns a switch that ends with the test.
func joined(t *testing.T) *Switch {
	t.Helper()
	s := testenv.Must(join("lan://"+t.Name(), nil))(t)
	t.Cleanup(func() { s.leave() })
	return s
}
