package netem

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// newSwitch returns a network for the tests.
func newSwitch() *fabric.Fabric {
	return fabric.New(fabric.Switch, fabric.DefaultStations, fabric.DefaultExpire)
}

// both impairs both directions.
func both(i Impairment, seed uint64) Settings { return Settings{Out: i, In: i, Seed: seed} }

// An arrival is a frame with the time since the beginning.
type arrival struct {
	at    time.Duration
	frame []byte
}

// numbered returns a frame of 26 bytes or more that is full of its number.
func numbered(n, size int) []byte {
	f := make([]byte, ether.HeaderLen, size+4)
	dst, src := plugtest.Station(2), plugtest.Station(1)
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12], f[13] = 0x88, 0xb5
	for len(f) < size {
		f = binary.BigEndian.AppendUint32(f, uint32(n))
	}
	return f[:size]
}

// numberOf returns the number of a frame in which one bit may be wrong.
func numberOf(frame []byte) int {
	var n [3]uint32
	for i := range n {
		n[i] = binary.BigEndian.Uint32(frame[ether.HeaderLen+4*i:])
	}
	if n[0] == n[1] {
		return int(n[0])
	}
	return int(n[2])
}

// A channel is a switch with a plug that is impaired, and one that is not, in a bubble
// of time. What the test sends passes in the direction "out" or "in".
type channel struct {
	emu      *Transport
	from, to plugtest.Conn
	incoming bool
	start    time.Time
	arrived  []arrival // once the bubble is idle
}

// inChannel runs f in a bubble, for each direction, sees that nothing is left, and closes all.
func inChannel(t *testing.T, settings Settings, f func(t *testing.T, c *channel)) {
	t.Helper()
	for _, way := range []string{"out", "in"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChannel(t, way, settings)
				f(t, c)
				idle(t, c.emu)
			})
		})
	}
}

func newChannel(t *testing.T, way string, settings Settings) *channel {
	t.Helper()
	sw := newSwitch()
	c := &channel{start: time.Now(), emu: New(fabric.NewLocalPort(sw, nil), settings), incoming: way == "in"}
	c.from, c.to = plugtest.NewConn(c.emu), plugtest.NewConn(fabric.NewLocalPort(sw, nil))
	if c.incoming {
		c.from, c.to = c.to, c.from
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, ether.MaxFrame)
		for {
			n, err := c.to.Recv(buf)
			if err != nil {
				return
			}
			c.arrived = append(c.arrived, arrival{time.Since(c.start), bytes.Clone(buf[:n])})
		}
	}()
	t.Cleanup(func() {
		c.from.Close()
		c.to.Close()
		<-done
	})
	synctest.Wait()
	return c
}

// sendNumbers sends frames and waits until they have arrived, and no more come.
func (c *channel) sendNumbers(t *testing.T, first, count, size int) (arrived []arrival) {
	t.Helper()
	for n := range count {
		plugtest.Send(t, c.from, numbered(first+n, size))
	}
	return c.rest()
}

func (c *channel) rest() []arrival {
	time.Sleep(2 * time.Hour) // of the bubble
	synctest.Wait()
	arrived := c.arrived
	c.arrived = nil
	return arrived
}

func numbersOf(arrived []arrival) (numbers []int) {
	for _, a := range arrived {
		numbers = append(numbers, numberOf(a.frame))
	}
	return numbers
}

// counts returns the counters of the direction.
func (c *channel) counts() Counts {
	out, in := c.emu.Counts()
	if c.incoming {
		return in
	}
	return out
}

