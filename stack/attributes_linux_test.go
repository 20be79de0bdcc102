//go:build amd64 || arm64

package stack

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/memnet"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// state are the attributes of a link that say what has become of it, or that are
// different for each link.
var state = map[string]bool{
	"IFNAME": true, "ADDRESS": true, "LINK": true, "LINK_NETNSID": true, "MAP": true,
	"STATS": true, "STATS64": true, "AF_SPEC/INET6/STATS": true, "AF_SPEC/INET6/ICMP6STATS": true,
	"CARRIER_CHANGES": true, "CARRIER_UP_COUNT": true, "CARRIER_DOWN_COUNT": true,
	// IF_READY and the like; the time of the last change, and a random number.
	"LINKINFO/DATA/HELLO_TIMER": true, "LINKINFO/DATA/TCN_TIMER": true, "LINKINFO/DATA/TOPOLOGY_CHANGE_TIMER": true, "LINKINFO/DATA/GC_TIMER": true,
	"LINKINFO/SLAVE_DATA/MESSAGE_AGE_TIMER": true, "LINKINFO/SLAVE_DATA/FORWARD_DELAY_TIMER": true, "LINKINFO/SLAVE_DATA/HOLD_TIMER": true,
	"AF_SPEC/INET6/FLAGS": true, "AF_SPEC/INET6/CACHEINFO": true,
}

// attribute names are those of linux/if_link.h, for what is nested or state.
var attributeNames = map[string]string{
	"1": "ADDRESS", "3": "IFNAME", "4": "MTU", "5": "LINK", "6": "QDISC", "7": "STATS", "10": "MASTER", "13": "TXQLEN",
	"14": "MAP", "16": "OPERSTATE", "17": "LINKMODE", "18": "LINKINFO", "23": "STATS64", "26": "AF_SPEC", "27": "GROUP",
	"30": "PROMISCUITY", "31": "NUM_TX_QUEUES", "32": "NUM_RX_QUEUES", "33": "CARRIER", "35": "CARRIER_CHANGES",
	"37": "LINK_NETNSID", "40": "GSO_MAX_SEGS", "41": "GSO_MAX_SIZE", "47": "CARRIER_UP_COUNT", "48": "CARRIER_DOWN_COUNT",
	"50": "MIN_MTU", "51": "MAX_MTU", "58": "GRO_MAX_SIZE", "59": "TSO_MAX_SIZE", "60": "TSO_MAX_SEGS", "61": "ALLMULTI",
	"LINKINFO/1": "KIND", "LINKINFO/2": "DATA", "LINKINFO/4": "SLAVE_KIND", "LINKINFO/5": "SLAVE_DATA",
	"LINKINFO/DATA/9": "GROUP_FWD_MASK", "LINKINFO/DATA/23": "MCAST_SNOOPING",
	"LINKINFO/DATA/16": "HELLO_TIMER", "LINKINFO/DATA/17": "TCN_TIMER", "LINKINFO/DATA/18": "TOPOLOGY_CHANGE_TIMER", "LINKINFO/DATA/19": "GC_TIMER",
	"LINKINFO/SLAVE_DATA/15": "DESIGNATED_PORT", "LINKINFO/SLAVE_DATA/17": "ID", "LINKINFO/SLAVE_DATA/18": "NO",
	"LINKINFO/SLAVE_DATA/21": "MESSAGE_AGE_TIMER", "LINKINFO/SLAVE_DATA/22": "FORWARD_DELAY_TIMER", "LINKINFO/SLAVE_DATA/23": "HOLD_TIMER",
	"AF_SPEC/2": "INET", "AF_SPEC/10": "INET6",
	"AF_SPEC/INET6/1": "FLAGS", "AF_SPEC/INET6/2": "CONF", "AF_SPEC/INET6/3": "STATS", "AF_SPEC/INET6/5": "CACHEINFO",
	"AF_SPEC/INET6/6": "ICMP6STATS", "AF_SPEC/INET6/8": "ADDR_GEN_MODE",
}

var nested = []string{"LINKINFO", "LINKINFO/DATA", "LINKINFO/SLAVE_DATA", "AF_SPEC", "AF_SPEC/INET", "AF_SPEC/INET6"}

