package vdeplug

import (
	"bytes"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vxlan"
)

// TestVXVDEC talks to the C program, in both directions, by multicast and then
// by unicast, until one of the two leaves.
func TestVXVDEC(t *testing.T) {
	for _, f := range vxvdeFamilies {
		t.Run(f.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := openPlug(t, f.vnl)
			here := plugtest.NewInbox(t, c)
			p := plugtest.NewProbe(t, f.group)
			there := plugtest.CPlug(t, f.vnl)
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
			bye := vxvdePacket(nil)
			// To the group went nothing but the broadcasts.
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
			// The C program says bye, and is forgotten.
			there.Quit(t)
			p.Want(t, p.Group, bye)
			mark = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)
			testenv.Eventually(t, "a frame to the group", func() bool {
				_, ok := on[*vxlan.Endpoint](c).on.Lookup(plugtest.Station(2))
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
			// It may read the frame before the bye.
			buf := make([]byte, ether.MaxFrame)
			testenv.Eventually(t, "a frame to the group", func() bool {
				mark = plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
				plugtest.Send(t, again, mark)
				p.Group.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				n, _, err := p.Group.ReadFromUDPAddrPort(buf)
				return err == nil && bytes.Equal(buf[:n], vxvdePacket(mark))
			})
		})
	}
}
