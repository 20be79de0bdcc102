package vdeplug

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// packetPairs are networks with two plugs that move packets.
var packetPairs = []struct {
	name string
	open func(t *testing.T) (a, b Conn)
}{
	{"mem", func(t *testing.T) (a, b Conn) { return openTest(t, "mem://packets"), openTest(t, "mem://packets") }},
	{"ptp", func(t *testing.T) (a, b Conn) {
		_, vnl := ptpName(t)
		return openTest(t, vnl), openTest(t, vnl)
	}},
	{"ptp seqpacket", func(t *testing.T) (a, b Conn) {
		_, vnl := ptpSeqName(t)
		return openTest(t, vnl), openTest(t, vnl)
	}},
	{"seqpacket", func(t *testing.T) (a, b Conn) {
		x, y := socketPair(t, unix.SOCK_SEQPACKET)
		return openSeqpacketTest(t, x), openSeqpacketTest(t, y)
	}},
	{"udp", func(t *testing.T) (a, b Conn) {
		return openTest(t, udpVNL(7001, 7002, "127.0.0.1")), openTest(t, udpVNL(7002, 7001, "127.0.0.1"))
	}},
	{"udp6", func(t *testing.T) (a, b Conn) {
		return openTest(t, udpVNL(7001, 7002, "[::1]")), openTest(t, udpVNL(7002, 7001, "[::1]"))
	}},
	{"vxvde", func(t *testing.T) (a, b Conn) { return openTest(t, "vxvde://"), openTest(t, "vxvde://") }},
	{"vxlan", func(t *testing.T) (a, b Conn) { return openTest(t, vxlanTest(2)), openTest(t, vxlanTest(3)) }},
	{"vlan of mem", func(t *testing.T) (a, b Conn) {
		return openTest(t, "vlan://4{mem://packets}"), openTest(t, "vlan://4{mem://packets}")
	}},
	{"vlan in vlan", func(t *testing.T) (a, b Conn) {
		const vnl = "vlan://7{vlan://4/qinq{vlan://5{%s}}}"
		return openTest(t, fmt.Sprintf(vnl, udpVNL(7001, 7002, "127.0.0.1"))), openTest(t, fmt.Sprintf(vnl, udpVNL(7002, 7001, "127.0.0.1")))
	}},
	{"agno", func(t *testing.T) (a, b Conn) {
		vnl := agnoVNL(t, "mem://packets")
		return openTest(t, vnl), openTest(t, vnl)
	}},
	{"tags both ways of mem", func(t *testing.T) (a, b Conn) {
		return openTest(t, "vlan://5{vlan:///untag=5{mem://packets}}"), openTest(t, "mem://packets")
	}},
	{"vde", func(t *testing.T) (a, b Conn) {
		s := classicSwitch(t)
		return openTest(t, "vde://"+s.Dir), openTest(t, "vde://"+s.Dir)
	}},
	{"switch", func(t *testing.T) (a, b Conn) {
		_, dir := serve(t, "switch", "")
		return openTest(t, dir), openTest(t, dir)
	}},
	{"switch plug", func(t *testing.T) (a, b Conn) {
		a, dir := serve(t, "switch", "")
		return a, openTest(t, dir)
	}},
	{"switch datagrams", func(t *testing.T) (a, b Conn) {
		setGSO(t, false)
		_, dir := serve(t, "switch", "")
		return openTest(t, dir), openTest(t, dir)
	}},
	{"stream", func(t *testing.T) (a, b Conn) {
		p, q := net.Pipe()
		a, b = NewStream(p), NewStream(q)
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}},
}

func openTest(t *testing.T, vnl string) Conn {
	t.Helper()
	c, err := Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestPackets moves packets between two plugs of each network.
func TestPackets(t *testing.T) {
	for _, pair := range packetPairs {
		t.Run(pair.name, func(t *testing.T) {
			plugtest.CheckPackets(t, func(t *testing.T) (a, b packet.Transport) {
				x, y := pair.open(t)
				if c, ok := isOn[*vxlan.Endpoint](x); ok {
					t.Cleanup(func() {
						if limit := c.on.Sender.Limit.Load(); limit != math.MaxInt64 {
							t.Errorf("the kernel does not cut datagrams of %d bytes", limit)
						}
					})
				}
				return x.(packet.Transport), y.(packet.Transport)
			}, packetLimits(pair.name))
		})
	}
}

// packetLimits returns what the network does not do.
func packetLimits(name string) plugtest.Limits {
	return plugtest.Limits{
		Segment:   map[string]int{"vde": 1500}[name],  // the switch cuts longer frames
		Segments:  map[string]int{"stream": 44}[name], // the pipe has no queue
		Unchecked: strings.Contains(name, "mem") || slices.Contains([]string{"ptp", "switch", "switch plug"}, name),
		Allocates: name == "stream", // net.Pipe does
	}
}

// TestUDPUncut sends packets whose frames do not fit into a packet of the network
// below: the kernel does not cut them, and each goes in fragments.
func TestUDPUncut(t *testing.T) {
	needTAP(t) // the right to change interfaces
	ip(t, "link set lo mtu 1400")
	t.Cleanup(func() { ip(t, "link set lo mtu 65536") })
	for _, pair := range packetPairs {
		if pair.name != "udp" && pair.name != "udp6" && pair.name != "vxvde" {
			continue
		}
		t.Run(pair.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			ca, cb := pair.open(t)
			a, b := ca.(packet.Transport), cb.(packet.Transport)
			plugtest.Greet(t, a, b)
			for range 2 {
				p := packettest.TCP(20, 1446)
				want := packettest.Frames(t, p)
				if err := a.SendPackets([]packet.Packet{p}, true); err != nil {
					t.Fatal(err)
				}
				plugtest.Collect(t, b, want)
			}
			if d := ca.(Dropper).Drops(); d.Send != 0 {
				t.Errorf("dropped %+v", d)
			}
		})
	}
}

func BenchmarkPackets(b *testing.B) {
	for _, mss := range []int{1446} {
		b.Run(fmt.Sprint(mss), func(b *testing.B) {
			p := packettest.TCP(44, mss)
			a, c := openMemPair(b)
			var buf packet.Buffer
			defer buf.Release()
			b.SetBytes(int64(len(p.Data)))
			b.ReportAllocs()
			packets := []packet.Packet{p}
			for b.Loop() {
				a.SendPackets(packets, true)
				c.RecvPackets(&buf)
			}
		})
	}
}

func openMemPair(b *testing.B) (x, y packet.Transport) {
	for _, p := range []*packet.Transport{&x, &y} {
		c, err := Open("mem://bench", nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		*p = c.(packet.Transport)
	}
	return x, y
}