// attributes returns all that the kernel says of a link, but for its state.
func attributes(t *testing.T, nl *rtnl.Conn, index int) map[string]string {
	t.Helper()
	info := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(info[4:], uint32(index))
	answer, err := nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: info})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	var walk func(at string, b []byte)
	walk = func(at string, b []byte) {
		ad, err := netlink.NewAttributeDecoder(b)
		if err != nil {
			t.Fatal(at, err)
		}
		for ad.Next() {
			name := at + fmt.Sprint(ad.Type())
			if known, ok := attributeNames[name]; ok {
				name = at + known
			}
			switch {
			case state[name]:
			case slices.Contains(nested, name):
				walk(name+"/", ad.Bytes())
			default:
				all[name] = fmt.Sprintf("%x", ad.Bytes())
			}
		}
	}
	data := answer[0].Data
	walk("", data[unix.SizeofIfInfomsg:])
	all["type"] = fmt.Sprint(binary.NativeEndian.Uint16(data[2:]))
	// Whether it is running is known a little after it is up.
	all["flags"] = fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data[8:])&^(unix.IFF_RUNNING|unix.IFF_LOWER_UP))
	delete(all, "OPERSTATE")
	return all
}

// A space is where links are made.
type space struct {
	open func(path string, flags int) (fd int, err error)
	nl   *rtnl.Conn
}

