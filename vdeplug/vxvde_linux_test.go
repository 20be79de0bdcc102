package vdeplug

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// vxvdeFamilies are the networks of the tests. IPv6 multicast needs an interface, where large
// packets become fragments.
var vxvdeFamilies = []struct {
	name, vnl string
	group     netip.AddrPort
}{
	{"IPv4", "vxvde://", netip.MustParseAddrPort("239.0.0.1:14789")},
	{"IPv6", "vxvde:///v6/if=test0", netip.MustParseAddrPort("[ff05:56de::1]:14789")},
}

// TestVXPair has two endpoints of vxvde or vxlan on one host: each gets what the other sends
// once, and nothing of its own.
func TestVXPair(t *testing.T) {
	for _, tt := range []struct{ name, a, b string }{
		{"vxvde IPv4", vxvdeFamilies[0].vnl, vxvdeFamilies[0].vnl},
		{"vxvde IPv6", vxvdeFamilies[1].vnl, vxvdeFamilies[1].vnl},
		{"vxlan, remotes", vxlanTest(2), vxlanTest(3)},
		{"vxlan, group", "vxlan:///if=lo/bind=127.0.0.2", "vxlan:///if=lo/bind=127.0.0.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			a, b := openInbox(t, tt.a), openInbox(t, tt.b)
			for _, n := range []int{15, 60, 1514, ether.MaxFrame} {
				frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
				plugtest.Send(t, a, frame)
				b.WantNext(t, frame)
				frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n)
				plugtest.Send(t, b, frame)
				a.WantNext(t, frame)
			}
			// vxvde rejects a frame without payload.
			drops, empty := Drops{}, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 14)
			plugtest.Send(t, a, empty)
			if strings.HasPrefix(tt.name, "vxvde") {
				drops.Recv = 1
			} else {
				b.WantNext(t, empty)
			}
			last := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 15)
			plugtest.Send(t, a, last)
			b.WantNext(t, last)
			wantDrops(t, b, drops)
		})
	}
}

// vxvdePacket returns the packet of vxvde with VNI 1 and the frame.
func vxvdePacket(frame []byte) []byte { return append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, frame...) }

// TestVXVDEPortTaken has another program that does not share the port.
func TestVXVDEPortTaken(t *testing.T) {
	testenv.NoLeaks(t)
	other := testenv.Must(net.ListenUDP("udp4", &net.UDPAddr{Port: 5556}))(t)
	defer other.Close()
	wantOpenError(t, "vxvde:///port=5556", "port 5556 of group 239.0.0.1 is taken")
}

// TestVXVDENoRoute also checks that the sockets are in the namespace of the caller.
func TestVXVDENoRoute(t *testing.T) {
	newNetns(t).do(func() {
		for vnl, text := range map[string]string{
			"vxvde://234.0.0.1": "no route to the group 234.0.0.1: add one (ip route add 224.0.0.0/4 dev NAME), or name the interface (if=NAME)",
			"vxvde://ff05::1":   "no route to the group ff05::1: bring up an interface that has IPv6, or name",
		} {
			wantOpenError(t, vnl, text, unix.ENODEV)
		}
		c, err := Open("vxvde:///if=lo", nil)
		if err != nil {
			t.Errorf("with an interface: %v", err)
			return
		}
		defer c.Close()
		// The interface is down: nothing can be sent, but that may change.
		if err := c.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)); err != nil {
			t.Errorf("send: %v", err)
		}
		wantDrops(t, c, Drops{Send: 1})
	})
}

func BenchmarkVXVDE(b *testing.B) {
	from, to := openPlug(b, "vxvde://"), openPlug(b, "vxvde://")
	testenv.Check(b, to.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))) // so that from knows where it is
	testenv.Must(from.Recv(make([]byte, ether.MaxFrame)))(b)
	benchPlugs(b, from, to, plugtest.Station(1))
}

// TestVXVDEC exchanges frames with the C program, by multicast and then by unicast, until one
// of the two leaves.
func TestVXVDEC(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openPlug(t, f.vnl)
			here := plugtest.NewInbox(t, c)
			p := plugtest.NewProbe(t, f.group)
			there := plugtest.CPlug(t, f.vnl)
			plugtest.Carry(t, here, there.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			plugtest.SendBoth(t, here, there.Inbox, 1514, 1514, 15, 60, 9000, ether.MaxFrame)
			bye := vxvdePacket(nil)
			// Only broadcasts went to the group.
			mark := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
			plugtest.Send(t, here, mark)
			for {
				got, _ := p.Read(t, p.Group)
				frame := got[len(bye):]
				if dst, _ := ether.MACs(frame); dst != plugtest.Broadcast {
					t.Errorf("a frame to %x went to the group", dst)
				}
				if bytes.Equal(frame, mark) {
					break
				}
			}
			// The C program says bye: its station is forgotten.
			there.Quit(t)
			p.Want(t, p.Group, bye)
			mark = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)
			testenv.Eventually(t, "a frame to the group", func() bool {
				endpoint, _ := packet.Find[*vxlan.Endpoint](transportOf(c))
				_, ok := endpoint.Lookup(plugtest.Station(2))
				return !ok
			})
			plugtest.Send(t, here, mark)
			p.Want(t, p.Group, vxvdePacket(mark))
			// And the other way round.
			again := plugtest.CPlug(t, f.vnl)
			plugtest.Carry(t, here, again.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			here.Close()
			for got, _ := p.Read(t, p.Group); !bytes.Equal(got, bye); {
				got, _ = p.Read(t, p.Group)
			}
			// The C program may read the frame before the bye, and send it late.
			buf := make([]byte, ether.MaxFrame)
			mark = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
			testenv.Eventually(t, "a frame to the group", func() bool {
				plugtest.Send(t, again, mark)
				p.Group.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				n, _, err := p.Group.ReadFromUDPAddrPort(buf)
				return err == nil && bytes.Equal(buf[:n], vxvdePacket(mark))
			})
		})
	}
}