// TestRepeats checks that the same frames are lost with the same seed, and others with
// another seed or in the other direction.
func TestRepeats(t *testing.T) {
	impairment := Impairment{Loss: .2, Duplicate: .1, Reorder: .1, Corrupt: .1}
	var before [][]arrival
	run := func(name, way string, settings Settings, frames int) (arrived []arrival) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChannel(t, way, settings)
				for n := range frames {
					plugtest.Send(t, c.from, numbered(n, 100))
				}
				arrived = c.rest()
			})
		})
		return arrived
	}
	for _, way := range []string{"out", "in"} {
		a, b := run(way, way, both(impairment, 7), 1000), run(way+" again", way, both(impairment, 7), 1000)
		if !slices.EqualFunc(a, b, func(a, b arrival) bool { return bytes.Equal(a.frame, b.frame) }) {
			t.Error("the same seed has other results")
		}
		before = append(before, a, run(way+" another seed", way, both(impairment, 8), 1000))
		// Other settings change nothing of the loss.
		lost := numbersOf(run(way+" loss only", way, both(Impairment{Loss: .2}, 7), 1000))
		got := numbersOf(a)
		slices.Sort(got)
		if !slices.Equal(slices.Compact(got), lost) {
			t.Error("other frames are lost without other settings")
		}
	}
	for i := range before {
		for j := range i {
			if slices.Equal(numbersOf(before[i]), numbersOf(before[j])) {
				t.Errorf("runs %d and %d are the same", i, j)
			}
		}
	}
}

// TestParts counts the frames that are lost, duplicated, changed and held back, which are the
// same each time.
func TestParts(t *testing.T) {
	const frames = 20000
	inChannel(t, both(Impairment{Loss: .1, Duplicate: .05, Corrupt: .2, Reorder: .02}, 1), func(t *testing.T, c *channel) {
		arrived := make(map[int]int)
		last, late, changed := -1, 0, 0
		for n := 0; n < frames; n += 1000 {
			for i := range 1000 {
				plugtest.Send(t, c.from, numbered(n+i, 60))
			}
			for _, a := range c.rest() {
				number, flipped := numberOf(a.frame), 0
				for i, b := range numbered(number, 60) {
					flipped += bits.OnesCount8(a.frame[i] ^ b)
				}
				if flipped > 1 || flipped == 1 && !bytes.Equal(a.frame[:ether.HeaderLen], numbered(0, 60)[:ether.HeaderLen]) {
					t.Fatalf("%d bits are wrong in %x", flipped, a.frame)
				}
				changed += flipped
				if number < last && arrived[number] == 0 {
					late++
				}
				last = max(last, number)
				arrived[number]++
			}
		}
		got := c.counts()
		near := func(what string, got uint64, want float64) {
			t.Helper()
			if sigma := math.Sqrt(want); math.Abs(float64(got)-want) > 4*sigma {
				t.Errorf("%d frames of %d were %s, want about %.0f", got, frames, what, want)
			}
		}
		if got.Frames != frames || got.Dropped != 0 {
			t.Errorf("got %+v", got)
		}
		near("lost", got.Lost, frames*.1)
		near("duplicated", got.Duplicated, frames*.9*.05)
		near("changed", got.Corrupted, frames*.9*.2)
		near("held back", got.Reordered, frames*.9*.02)
		near("changed at the other end", uint64(changed), frames*.9*.2*1.05)
		near("late at the other end", uint64(late), frames*.9*.02)
		if recv, send := c.emu.Dropped(); recv+send != 0 {
			t.Errorf("%d drops: frames that the network loses are none", recv+send)
		}
	})
}