// TestAttributes compares the links of each way in which one is made with what the
// kernel gives "ip tuntap add" and "ip link add", set up.
func TestAttributes(t *testing.T) {
	const (
		queues = "one queue is enough, and the kernel makes one for each processor"
		anyMTU = "frames of all MTUs pass"
		number = "it is another port"
	)
	of := func(reason string, names ...string) map[string]string {
		m := make(map[string]string)
		for _, n := range names {
			m[n] = reason
		}
		return m
	}
	join := func(all ...map[string]string) map[string]string {
		m := make(map[string]string)
		for _, one := range all {
			maps.Copy(m, one)
		}
		return m
	}
	end := of(queues, "NUM_TX_QUEUES", "NUM_RX_QUEUES", "QDISC")
	inHub := of(anyMTU, "MTU", "AF_SPEC/INET6/CONF")
	bridge := join(inHub, of("plugs do not tell which groups they want", "LINKINFO/DATA/MCAST_SNOOPING"),
		of("a bridge keeps frames such as those of LLDP to itself", "LINKINFO/DATA/GROUP_FWD_MASK"))
	port := join(inHub, end, of(number, "LINKINFO/SLAVE_DATA/ID", "LINKINFO/SLAVE_DATA/NO", "LINKINFO/SLAVE_DATA/DESIGNATED_PORT"))

	tap := func(flags uint16) func(t *testing.T, in space) int {
		return func(t *testing.T, in space) int {
			fd, err := in.open(tunDevice, unix.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			ifr, _ := unix.NewIfreq("ref")
			ifr.SetUint16(flags)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
				t.Fatal(err)
			}
			index, err := in.nl.IfNameToIndex("ref")
			if err != nil {
				t.Fatal(err)
			}
			return index
		}
	}
	link := func(kind string) func(t *testing.T, in space) int {
		return func(t *testing.T, in space) int {
			index, err := in.nl.LinkAdd(rtnl.LinkSpec{Name: "ref", Kind: kind})
			if err != nil {
				t.Fatal(err)
			}
			l, err := in.nl.Link(index)
			if err == nil && l.Parent != 0 {
				err = in.nl.LinkSetUp(l.Parent) // the peer
			}
			if err != nil {
				t.Fatal(err)
			}
			return index
		}
	}
	plainTAP := tap(nic.Flags(nic.All))
	kernelNetwork := func(t *testing.T) *lan {
		l, err := vdeplug.Parse("mem://" + t.Name())
		if err != nil {
			t.Fatal(err)
		}
		n, err := joinLAN(l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.leave() })
		return n
	}
	stackOf := func(cfg ...Interface) func(t *testing.T) (space, int) {
		return func(t *testing.T) (space, int) {
			for i := range cfg {
				cfg[i].Addrs = nil
			}
			s, err := New(t.Context(), Config{Interfaces: cfg})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			nl, err := s.RTNL()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nl.Close() })
			return space{s.ns.Open, nl}, s.ifaces[len(s.ifaces)-1].index
		}
	}
	portOf := func(t *testing.T, in space) int {
		index := link("veth")(t, in)
		bridge, err := in.nl.IfNameToIndex("bridge0")
		if err == nil {
			err = in.nl.LinkSetMaster(index, bridge)
		}
		if err != nil {
			t.Fatal(err)
		}
		return index
	}
	for _, tt := range []struct {
		name    string
		make    func(t *testing.T) (space, int)
		ref     func(t *testing.T, in space) int
		differs map[string]string // attributes, with the reason
		down    bool
	}{
		{name: "first TAP", make: stackOf(Interface{VNL: "null://"}), ref: plainTAP},
		{name: "second TAP", make: stackOf(Interface{}, Interface{}), ref: plainTAP},
		{name: "TAP with MAC", make: stackOf(Interface{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}), ref: plainTAP},
		{name: "TAP with MTU", make: stackOf(Interface{MTU: 1400}), ref: plainTAP, differs: of("it is given", "MTU", "AF_SPEC/INET6/CONF")},
		{name: "TAP that is down", make: stackOf(Interface{Down: true}), ref: plainTAP, down: true},
		{name: "TAP without offloads", make: stackOf(Interface{NoOffload: 0xff}), ref: tap(unix.IFF_TAP | unix.IFF_NO_PI)},
		{name: "TAP in user space", make: func(t *testing.T) (space, int) {
			memnet.UserSpace.Store(true)
			t.Cleanup(func() { memnet.UserSpace.Store(false) })
			return stackOf(Interface{VNL: "mem://" + t.Name()})(t)
		}, ref: plainTAP},
		{name: "joined", make: func(t *testing.T) (space, int) {
			s := member(t, "null://", 1)
			f, err := s.NetNS()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			in, err := New(t.Context(), Config{NetNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), Interfaces: []Interface{{Name: "in"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { in.Close() })
			nl, err := in.RTNL()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nl.Close() })
			return space{in.ns.Open, nl}, in.ifaces[0].index
		}, ref: plainTAP},
		{name: "plug", down: true, make: func(t *testing.T) (space, int) {
			if os.Geteuid() != 0 {
				t.Skip("making an interface needs root")
			}
			nl, err := rtnl.Dial(nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nl.Close() })
			plug, err := vdeplug.Open("tap://attributes", nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { plug.Close() })
			index, err := nl.IfNameToIndex("attributes")
			if err != nil {
				t.Fatal(err)
			}
			return space{func(path string, flags int) (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) }, nl}, index
		}, ref: plainTAP},
		{name: "veth", make: stackOf(Interface{Kind: KindVeth}), ref: link("veth"), differs: end},
		{name: "lan", make: stackOf(Interface{VNL: "lan://attributes"}), ref: link("veth"), differs: end},
		{name: "mem", make: stackOf(Interface{VNL: "mem://attributes"}), ref: link("veth"), differs: end},
		{name: "bridge", make: func(t *testing.T) (space, int) {
			n := kernelNetwork(t)
			return space{n.ns.Open, n.nl}, n.root
		}, ref: link("bridge"), differs: bridge},
		{name: "port", make: func(t *testing.T) (space, int) {
			n := kernelNetwork(t)
			s := member(t, n.vnl, 1)
			return space{n.ns.Open, n.nl}, s.ifaces[0].port.index
		}, ref: portOf, differs: port},
		{name: "uplink", make: func(t *testing.T) (space, int) {
			n := kernelNetwork(t)
			u := &uplink{lan: n}
			if err := u.make(); err != nil {
				t.Fatal(err)
			}
			return space{n.ns.Open, n.nl}, u.near
		}, ref: portOf, differs: port},
		{name: "far end of the uplink", make: func(t *testing.T) (space, int) {
			n := kernelNetwork(t)
			u := &uplink{lan: n}
			if err := u.make(); err != nil {
				t.Fatal(err)
			}
			return space{n.ns.Open, n.nl}, u.far
		}, ref: link("veth"), differs: join(inHub, end)},
		{name: "far end of a veth pair", make: func(t *testing.T) (space, int) {
			s, err := New(t.Context(), Config{Interfaces: []Interface{{Kind: KindVeth, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			c := s.ifaces[0].cable
			return space{c.hub.ns.Open, c.hub.nl}, c.far
		}, ref: link("veth"), differs: join(inHub, end)},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			in, index := tt.make(t)
			ref := tt.ref(t, in)
			t.Cleanup(func() { in.nl.LinkDel(ref) })
			if !tt.down {
				if err := in.nl.LinkSetUp(ref); err != nil {
					t.Fatal(err)
				}
				for _, i := range []int{index, ref} {
					if l, err := in.nl.Link(i); err == nil && l.Kind == "veth" {
						(&lan{nl: in.nl}).await(i)
					}
				}
			}
			got, want := attributes(t, in.nl, index), attributes(t, in.nl, ref)
			for name := range tt.differs {
				delete(got, name)
				delete(want, name)
			}
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if got[name] != want[name] {
					t.Errorf("%s: got %s, want %s", name, got[name], want[name])
				}
			}
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if _, ok := want[name]; !ok {
					t.Errorf("%s: got %s, want none", name, got[name])
				}
			}
		})
	}
}
