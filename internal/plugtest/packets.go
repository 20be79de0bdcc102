package plugtest

import (
	"bytes"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// Greet sends a frame both ways, so that both transports learn where the other is.
func Greet(t *testing.T, a, b packet.Transport) {
	t.Helper()
	for i, way := range [2][2]packet.Transport{{b, a}, {a, b}} {
		hello := TestFrame(Station(1+i), Station(2-i), 60)
		testenv.Check(t, way[0].SendPackets([]packet.Packet{{Data: hello}}, true))
		Collect(t, way[1], [][]byte{hello})
	}
}

// Collect receives packets until the frames have arrived, in order.
func Collect(t *testing.T, c packet.Transport, want [][]byte) {
	t.Helper()
	stop := time.AfterFunc(testenv.Timeout, func() { c.Close() })
	defer stop.Stop()
	var b packet.Buffer
	defer b.Release()
	for n := 0; n < len(want); {
		packets, err := c.RecvPackets(&b)
		if err != nil {
			t.Fatalf("frame %d of %d: %v", n, len(want), err)
		}
		for _, p := range packets {
			for _, frame := range packettest.Frames(t, p) {
				if n == len(want) || !bytes.Equal(frame, want[n]) {
					t.Fatalf("frame %d of %d is another, of %d bytes: %.64x", n, len(want), len(frame), frame)
				}
				n++
			}
		}
	}
}

// Limits say what a network cannot do in CheckPackets.
type Limits struct {
	Segment   int  // the largest TCP segment that it carries; 0 means any
	Segments  int  // how many segments it has room for at once; 0 means any number
	Unchecked bool // it passes packets on uncut: the receiver rejects invalid ones
}

// CheckPackets checks what every transport promises of packets. open returns two on one
// network of its own.
func CheckPackets(t *testing.T, open func(t *testing.T) (a, b packet.Transport), l Limits) {
	t.Run("sizes", func(t *testing.T) {
		testenv.NoLeaks(t)
		a, b := open(t)
		Greet(t, a, b)
		for _, size := range [][2]int{{1, 100}, {2, 1446}, {10, 1446}, {44, 1446}, {100, 400}, {7, 8900}} {
			if l.Segment > 0 && size[1] > l.Segment || l.Segments > 0 && size[0] > l.Segments {
				continue
			}
			p := packettest.TCP(size[0], size[1])
			want := packettest.Frames(t, p)
			testenv.Check(t, a.SendPackets([]packet.Packet{p}, true))
			Collect(t, b, want)
		}
		// Many packets at once, with frames between them.
		var packets []packet.Packet
		var want [][]byte
		for range 3 {
			for _, p := range []packet.Packet{{Data: TestFrame(Station(2), Station(1), 60)}, {Data: TestFrame(Station(2), Station(1), 1514)}, packettest.TCP(5, 1000)} {
				want = append(want, packettest.Frames(t, p)...)
				packets = append(packets, p)
			}
		}
		testenv.Check(t, a.SendPackets(packets, true))
		Collect(t, b, want)
		if _, lost := packet.Dropped(a); lost != 0 {
			t.Errorf("%d drops", lost)
		}
	})
	t.Run("one by one", func(t *testing.T) {
		testenv.NoLeaks(t)
		a, b := open(t)
		from, to := connOf(a), connOf(b)
		in := NewInbox(t, to)
		Carry(t, from, in, TestFrame(Broadcast, Station(1), 60))
		testenv.Check(t, to.Send(TestFrame(Station(1), Station(2), 60)))
		p := packettest.TCP(40, 1446)
		want := packettest.Frames(t, p)
		testenv.Check(t, a.SendPackets([]packet.Packet{p}, true))
		for _, frame := range want {
			in.Want(t, frame)
		}
	})
	// Packets that cannot be cut, or whose frames no network carries, are counted, and
	// nothing else happens.
	t.Run("invalid", func(t *testing.T) {
		testenv.NoLeaks(t)
		if l.Unchecked {
			t.Skip("the receiver rejects them") // another test checks that
		}
		a, b := open(t)
		Greet(t, a, b)
		bad := packettest.TCP(3, 1000)
		bad.Offload.GSOType = 77
		none := packettest.TCP(3, 1000)
		none.Offload.GSOSize = 0
		long := packet.Packet{Data: TestFrame(Station(2), Station(1), ether.MaxFrame+1)}
		short := packet.Packet{Data: make([]byte, ether.HeaderLen-1)}
		_, before := packet.Dropped(a)
		good := TestFrame(Station(2), Station(1), 99)
		testenv.Check(t, a.SendPackets([]packet.Packet{bad, none, long, short, {}, {Data: good}}, true))
		Collect(t, b, [][]byte{good})
		if _, after := packet.Dropped(a); after-before != 5 {
			t.Errorf("%d drops, want 5", after-before)
		}
	})
}

// CheckPacketAllocs moves packets between two transports without allocating.
func CheckPacketAllocs(t *testing.T, a, b packet.Transport) {
	t.Helper()
	if testenv.Race {
		t.Skip("the race detector empties pools")
	}
	Greet(t, a, b)
	packets := make([]packet.Packet, 2)
	var buf packet.Buffer
	defer buf.Release()
	model := packettest.TCP(30, 1446)
	data := bytes.Clone(model.Data)
	n := testing.AllocsPerRun(100, func() {
		copy(model.Data, data)
		packets[0], packets[1] = model, model
		packets[1].Offload, packets[1].Data = virtio.Header{}, data[:1514]
		testenv.Check(t, a.SendPackets(packets, true))
		for frames := 0; frames < 31; {
			got, err := b.RecvPackets(&buf)
			testenv.Check(t, err)
			for _, p := range got {
				n, _ := virtio.Count(p.Offload, p.Data)
				frames += n
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// connOf returns the plug on a transport, which may be one.
func connOf(t packet.Transport) Conn {
	if c, ok := t.(Conn); ok {
		return c
	}
	return NewConn(t)
}
