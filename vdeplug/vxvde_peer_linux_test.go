package vdeplug

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A probe is a member of the group with plain sockets: it sees the packets
// that go to the group, sends any, and sees what is sent to it alone.
type probe struct {
	group *net.UDPConn
	own   *net.UDPConn
	to    netip.AddrPort
}

func newProbe(t *testing.T, c plugOn[*vxvdeConn]) *probe {
	t.Helper()
	group := netip.AddrPortFrom(c.on.sockets.group.Addr(), c.on.sockets.group.Port())
	var ifi *net.Interface
	local := "0.0.0.0:0"
	if group.Addr().Is6() {
		var err error
		if ifi, err = net.InterfaceByName("test0"); err != nil {
			t.Fatal(err)
		}
		local = "[fd09::1]:0"
	}
	in, err := net.ListenMulticastUDP("udp", ifi, net.UDPAddrFromAddrPort(group))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	own, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	return &probe{in, own, group}
}

// Send sends a packet to the group.
func (p *probe) send(t *testing.T, packet []byte) {
	t.Helper()
	if _, err := p.own.WriteToUDPAddrPort(packet, p.to); err != nil {
		t.Fatal(err)
	}
}

// read returns the next packet of one of the probe's sockets that it has not
// sent itself.
func (p *probe) read(t *testing.T, from *net.UDPConn) (packet []byte, src netip.AddrPort) {
	t.Helper()
	self := p.own.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	buf := make([]byte, 64<<10)
	for {
		from.SetReadDeadline(time.Now().Add(testenv.Timeout))
		n, src, err := from.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if src.Port() != self {
			return buf[:n], src
		}
	}
}

// want reads a packet and compares it.
func (p *probe) want(t *testing.T, from *net.UDPConn, packet []byte) {
	t.Helper()
	if got, _ := p.read(t, from); !bytes.Equal(got, packet) {
		t.Fatalf("got packet % .40x, want % .40x", got, packet)
	}
}

func withHeader(header vxvdeHeader, frame []byte) []byte { return append(header[:], frame...) }

// TestVXVDEC talks to the C program, in both directions, by multicast and then
// by unicast, until one of the two leaves.
func TestVXVDEC(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c, _ := openVXVDETest(t, f.vnl)
			here := plugtest.NewInbox(t, c)
			p := newProbe(t, c)
			there := cPlug(t, f.vnl)
			plugtest.Carry(t, here, there.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			for range 2 {
				frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 1514)
				plugtest.Send(t, there, frame)
				here.Want(t, frame)
				frame = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 1514)
				plugtest.Send(t, here, frame)
				there.Want(t, frame)
			}
			for _, n := range []int{15, 60, 9000, ether.MaxFrame} {
				frame := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), n)
				plugtest.Send(t, here, frame)
				there.Want(t, frame)
				frame = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), n)
				plugtest.Send(t, there, frame)
				here.Want(t, frame)
			}
			// To the group went nothing but the broadcasts.
			mark := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
			plugtest.Send(t, here, mark)
			for {
				got, _ := p.read(t, p.group)
				frame := got[vxvdeHeaderLen:]
				if dst, _ := ether.MACs(frame); dst != plugtest.Broadcast {
					t.Errorf("a frame to %x went to the group", dst)
				}
				if bytes.Equal(frame, mark) {
					break
				}
			}
			bye := makeVXVDEHeader(1)
			// The C program says bye, and is forgotten.
			there.quit(t)
			p.want(t, p.group, bye[:])
			mark = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)
			testenv.Eventually(t, "a frame to the group", func() bool {
				c.on.mu.Lock()
				defer c.on.mu.Unlock()
				_, ok := c.on.table.Lookup(plugtest.Station(2), c.on.now())
				return !ok
			})
			plugtest.Send(t, here, mark)
			p.want(t, p.group, withHeader(bye, mark))
			// And the other way round.
			again := cPlug(t, f.vnl)
			plugtest.Carry(t, here, again.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			here.Close()
			for got, _ := p.read(t, p.group); !bytes.Equal(got, bye[:]); {
				got, _ = p.read(t, p.group)
			}
			// It may read the frame before the bye.
			buf := make([]byte, ether.MaxFrame)
			testenv.Eventually(t, "a frame to the group", func() bool {
				mark = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
				plugtest.Send(t, again, mark)
				p.group.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				n, _, err := p.group.ReadFromUDPAddrPort(buf)
				return err == nil && bytes.Equal(buf[:n], withHeader(bye, mark))
			})
		})
	}
}
