package fabric

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A plug is a port that sends and receives frames. Tests receive with arrivedFrames, as frames
// arrive before Send returns.
type plug struct {
	plugtest.Conn
	on *LocalPort
}

// openPorts opens ports of one switch.
func openPorts(t *testing.T, n int) []plug {
	t.Helper()
	f := newSwitch()
	ports := make([]plug, n)
	for i := range ports {
		p := NewLocalPort(f, nil)
		ports[i] = plug{plugtest.NewConn(p), p}
		t.Cleanup(func() { ports[i].Close() })
	}
	return ports
}

// arrivedFrames empties the queue of a port.
func (p plug) arrivedFrames(t *testing.T) (frames [][]byte) {
	t.Helper()
	var b packet.Buffer
	defer b.Release()
	for {
		p.on.mu.Lock()
		empty := p.on.queue.Empty()
		p.on.mu.Unlock()
		if empty {
			return frames
		}
		packets := testenv.Must(p.on.RecvPackets(&b))(t)
		frames = append(frames, packettest.Frames(t, packets...)...)
	}
}

// wantAt sends a frame and checks which ports get it.
func wantAt(t *testing.T, ports []plug, from int, frame []byte, want ...int) {
	t.Helper()
	testenv.Check(t, ports[from].Send(frame))
	var got []int
	for i, p := range ports {
		switch frames := p.arrivedFrames(t); {
		case len(frames) == 1 && bytes.Equal(frames[0], frame):
			got = append(got, i)
		case len(frames) != 0:
			t.Errorf("port %d got %d frames %.20x, want %.20x", i, len(frames), frames, frame)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("from %x to %x, sent at port %d: arrived at %v, want %v", frame[6:12], frame[:6], from, got, want)
	}
}

func TestSwitch(t *testing.T) {
	testenv.NoLeaks(t)
	ports := openPorts(t, 4)
	var now time.Duration
	ports[0].on.fabric.now = func() time.Duration { return now }
	a, b := plugtest.Station(1), plugtest.Station(2)
	multicast := ether.MAC{1, 0, 0x5e, 1, 2, 3}

	wantAt(t, ports, 0, plugtest.TestFrame(b, a, 60), 1, 2, 3)       // unknown
	wantAt(t, ports, 1, plugtest.TestFrame(a, b, 60), 0)             // learned
	wantAt(t, ports, 0, plugtest.TestFrame(b, a, ether.MaxFrame), 1) // both ways
	wantAt(t, ports, 2, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(3), 60), 0, 1, 3)
	wantAt(t, ports, 2, plugtest.TestFrame(multicast, plugtest.Station(3), 60), 0, 1, 3)
	wantAt(t, ports, 3, plugtest.TestFrame(a, multicast, 60), 0) // sender not learned
	wantAt(t, ports, 0, plugtest.TestFrame(multicast, a, 60), 1, 2, 3)
	wantAt(t, ports, 1, plugtest.TestFrame(b, plugtest.Station(4), 60)) // never back
	wantAt(t, ports, 0, plugtest.TestFrame(b, a, ether.HeaderLen), 1)

	wantAt(t, ports, 3, plugtest.TestFrame(plugtest.Broadcast, b, 60), 0, 1, 2) // b moves
	wantAt(t, ports, 0, plugtest.TestFrame(b, a, 60), 3)

	now += DefaultExpire + 1
	wantAt(t, ports, 1, plugtest.TestFrame(b, plugtest.Station(5), 60), 0, 2, 3) // b aged
	wantAt(t, ports, 3, plugtest.TestFrame(plugtest.Station(5), b, 60), 1)
	ports[3].Close()
	wantAt(t, ports[:3], 1, plugtest.TestFrame(b, plugtest.Station(5), 60), 0, 2) // b's port left
}