// TestConserves sends frames and changes settings at random: each frame is accounted for, and
// only frames that were held back arrive out of order.
func TestConserves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		impairment := func() Impairment {
			part := func() float64 { return max(0, r.Float64()-.5) }
			i := Impairment{Loss: part(), Duplicate: part(), Reorder: part()}
			if r.IntN(2) == 0 {
				i.Rate, i.Queue = 1+r.Int64N(10e6), 1+r.IntN(8<<10)
			}
			if r.IntN(2) == 0 {
				i.Delay, i.Jitter = time.Duration(r.IntN(1e9)), time.Duration(r.IntN(1e9))
			}
			return i
		}
		inChannel(t, Settings{Seed: uint64(i + 1)}, func(t *testing.T, c *channel) {
			frames := 0
			for range 5 {
				imp := impairment()
				testenv.Check(t, c.emu.Set(both(imp, 0)))
				for range 40 {
					plugtest.Send(t, c.from, numbered(frames, 60+r.IntN(1400)))
					frames++
					time.Sleep(time.Duration(r.IntN(2e7)))
				}
			}
			time.Sleep(50 * time.Hour) // at one bit in a second
			arrived, got := numbersOf(c.rest()), c.counts()
			if want := uint64(frames) - got.Lost + got.Duplicated - got.Dropped; uint64(len(arrived)) != want {
				t.Errorf("%d frames arrived of %d, want %d: %+v", len(arrived), frames, want, got)
			}
			var late uint64
			last := -1
			for _, n := range arrived {
				if n < last {
					late++
				}
				last = max(last, n)
			}
			if late > got.Reordered+got.Duplicated {
				t.Errorf("%d frames are late, but only %d were held back", late, got.Reordered)
			}
			if recv, send := c.emu.Dropped(); recv+send != got.Dropped {
				t.Errorf("%d drops, want %d", recv+send, got.Dropped)
			}
		})
	}
}

// idle checks that there is no timer, and no memory for packets.
func idle(t *testing.T, e *Transport) {
	t.Helper()
	for _, p := range []*pipe{&e.out, &e.in} {
		p.mu.Lock()
		if p.timerSet || p.queue.head != nil || p.queue.tail != nil || p.queue.bytes != 0 || p.sending {
			t.Errorf("nothing is in flight, but a timer is set (%v) or %d bytes are held", p.timerSet, p.queue.bytes)
		}
		p.mu.Unlock()
	}
}

// TestDelay checks when frames arrive.
func TestDelay(t *testing.T) {
	const delay, jitter = 20 * time.Millisecond, 10 * time.Millisecond
	inChannel(t, both(Impairment{Delay: delay}, 0), func(t *testing.T, c *channel) {
		for n := range 100 {
			plugtest.Send(t, c.from, numbered(n, 60))
			time.Sleep(time.Millisecond)
		}
		for n, a := range c.rest() {
			if want := time.Duration(n)*time.Millisecond + delay; a.at != want || numberOf(a.frame) != n {
				t.Errorf("frame %d arrived as number %d after %v, want %v", numberOf(a.frame), n, a.at, want)
			}
		}
	})
	inChannel(t, both(Impairment{Delay: delay, Jitter: jitter}, 3), func(t *testing.T, c *channel) {
		// One at a time, as they wait for each other.
		times := make(map[time.Duration]bool)
		for n := range 100 {
			sent := time.Since(c.start)
			got := c.sendNumbers(t, n, 1, 60)
			took := got[0].at - sent
			if took < delay || took > delay+jitter {
				t.Errorf("a frame took %v", took)
			}
			times[took/time.Millisecond] = true
		}
		if len(times) < 9 {
			t.Errorf("they took %v", times)
		}
		// And many.
		if got := numbersOf(c.sendNumbers(t, 0, 1000, 60)); len(got) != 1000 || !slices.IsSorted(got) {
			t.Errorf("%d frames, sorted %v", len(got), slices.IsSorted(got))
		}
	})
}

// TestRate has frames of 10 ms each, and a full queue.
func TestRate(t *testing.T) {
	const each, size = 10 * time.Millisecond, 1250
	inChannel(t, both(Impairment{Rate: 1e6, Queue: 10 * size, Delay: 5 * time.Millisecond}, 0), func(t *testing.T, c *channel) {
		for round := range 2 {
			begin := time.Since(c.start)
			got := c.sendNumbers(t, 0, 15, size) // ten fit
			if len(got) != 10 {
				t.Errorf("%d frames arrived, want 10", len(got))
			}
			for n, a := range got {
				if want := begin + time.Duration(n+1)*each + 5*time.Millisecond; a.at != want || numberOf(a.frame) != n {
					t.Errorf("frame %d arrived after %v, want %v", numberOf(a.frame), a.at, want)
				}
			}
			if got := c.counts().Dropped; got != uint64(5*(round+1)) {
				t.Errorf("%d were dropped, want 5 each time", got)
			}
		}
		if recv, send := c.emu.Dropped(); recv+send != 10 {
			t.Errorf("%d drops, want 10", recv+send)
		}
	})
	// A frame that is larger than the queue passes if nothing waits.
	inChannel(t, both(Impairment{Rate: 1e6, Queue: 1}, 0), func(t *testing.T, c *channel) {
		if got := numbersOf(c.sendNumbers(t, 0, 3, size)); !slices.Equal(got, []int{0}) {
			t.Errorf("got %d", got)
		}
	})
}

