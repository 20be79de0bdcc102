package vdeplug

import (
	"net"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// A packetPair is a network with two plugs that move packets.
type packetPair struct {
	name string
	open func(t *testing.T) (a, b Conn)
}

// two opens two locators.
func two(a, b string) func(t *testing.T) (Conn, Conn) {
	return func(t *testing.T) (Conn, Conn) { return openPlug(t, a), openPlug(t, b) }
}

// packetPairs are those of TestPackets. Package p2p tests its own.
var packetPairs = []packetPair{
	{"mem", two("mem://packets", "mem://packets")},
	{"vxvde", two("vxvde://", "vxvde://")},
	{"vxlan", two(vxlanTest(2), vxlanTest(3))},
	{"vlan of mem", two("vlan://4{mem://packets}", "vlan://4{mem://packets}")},
	{"vlan in vlan", two("vlan://7{vlan://4/qinq{vlan://5{"+udpVNL(7001, 7002, "127.0.0.1")+"}}}",
		"vlan://7{vlan://4/qinq{vlan://5{"+udpVNL(7002, 7001, "127.0.0.1")+"}}}")},
	{"agno", func(t *testing.T) (a, b Conn) {
		vnl := agnoVNL(t, "mem://packets")
		return openPlug(t, vnl), openPlug(t, vnl)
	}},
	{"tags both ways of mem", two("vlan://5{vlan:///untag=5{mem://packets}}", "mem://packets")},
	{"vde", func(t *testing.T) (a, b Conn) {
		s := classicSwitch(t)
		return openPlug(t, "vde://"+s.Dir), openPlug(t, "vde://"+s.Dir)
	}},
	{"switch", func(t *testing.T) (a, b Conn) {
		_, dir := serve(t, "switch", "")
		return openPlug(t, dir), openPlug(t, dir)
	}},
	{"switch plug", func(t *testing.T) (a, b Conn) {
		a, dir := serve(t, "switch", "")
		return a, openPlug(t, dir)
	}},
	{"switch datagrams", func(t *testing.T) (a, b Conn) {
		setGSO(t, false)
		_, dir := serve(t, "switch", "")
		return openPlug(t, dir), openPlug(t, dir)
	}},
	{"stream", func(t *testing.T) (a, b Conn) {
		p, q := net.Pipe()
		a, b = NewStream(p), NewStream(q)
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}},
}

// TestPackets moves packets between two plugs of each network.
func TestPackets(t *testing.T) {
	testenv.Long(t)
	for _, pair := range packetPairs {
		t.Run(pair.name, func(t *testing.T) {
			plugtest.CheckPackets(t, func(t *testing.T) (a, b packet.Transport) {
				x, y := pair.open(t)
				if c, ok := packet.Find[*vxlan.Endpoint](transportOf(x)); ok {
					t.Cleanup(func() { wantSegments(t, c.Sender) })
				}
				return x.(packet.Transport), y.(packet.Transport)
			}, packetLimits(pair.name))
		})
	}
}

// TestPacketAllocs moves packets and frames without allocating.
func TestPacketAllocs(t *testing.T) {
	for _, pair := range append([]packetPair{
		{"vxvde6", two(vxvdeFamilies[1].vnl, vxvdeFamilies[1].vnl)},
		{"reconnect", func(t *testing.T) (a, b Conn) {
			return reopening(t, "mem://packets", nil), openPlug(t, "mem://packets")
		}},
	}, packetPairs...) {
		if pair.name == "stream" {
			continue // net.Pipe allocates
		}
		t.Run(pair.name, func(t *testing.T) {
			a, b := pair.open(t)
			plugtest.CheckPacketAllocs(t, a.(packet.Transport), b.(packet.Transport))
			if pair.name != "tags both ways of mem" { // which has no room for the tag on the way in
				plugtest.CheckAllocs(t, a, b)
			}
		})
	}
}

// packetLimits returns what the network cannot do.
func packetLimits(name string) plugtest.Limits {
	return plugtest.Limits{
		Segment:   map[string]int{"vde": 1500}[name],  // the switch cuts longer frames
		Segments:  map[string]int{"stream": 44}[name], // the pipe has no queue
		Unchecked: strings.Contains(name, "mem") || name == "switch" || name == "switch plug",
	}
}

// TestUDPUncut sends packets whose frames do not fit into a packet of the network
// below: the kernel does not cut them, and each goes in fragments.
func TestUDPUncut(t *testing.T) {
	needTAP(t) // the right to change interfaces
	ip(t, "link set lo mtu 1400")
	t.Cleanup(func() { ip(t, "link set lo mtu 65536") })
	for _, pair := range []packetPair{
		{"udp", two(udpVNL(7001, 7002, "127.0.0.1"), udpVNL(7002, 7001, "127.0.0.1"))},
		{"udp6", two(udpVNL(7001, 7002, "::1"), udpVNL(7002, 7001, "::1"))},
		{"vxvde", two("vxvde://", "vxvde://")},
	} {
		t.Run(pair.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			ca, cb := pair.open(t)
			a, b := ca.(packet.Transport), cb.(packet.Transport)
			plugtest.Greet(t, a, b)
			for range 2 {
				p := packettest.TCP(20, 1446)
				want := packettest.Frames(t, p)
				testenv.Check(t, a.SendPackets([]packet.Packet{p}, true))
				plugtest.Collect(t, b, want)
			}
			if d := ca.(Dropper).Drops(); d.Send != 0 {
				t.Errorf("dropped %+v", d)
			}
		})
	}
}

func BenchmarkPackets(b *testing.B) {
	from, to := openPlug(b, "mem://bench").(packet.Transport), openPlug(b, "mem://bench").(packet.Transport)
	packets := []packet.Packet{packettest.TCP(44, 1446)}
	var buf packet.Buffer
	defer buf.Release()
	b.SetBytes(int64(len(packets[0].Data)))
	b.ReportAllocs()
	for b.Loop() {
		from.SendPackets(packets, true)
		to.RecvPackets(&buf)
	}
}