// TestBatch sends packets for several stations at once: each gets its own in order, with the
// packets for all at their places.
func TestBatch(t *testing.T) {
	testenv.NoLeaks(t)
	ports := openPorts(t, 3)
	for i, p := range ports {
		testenv.Check(t, p.Send(plugtest.TestFrame(plugtest.Station(99), plugtest.Station(i), 60)))
	}
	for _, p := range ports {
		p.arrivedFrames(t)
	}
	var batch []packet.Packet
	want := make([][][]byte, 3)
	for i := range 3 * batchSize {
		dst, src := plugtest.Station(1+i%2), plugtest.Station(0)
		if i%7 == 0 {
			dst = plugtest.Broadcast
		}
		f := plugtest.TestFrame(dst, src, 60+i)
		batch = append(batch, packet.Packet{Data: f})
		for j := 1; j < 3; j++ {
			if dst == plugtest.Broadcast || dst == plugtest.Station(j) {
				want[j] = append(want[j], f)
			}
		}
	}
	batch = append(batch, packet.Packet{}, packet.Packet{Data: make([]byte, ether.MaxFrame+1)})
	testenv.Check(t, ports[0].on.SendPackets(batch, true))
	for i, p := range ports {
		if got := p.arrivedFrames(t); !slices.EqualFunc(got, want[i], bytes.Equal) {
			t.Errorf("port %d got %d frames, want others, %d", i, len(got), len(want[i]))
		}
	}
	if recv, send := plugtest.Dropped(ports[0].Conn); recv != 0 || send != 2 {
		t.Errorf("dropped %d received and %d sent, want 0 and 2", recv, send)
	}
}

// TestVLAN has the same address in two VLANs.
func TestVLAN(t *testing.T) {
	testenv.NoLeaks(t)
	ports := openPorts(t, 3)
	tagged := func(dst, src ether.MAC, tag uint16) []byte {
		f := plugtest.TestFrame(dst, src, 64)
		f[12], f[13], f[14], f[15] = 0x81, 0, byte(tag>>8), byte(tag)
		return f
	}
	a, b := plugtest.Station(1), plugtest.Station(2)
	wantAt(t, ports, 0, tagged(b, a, 5), 1, 2)
	wantAt(t, ports, 1, tagged(b, a, 6), 0, 2)
	wantAt(t, ports, 2, tagged(a, b, 0xf005), 0) // with a priority
	wantAt(t, ports, 2, tagged(a, b, 6), 1)
	wantAt(t, ports, 2, plugtest.TestFrame(a, b, 60), 0, 1)
	wantAt(t, ports, 0, plugtest.TestFrame(b, a, 60), 2)
	wantAt(t, ports, 2, tagged(a, b, 0x2000), 0) // a priority only
	wantAt(t, ports, 2, plugtest.TestFrame(a, b, ether.HeaderLen), 0)
}

func TestFull(t *testing.T) {
	ports := openPorts(t, 2)
	const frames = 4000
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
	for range frames {
		testenv.Check(t, ports[0].Send(frame))
	}
	dropped, _ := plugtest.Dropped(ports[1].Conn)
	if arrived := len(ports[1].arrivedFrames(t)); arrived != ether.QueueMax/(ether.QueueLenSize+1514) || uint64(arrived)+dropped != frames {
		t.Errorf("%d arrived and %d dropped of %d", arrived, dropped, frames)
	}
	if recv, send := plugtest.Dropped(ports[0].Conn); recv != 0 || send != 0 {
		t.Errorf("sender: dropped %d and %d, want none", recv, send)
	}
}

func TestAllocs(t *testing.T) {
	ports := openPorts(t, 3)
	toAll := []packet.Packet{{Data: plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)}}
	toOne := []packet.Packet{{Data: plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), ether.MaxFrame)}}
	buf := make([]byte, ether.MaxFrame)
	if n := testing.AllocsPerRun(1000, func() {
		testenv.Check(t, ports[0].on.SendPackets(toAll, false))
		testenv.Check(t, ports[1].on.SendPackets(toOne, false))
		for _, p := range ports {
			p.on.queue.Pop(buf) // not RecvPackets: the race detector empties the pool of buffers
		}
	}); n != 0 {
		t.Errorf("%v allocations for two packets, want 0", n)
	}
}