// TestMaxQueue sends more than MaxQueue.
func TestMaxQueue(t *testing.T) {
	testenv.Long(t)
	inChannel(t, both(Impairment{Delay: time.Minute}, 0), func(t *testing.T, c *channel) {
		const size, most = 9000, MaxQueue/9000 + 1000
		for n := range most {
			plugtest.Send(t, c.from, numbered(n, size))
			time.Sleep(time.Millisecond) // for the receiver
		}
		got := len(c.rest())
		if held := got * (size + recordLen); held > MaxQueue || held < MaxQueue-2*size {
			t.Errorf("%d bytes were held of %d frames", held, got)
		}
		if d := c.counts().Dropped; d != most-uint64(got) {
			t.Errorf("%d of %d arrived, %d dropped", got, most, d)
		}
	})
}

// TestReorder has frames that overtake each other, and a last one that waits in vain.
func TestReorder(t *testing.T) {
	inChannel(t, both(Impairment{Reorder: 1}, 0), func(t *testing.T, c *channel) {
		got := c.sendNumbers(t, 0, 5, 60)
		if numbers := numbersOf(got); !slices.Equal(numbers, []int{1, 0, 3, 2, 4}) {
			t.Fatalf("got %d", numbers)
		}
		if got[3].at != 0 || got[4].at != reorderTimeout {
			t.Errorf("the last two came after %v and %v", got[3].at, got[4].at)
		}
	})
}

// TestChange changes a network in use.
func TestChange(t *testing.T) {
	inChannel(t, Settings{}, func(t *testing.T, c *channel) {
		for n := range 5 { // as it is not impaired
			plugtest.Send(t, c.from, numbered(n, 60))
			synctest.Wait()
		}
		if len(c.arrived) != 5 {
			t.Fatalf("%d frames arrived", len(c.arrived))
		}
		if c.counts() != (Counts{}) {
			t.Errorf("%+v without an impairment", c.counts())
		}
		c.arrived = nil

		testenv.Check(t, c.emu.Set(both(Impairment{Loss: 1}, 0)))
		if got := c.sendNumbers(t, 0, 5, 60); len(got) > 0 {
			t.Errorf("%d frames arrived, though all are lost", len(got))
		}
		// Frames on their way come earlier, or later, and before those that follow.
		testenv.Check(t, c.emu.Set(both(Impairment{Delay: time.Minute}, 0)))
		begin := time.Now()
		plugtest.Send(t, c.from, numbered(0, 60))
		synctest.Wait()
		time.Sleep(time.Second)
		testenv.Check(t, c.emu.Set(both(Impairment{Delay: 2 * time.Second}, 0)))
		plugtest.Send(t, c.from, numbered(1, 60))
		got := c.rest()
		if len(got) != 2 || numberOf(got[0].frame) != 0 || got[0].at != begin.Sub(c.start)+2*time.Second || got[1].at != begin.Sub(c.start)+3*time.Second {
			t.Errorf("got %v", got)
		}
		// What waits for a slow line goes with the speed of a fast one.
		testenv.Check(t, c.emu.Set(both(Impairment{Rate: 8}, 0)))
		begin = time.Now()
		for n := range 10 {
			plugtest.Send(t, c.from, numbered(n, 100))
		}
		synctest.Wait()
		time.Sleep(100*time.Second + time.Second/2) // the first has passed
		synctest.Wait()
		if len(c.arrived) != 1 {
			t.Errorf("%d frames in 100 s at 8 bit/s", len(c.arrived))
		}
		testenv.Check(t, c.emu.Set(both(Impairment{Rate: 8000}, 0)))
		got = c.rest()
		for n, a := range got[1:] {
			want := begin.Sub(c.start) + 100*time.Second + time.Second/2 + time.Duration(n+1)*100*time.Millisecond
			if a.at != want || numberOf(a.frame) != n+1 {
				t.Errorf("frame %d after %v, want %v", numberOf(a.frame), a.at, want)
			}
		}
		// And back to no impairment.
		testenv.Check(t, c.emu.Set(Settings{}))
		if got := c.sendNumbers(t, 0, 100, 60); len(got) != 100 || got[99].at != got[0].at {
			t.Errorf("%d frames arrived", len(got))
		}
	})
	// A seed begins anew.
	inChannel(t, both(Impairment{Loss: .5}, 5), func(t *testing.T, c *channel) {
		first := numbersOf(c.sendNumbers(t, 0, 100, 60))
		e := c.emu.Settings()
		testenv.Check(t, c.emu.Set(e))
		if slices.Equal(numbersOf(c.sendNumbers(t, 0, 100, 60)), first) {
			t.Error("the seed in use begins anew")
		}
		e.Seed = 6
		testenv.Check(t, c.emu.Set(e))
		e.Seed = 5
		testenv.Check(t, c.emu.Set(e))
		if !slices.Equal(numbersOf(c.sendNumbers(t, 0, 100, 60)), first) {
			t.Error("another seed does not begin anew")
		}
	})
}

