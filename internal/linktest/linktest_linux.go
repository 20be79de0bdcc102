// Package linktest compares links with those that "ip tuntap add" and "ip link add" make.
package linktest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// state has the attributes that change during the life of a link, or differ from link
// to link.
var state = map[string]bool{
	"IFNAME": true, "ADDRESS": true, "LINK": true, "LINK_NETNSID": true, "MAP": true,
	"STATS": true, "STATS64": true, "AF_SPEC/INET6/STATS": true, "AF_SPEC/INET6/ICMP6STATS": true,
	"CARRIER_CHANGES": true, "CARRIER_UP_COUNT": true, "CARRIER_DOWN_COUNT": true,
	// IF_READY and the like; the time of the last change, and a random number.
	"LINKINFO/DATA/HELLO_TIMER": true, "LINKINFO/DATA/TCN_TIMER": true, "LINKINFO/DATA/TOPOLOGY_CHANGE_TIMER": true, "LINKINFO/DATA/GC_TIMER": true,
	"LINKINFO/SLAVE_DATA/MESSAGE_AGE_TIMER": true, "LINKINFO/SLAVE_DATA/FORWARD_DELAY_TIMER": true, "LINKINFO/SLAVE_DATA/HOLD_TIMER": true,
	"AF_SPEC/INET6/FLAGS": true, "AF_SPEC/INET6/CACHEINFO": true,
}

// attributeNames are those of linux/if_link.h.
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

// Attributes returns the attributes of a link, except its state.
func Attributes(t testing.TB, nl *rtnl.Conn, index int) map[string]string {
	t.Helper()
	info := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(info[4:], uint32(index))
	answer, err := nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: info})
	testenv.Check(t, err)
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
	// The kernel knows a little later than it is up whether it is running.
	all["flags"] = fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data[8:])&^(unix.IFF_RUNNING|unix.IFF_LOWER_UP))
	delete(all, "OPERSTATE")
	return all
}

// A Diff has the attributes that may differ, each with the reason.
type Diff map[string]string

// Because returns a Diff of attributes that differ for one reason.
func Because(reason string, names ...string) Diff {
	d := make(Diff)
	for _, n := range names {
		d[n] = reason
	}
	return d
}

// Join joins several Diffs.
func Join(all ...Diff) Diff {
	d := make(Diff)
	for _, one := range all {
		maps.Copy(d, one)
	}
	return d
}

const (
	queues = "one queue is enough, and the kernel makes one for each processor"
	anyMTU = "frames of all MTUs pass"
)

var (
	// VethEnd is for the ends of veth pairs.
	VethEnd = Because(queues, "NUM_TX_QUEUES", "NUM_RX_QUEUES", "QDISC")
	// InHub is for links that carry frames of all interfaces.
	InHub = Because(anyMTU, "MTU", "AF_SPEC/INET6/CONF")
)

// Add makes a link for comparison, as "ip link add ref type KIND" does. The other end
// of a veth pair is up.
func Add(t testing.TB, nl *rtnl.Conn, kind string) (index int) {
	t.Helper()
	index, err := nl.LinkAdd(rtnl.LinkSpec{Name: "ref", Kind: kind})
	testenv.Check(t, err)
	l, err := nl.Link(index)
	if err == nil && l.Parent != 0 {
		err = nl.LinkSetUp(l.Parent) // the peer
	}
	testenv.Check(t, err)
	return index
}

// Compare compares a link with the reference, which it deletes. Unless down is set,
// both are set up; await waits for the carrier of a veth interface.
func Compare(t testing.TB, nl *rtnl.Conn, index, ref int, differs Diff, down bool, await func(index int)) {
	t.Helper()
	t.Cleanup(func() { nl.LinkDel(ref) })
	if !down {
		testenv.Check(t, nl.LinkSetUp(ref))
		for _, i := range []int{index, ref} {
			if l, err := nl.Link(i); err == nil && l.Kind == "veth" {
				await(i)
			}
		}
	}
	got, want := Attributes(t, nl, index), Attributes(t, nl, ref)
	for name := range differs {
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
}
