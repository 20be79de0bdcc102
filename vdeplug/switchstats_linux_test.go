package vdeplug

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestSwitches counts what passes a switch with a plug and a client, and one of mem://.
func TestSwitches(t *testing.T) {
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	want := func(vnl string, want SwitchStats) {
		t.Helper()
		want.VNL = vnl
		var got SwitchStats
		testenv.Eventually(t, "the switch has these counters", func() bool {
			got = SwitchStats{}
			for _, s := range Switches() {
				if s.VNL == vnl {
					got = s
				}
			}
			return got == want
		}, func() string { return fmt.Sprintf("%+v, want %+v", got, want) })
	}
	plug := openInbox(t, "switch://"+dir)
	client := openInbox(t, "vde://"+dir)
	want("switch://"+dir, SwitchStats{Plugs: 1, Clients: 1})
	hello := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
	testenv.Check(t, plug.Send(hello))
	client.Want(t, hello)
	answer := plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 100)
	testenv.Check(t, client.Send(answer))
	plug.Want(t, answer)
	want("switch://"+dir, SwitchStats{Plugs: 1, Clients: 1, Stations: 2, Frames: 2, Bytes: 160})
	client.Close()
	want("switch://"+dir, SwitchStats{Plugs: 1, Stations: 1, Frames: 2, Bytes: 160})
	plug.Close()
	if all := Switches(); len(all) > 0 {
		t.Errorf("without a plug: %+v", all)
	}

	vnl := "mem://" + t.Name()
	a := testenv.Opened(Open(vnl, nil))(t)
	b := testenv.Opened(Open(vnl, nil))(t)
	const frames = 5000
	large := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1500)
	for range frames { // more than a queue holds
		testenv.Check(t, a.Send(large))
	}
	dropped := b.(Dropper).Drops().Recv
	if dropped == 0 {
		t.Error("the queue has no end")
	}
	full := SwitchStats{Plugs: 2, Stations: 1, Frames: frames, Bytes: frames * 1500, Dropped: dropped}
	want(vnl, full)
	b.Close()
	full.Plugs = 1
	want(vnl, full)
}