// TestPackets impairs the frames of GSO packets like single frames. With a delay alone, GSO
// packets stay uncut.
func TestPackets(t *testing.T) {
	const segments, mss = 40, 1000
	sent := packettest.Frames(t, packettest.TCP(segments, mss))
	arrives := func(t *testing.T, settings Settings, whole bool) (frames [][]byte) {
		synctest.Test(t, func(t *testing.T) {
			c := newChannel(t, "out", settings)
			if whole {
				p := packettest.TCP(segments, mss)
				testenv.Check(t, c.emu.SendPackets([]packet.Packet{p}, true))
			} else {
				for _, f := range sent {
					plugtest.Send(t, c.from, f)
				}
			}
			for _, a := range c.rest() {
				frames = append(frames, a.frame)
			}
			if got := c.counts().Frames; got != segments {
				t.Errorf("%d frames, want %d", got, segments)
			}
		})
		return frames
	}
	ms := time.Millisecond
	for _, settings := range []Settings{
		both(Impairment{Loss: .3, Duplicate: .1, Corrupt: .3, Reorder: .2}, 9), both(Impairment{Jitter: 5 * ms}, 9),
		both(Impairment{Rate: 1e6}, 0), both(Impairment{Delay: 5 * ms}, 0),
	} {
		t.Run(fmt.Sprintf("%+v", settings.Out), func(t *testing.T) {
			single, whole := arrives(t, settings, false), arrives(t, settings, true)
			if !slices.EqualFunc(single, whole, bytes.Equal) {
				t.Errorf("%d frames of a packet, %d of frames, or not the same", len(whole), len(single))
			}
		})
	}
	// Not even the header changes.
	synctest.Test(t, func(t *testing.T) {
		sw := newSwitch()
		c, peer := New(fabric.NewLocalPort(sw, nil), both(Impairment{Delay: 5 * ms}, 0)), fabric.NewLocalPort(sw, nil)
		defer c.Close()
		defer peer.Close()
		for _, way := range [][2]packet.Transport{{c, peer}, {peer, c}} {
			var b packet.Buffer
			go func() {
				time.Sleep(time.Millisecond) // the receiver waits
				p := packettest.TCP(segments, mss)
				way[0].SendPackets([]packet.Packet{p}, true)
			}()
			got, err := way[1].RecvPackets(&b)
			want := packettest.TCP(segments, mss)
			if err != nil || len(got) != 1 || got[0].Offload != want.Offload || !bytes.Equal(got[0].Data, want.Data) {
				t.Errorf("%d packets, %v", len(got), err)
			}
			b.Release()
		}
	})
}

