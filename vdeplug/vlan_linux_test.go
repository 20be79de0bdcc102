package vdeplug

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// TestVLANC sends the frames of vlanTests through the plug in C.
func TestVLANC(t *testing.T) {
	testenv.Need(t, "vde_plug", "vdeplug")
	for _, tt := range vlanTests {
		t.Run(tt.vnl, func(t *testing.T) {
			testenv.NoLeaks(t)
			path, ptp := ptpName(t)
			there := plugtest.CPlug(t, tt.vnl+"{"+ptp+"}")
			waitPath(t, path)
			network := openInbox(t, ptp)
			// The last frame passes, which shows that all earlier ones were read.
			check := func(way string, from Conn, to *plugtest.Inbox, table map[int]int) {
				t.Helper()
				order := slices.Sorted(maps.Keys(table))
				passes := slices.IndexFunc(order, func(n int) bool { return table[n] != nothing })
				order = append(order, order[passes])
				// The plug may still be opening its network.
				hello := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
				testenv.Eventually(t, "a frame", func() bool {
					plugtest.Send(t, from, tagFrame(hello, etherTypeVLAN, order[passes], 0))
					select {
					case <-to.Frames:
						return true
					default:
						return false
					}
				})
				var want [][]byte
				for _, n := range order {
					frame := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
					plugtest.Send(t, from, tagFrame(frame, etherTypeVLAN, n, 5))
					if table[n] != nothing {
						want = append(want, tagFrame(frame, etherTypeVLAN, table[n], 0))
					}
				}
				for _, frame := range want {
					got := to.Next(t)
					for bytes.Contains(got, hello[ether.HeaderLen:]) {
						got = to.Next(t)
					}
					if len(got) == ether.MaxFrame && way == "in" {
						got = got[:len(frame)] // the plug returns the whole buffer if it has changed the number
					}
					if !bytes.Equal(got, frame) {
						t.Fatalf("%s: got % x, want % x", way, got[:20], frame[:20])
					}
				}
			}
			check("out", there, network, tt.out)
			check("in", network, there.Inbox, tt.in)
		})
	}
}

// TestVLANCPair is a VLAN with a plug of ours and one in C.
func TestVLANCPair(t *testing.T) {
	testenv.NoLeaks(t)
	s := newSwitch(t, vdetest.Plug) // vde_switch must be configured for VLANs
	for _, format := range []string{"vlan://%d{%s}", "vlan://%d/qinq{%s}", "vlan://%d{vlan://5/qinq{%s}}"} {
		t.Run(strings.ReplaceAll(format, "/", ""), func(t *testing.T) {
			vnl := fmt.Sprintf(format, 4, s.Dir)
			here, there, other := openInbox(t, vnl), plugtest.CPlug(t, vnl), openInbox(t, fmt.Sprintf(format, 6, s.Dir))
			plugtest.Carry(t, here, there.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
			plugtest.Carry(t, there, here, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			plugtest.SendBoth(t, here, there.Inbox, 14, 60, 1500)
			select {
			case frame := <-other.Frames:
				t.Errorf("a frame got into another VLAN: %x", frame)
			default:
			}
		})
	}
}
