package vdeproto

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestGSO sends GSO packets between clients of this package and plugs of the process. They
// arrive unchanged.
func TestGSO(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	local := openSwitch(t, dir, 0o600, 0o700)
	one, other := openPlug(t, dir), openPlug(t, dir)
	if !one.on.gso || !other.on.gso {
		t.Fatal("no pair of sockets")
	}
	ends := []packet.Transport{one.on, other.on, local.on}
	for i, a := range ends {
		b := ends[(i+1)%len(ends)]
		for j, from := range []packet.Transport{a, b} {
			hello := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1+j), 60)
			testenv.Check(t, from.SendPackets([]packet.Packet{{Data: hello}}, true))
			for _, to := range ends {
				if to != from {
					plugtest.Collect(t, to, [][]byte{hello})
				}
			}
		}
		p := packettest.TCP(44, 1446)
		want := bytes.Clone(p.Data)
		testenv.Check(t, a.SendPackets([]packet.Packet{p}, true))
		var buf packet.Buffer
		got, err := b.RecvPackets(&buf)
		if err != nil || len(got) != 1 || got[0].Offload != p.Offload || !bytes.Equal(got[0].Data, want) {
			t.Errorf("from end %d: got %d packets, %v, want the same one", i, len(got), err)
		}
		buf.Release()
	}
}