// TestBatches checks that frames that are due at the same time are sent at once.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &batchCounter{closed: make(chan struct{})}
		c := New(sent, both(Impairment{Delay: 5 * time.Millisecond}, 0))
		var packets []packet.Packet
		for n := range batchSize {
			packets = append(packets, packet.Packet{Data: numbered(n, 100)})
		}
		testenv.Check(t, c.SendPackets(packets, true))
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(sent.sizes, []int{batchSize}) {
			t.Errorf("sent in batches of %d", sent.sizes)
		}
		c.Close()
	})
}

// A batchCounter is a transport that records the sizes of batches.
type batchCounter struct {
	sizes  []int
	closed chan struct{}
}

func (b *batchCounter) Close() error { close(b.closed); return nil }

func (b *batchCounter) RecvPackets(*packet.Buffer) ([]packet.Packet, error) {
	<-b.closed
	return nil, net.ErrClosed
}

func (b *batchCounter) SendPackets(p []packet.Packet, _ bool) error {
	b.sizes = append(b.sizes, len(p))
	return nil
}

// TestReadAhead leaves frames unread: they wait in the network below, which drops them when
// it is full.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := newSwitch()
		e := New(fabric.NewLocalPort(sw, nil), Settings{In: Impairment{Loss: .5}, Seed: 1})
		c, peer := plugtest.NewConn(e), plugtest.NewConn(fabric.NewLocalPort(sw, nil))
		defer c.Close()
		defer peer.Close()
		first := make(chan int)
		go func() {
			n, _ := c.Recv(make([]byte, ether.MaxFrame))
			first <- n
		}()
		synctest.Wait()
		for n := range 10000 {
			plugtest.Send(t, peer, numbered(n, 1000))
			if n == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		e.in.mu.Lock()
		held := e.in.queue.bytes
		e.in.mu.Unlock()
		if held > 2*readAhead {
			t.Errorf("%d bytes are held", held)
		}
		if recv, _ := e.Dropped(); recv == 0 {
			t.Error("nothing was dropped")
		}
		<-first
	})
}

// FuzzPacket sends any packet through a pipe.
func FuzzPacket(f *testing.F) {
	tcp := packettest.TCP(3, 100)
	f.Add(tcp.Offload.Flags, tcp.Offload.GSOType, tcp.Offload.GSOSize, tcp.Offload.CsumStart, tcp.Offload.CsumOffset, tcp.Data)
	f.Add(uint8(0), uint8(0), uint16(0), uint16(0), uint16(0), numbered(1, 60))
	f.Fuzz(func(t *testing.T, flags, gso uint8, size, start, offset uint16, data []byte) {
		h := virtio.Header{Flags: flags, GSOType: gso, GSOSize: size, CsumStart: start, CsumOffset: offset}
		for _, imp := range []Impairment{{Delay: time.Hour}, {Delay: time.Hour, Corrupt: 1, Duplicate: 1, Reorder: .5}} {
			p := &New(nil, Settings{Out: imp, Seed: 1}).out
			var s virtio.Segmenter
			for range 3 {
				p.accept(&s, &packet.Packet{Offload: h, Data: bytes.Clone(data)}, 0)
			}
			for p.queue.head != nil {
				if _, pkt, _ := p.queue.peek(); len(pkt.Data) < ether.HeaderLen || len(pkt.Data) > virtio.MaxPacket {
					t.Fatalf("a packet of %d bytes", len(pkt.Data))
				}
				p.queue.pop().free()
			}
			if p.queue.bytes != 0 {
				t.Fatalf("%d bytes are left", p.queue.bytes)
			}
		}
	})
}
