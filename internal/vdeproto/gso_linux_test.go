package vdeproto

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/sockio"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestGSO sees GSO packets go through as they are between clients of this
// package and plugs of the process.
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
			if err := from.SendPackets([]packet.Packet{{Data: hello}}, true); err != nil {
				t.Fatal(err)
			}
			for _, to := range ends {
				if to != from {
					plugtest.Collect(t, to, [][]byte{hello})
				}
			}
		}
		p := packettest.TCP(44, 1446)
		want := bytes.Clone(p.Data)
		if err := a.SendPackets([]packet.Packet{p}, true); err != nil {
			t.Fatal(err)
		}
		var buf packet.Buffer
		got, err := b.RecvPackets(&buf)
		if err != nil || len(got) != 1 || got[0].Offload != p.Offload || !bytes.Equal(got[0].Data, want) {
			t.Errorf("from end %d: got %d packets, %v, want the same one", i, len(got), err)
		}
		buf.Release()
	}
}

func BenchmarkConn(b *testing.B) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	ctl, other, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	data, err := sockio.NewPollFile(pair[0], "data")
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(pair[1])
	c := plugtest.NewConn(newConn("", ctl, data, false))
	defer c.Close()
	frame, buf := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514), make([]byte, ether.MaxFrame)
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		c.Send(frame)
		n, _ := unix.Read(pair[1], buf)
		unix.Write(pair[1], buf[:n])
		if _, err := c.Recv(buf); err != nil {
			b.Fatal(err)
		}
	}
}
