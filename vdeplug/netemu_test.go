package vdeplug

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

func TestParseNetemu(t *testing.T) {
	ms := time.Millisecond
	tests := []struct {
		in    string
		inner string
		want  Emulation
		err   string
	}{
		{in: "netemu://"},
		{in: "netemu://{vde:///run/sw}", inner: "vde:///run/sw"},
		{in: "netemu://loss=1%/delay=20ms{vlan://3{mem://}}", inner: "vlan://3{mem://}",
			want: Emulation{Out: Impairment{Loss: .01, Delay: 20 * ms}, In: Impairment{Loss: .01, Delay: 20 * ms}}},
		{in: "netemu:///loss-out=12.5%/delay-in=1.5s/seed=7", want: Emulation{Out: Impairment{Loss: .125}, In: Impairment{Delay: 1500 * ms}, Seed: 7}},
		{in: "netemu://jitter-in=3ms/jitter=5ms/jitter-out=0s", want: Emulation{In: Impairment{Jitter: 3 * ms}}},
		{in: "netemu://rate=10mbit/queue=64k/rate-in=9600bit/queue-in=1", want: Emulation{Out: Impairment{Rate: 10e6, Queue: 64 << 10}, In: Impairment{Rate: 9600, Queue: 1}}},
		{in: "netemu://rate=1.5gbit/queue=64m/rate-out=0.5kbit", want: Emulation{Out: Impairment{Rate: 500, Queue: 64 << 20}, In: Impairment{Rate: 15e8, Queue: 64 << 20}}},
		{in: "netemu://duplicate=1%/corrupt=2%/reorder=100%", want: Emulation{
			Out: Impairment{Duplicate: .01, Corrupt: .02, Reorder: 1}, In: Impairment{Duplicate: .01, Corrupt: .02, Reorder: 1}}},
		{in: "netemu://loss=50%25", want: Emulation{Out: Impairment{Loss: .5}, In: Impairment{Loss: .5}}},

		{in: "netemu://los=1%", err: `netemu option "los=1%": unknown (have corrupt, corrupt-in, corrupt-out, delay, `},
		{in: "netemu://lab/loss=1%", err: `netemu option "lab": unknown`},
		{in: "netemu://=1%", err: `netemu option "=1%": no name before "="`},
		{in: "netemu://loss-both=1%", err: `netemu option "loss-both=1%": unknown`},
		{in: "netemu://loss", err: `netemu option "loss": must be a percentage from 0% to 100%`},
		{in: "netemu://loss=1", err: `netemu option "loss=1": must be a percentage`},
		{in: "netemu://loss=101%", err: `netemu option "loss=101%": must be a percentage`},
		{in: "netemu://loss-in=1e1%", err: `netemu option "loss-in=1e1%": must be a percentage`},
		{in: "netemu://loss=-1%", err: `must be a percentage`},
		{in: "netemu://loss=1.2.3%", err: `must be a percentage`},
		{in: "netemu://loss=1%/loss=2%", err: `netemu option "loss=2%": already set by "loss=1%"`},
		{in: "netemu://delay=20", err: `netemu option "delay=20": must be a duration from 0s to 1h, as 20ms or 1.5s`},
		{in: "netemu://delay=-1ms", err: `must be a duration`},
		{in: "netemu://jitter-out=61m", err: `netemu option "jitter-out=61m": must be a duration`},
		{in: "netemu://rate=10", err: `netemu option "rate=10": must be a number with bit, kbit, mbit or gbit, from 1bit to 1000gbit a second`},
		{in: "netemu://rate=10Mbit", err: `must be a number with bit`},
		{in: "netemu://rate=0bit", err: `must be a number with bit`},
		{in: "netemu://rate=1001gbit", err: `must be a number with bit`},
		{in: "netemu://queue=0", err: `netemu option "queue=0": must be a number of bytes, or one with k or m, from 1 to 64m`},
		{in: "netemu://queue=65m", err: `must be a number of bytes`},
		{in: "netemu://queue=1.5k", err: `must be a number of bytes`},
		{in: "netemu://queue=4294967297k", err: `must be a number of bytes`},
		{in: "netemu://seed=0", err: `netemu option "seed=0": must be a number from 1 to 18446744073709551615`},
		{in: "netemu://seed=-1", err: `must be a number from 1`},
		{in: "netemu://{a}b", err: `text after "}"`},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			got, inner, err := parseNetemu(l)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil || got != tt.want || inner != tt.inner {
				t.Errorf("got %+v, inner network %q, %v, want %+v, %q", got, inner, err, tt.want, tt.inner)
			}
		})
	}
}

func TestSetEmulation(t *testing.T) {
	c := openPlugTest(t, "netemu://loss=1%/seed=7{null://}")
	defer c.Close()
	e := FindEmulator(c)
	before := e.Emulation()
	if before.Seed != 7 || before.Out.Loss != .01 || before.In.Loss != .01 {
		t.Errorf("got %+v", before)
	}
	for text, bad := range map[string]Emulation{
		"netemu: Out.Loss 1.5: must be from 0 to 1":                          {Out: Impairment{Loss: 1.5}},
		"netemu: In.Corrupt NaN: must be from 0 to 1":                        {In: Impairment{Corrupt: math.NaN()}},
		"netemu: Out.Duplicate -1: must be from 0 to 1":                      {Out: Impairment{Duplicate: -1}},
		"netemu: In.Reorder +Inf: must be from 0 to 1":                       {In: Impairment{Reorder: math.Inf(1)}},
		"netemu: In.Delay -1ns: must be from 0 to 1h0m0s":                    {In: Impairment{Delay: -1}},
		"netemu: In.Jitter 1h0m0.000000001s: must be from 0 to 1h0m0s":       {In: Impairment{Jitter: time.Hour + 1}},
		"netemu: Out.Rate -1: must be from 0 to 1000000000000 bits a second": {Out: Impairment{Rate: -1}},
		"netemu: Out.Queue 67108865: must be from 0 to 67108864 bytes":       {Out: Impairment{Queue: emuMemory + 1}},
	} {
		wantError(t, e.SetEmulation(bad), text)
	}
	if got := e.Emulation(); got != before {
		t.Errorf("an error changed %+v to %+v", before, got)
	}
	if err := e.SetEmulation(Emulation{}); err != nil {
		t.Fatal(err)
	}
	if got := e.Emulation(); got != (Emulation{Seed: 7}) {
		t.Errorf("got %+v, want the seed that it had", got)
	}
}

func TestFindEmulator(t *testing.T) {
	for vnl, want := range map[string]time.Duration{
		"netemu://delay=1ms{mem://f}":                               time.Millisecond,
		"vlan://4{vlan://5{netemu://delay=2ms{mem://f}}}":           2 * time.Millisecond,
		"netemu://delay=3ms{netemu://delay=4ms{vlan://4{mem://f}}}": 3 * time.Millisecond,
		"vlan://4{mem://f}":                                         0,
		"mem://f":                                                   0,
	} {
		c := openPlugTest(t, vnl)
		if e := FindEmulator(c); (e != nil) != (want != 0) || e != nil && e.Emulation().In.Delay != want {
			t.Errorf("%s: got %v", vnl, e)
		}
		c.Close()
	}
	if FindEmulator(nil) != nil {
		t.Error("no plug has an emulator")
	}
	// A random seed, and so another one each time.
	a, b := openPlugTest(t, "netemu://{null://}"), openPlugTest(t, "netemu://{null://}")
	defer a.Close()
	defer b.Close()
	if s, r := FindEmulator(a).Emulation().Seed, FindEmulator(b).Emulation().Seed; s == 0 || r == 0 || s == r {
		t.Errorf("seeds %d and %d", s, r)
	}
}

func TestNetemuConn(t *testing.T) {
	for _, vnl := range []string{
		"netemu://{mem://netemu}", "netemu://loss=10%/duplicate=10%/corrupt=10%/reorder=10%{mem://netemu}",
		"netemu://delay=1ms/jitter=1ms{mem://netemu}", "netemu://delay=1h{mem://netemu}", "netemu://rate=1mbit{mem://netemu}",
		"netemu://delay=1ms{vlan://4{mem://netemu}}", "vlan://4{netemu://delay=1ms{mem://netemu}}", "netemu://reorder=50%/rate=1gbit{nestedtest://}",
	} {
		t.Run(vnl, func(t *testing.T) {
			Register("nestedtest", func(context.Context, Locator, *Options) (Conn, error) {
				c, err := Open("mem://nestedtest", nil)
				return struct {
					Conn
					Dropper
				}{c, c.(Dropper)}, err // one that moves no packets
			})
			defer unregister("nestedtest")
			testConn(t, func(t *testing.T) Conn { return openPlugTest(t, vnl) })
		})
	}
}

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

// A channel is a network with a plug that is impaired, and one that is not, in a
// bubble of time. What the test sends passes in the direction "out" or "in".
type channel struct {
	emu      *Emulator
	from, to Conn
	impaired Conn
	start    time.Time
	arrived  []arrival // once the bubble is idle
}

// inChannel runs f in a bubble, for each direction, and closes all.
func inChannel(t *testing.T, options string, f func(t *testing.T, c *channel)) {
	t.Helper()
	for _, way := range []string{"out", "in"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newChannel(t, way, options)) })
		})
	}
}

func newChannel(t *testing.T, way, options string) *channel {
	t.Helper()
	name := "mem://" + t.Name()
	c := &channel{start: time.Now(), impaired: openPlugTest(t, "netemu://"+options+"{"+name+"}")}
	c.emu = FindEmulator(c.impaired)
	c.from, c.to = c.impaired, openPlugTest(t, name)
	if way == "in" {
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

// counts are those of the direction.
func (c *channel) counts() EmulationCounts {
	out, in := c.emu.Counts()
	if c.from == c.impaired {
		return out
	}
	return in
}

// TestNetemuRepeats has the same frames lost with the same seed, and others with
// another one, or in the other direction.
func TestNetemuRepeats(t *testing.T) {
	const options = "loss=20%/duplicate=10%/reorder=10%/corrupt=10%"
	var before [][]arrival
	run := func(name, way, options string, frames int) (arrived []arrival) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChannel(t, way, options)
				for n := range frames {
					plugtest.Send(t, c.from, numbered(n, 100))
				}
				arrived = c.rest()
			})
		})
		return arrived
	}
	for _, way := range []string{"out", "in"} {
		a, b := run(way, way, options+"/seed=7", 1000), run(way+" again", way, options+"/seed=7", 1000)
		if !slices.EqualFunc(a, b, func(a, b arrival) bool { return bytes.Equal(a.frame, b.frame) }) {
			t.Error("the same seed has other results")
		}
		before = append(before, a, run(way+" another seed", way, options+"/seed=8", 1000))
		// Other settings change nothing of the loss.
		lost := numbersOf(run(way+" loss only", way, "loss=20%/seed=7", 1000))
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

// TestNetemuParts looks how many frames are lost, duplicated, changed and held
// back. The seed makes it the same ones each time.
func TestNetemuParts(t *testing.T) {
	const frames = 20000
	inChannel(t, "loss=10%/duplicate=5%/corrupt=20%/reorder=2%/seed=1", func(t *testing.T, c *channel) {
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
		if drops := c.impaired.(Dropper).Drops(); drops != (Drops{}) {
			t.Errorf("%+v: what is lost in the network is no drop of the plug", drops)
		}
	})
}

// TestNetemuConserves sends and changes at random: each frame is accounted for,
// and those that arrive are in order, but for those that were held back.
func TestNetemuConserves(t *testing.T) {
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
		inChannel(t, fmt.Sprintf("seed=%d", i+1), func(t *testing.T, c *channel) {
			frames := 0
			for range 5 {
				imp := impairment()
				check(t, c.emu.SetEmulation(Emulation{Out: imp, In: imp}))
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
			if d := c.impaired.(Dropper).Drops(); d.Send+d.Recv != got.Dropped {
				t.Errorf("drops are %+v, want %d", d, got.Dropped)
			}
			idle(t, c.emu)
		})
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// idle wants no timer, and no memory for packets.
func idle(t *testing.T, e *Emulator) {
	t.Helper()
	for _, l := range []*emuLine{&e.out, &e.in} {
		l.mu.Lock()
		if l.waking || l.queue.head != nil || l.queue.tail != nil || l.queue.bytes != 0 || l.sending {
			t.Errorf("nothing is on its way, but a timer is set (%v) or %d bytes are held", l.waking, l.queue.bytes)
		}
		l.mu.Unlock()
	}
}

// TestNetemuDelay sees when frames arrive.
func TestNetemuDelay(t *testing.T) {
	const delay, jitter = 20 * time.Millisecond, 10 * time.Millisecond
	inChannel(t, "delay=20ms", func(t *testing.T, c *channel) {
		for n := range 100 {
			plugtest.Send(t, c.from, numbered(n, 60))
			time.Sleep(time.Millisecond)
		}
		for n, a := range c.rest() {
			if want := time.Duration(n)*time.Millisecond + delay; a.at != want || numberOf(a.frame) != n {
				t.Errorf("frame %d arrived as number %d after %v, want %v", numberOf(a.frame), n, a.at, want)
			}
		}
		idle(t, c.emu)
	})
	inChannel(t, "delay=20ms/jitter=10ms/seed=3", func(t *testing.T, c *channel) {
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

// TestNetemuRate sees frames of 10 ms each, and the queue run over.
func TestNetemuRate(t *testing.T) {
	const each, size = 10 * time.Millisecond, 1250
	inChannel(t, "rate=1mbit/queue=12500/delay=5ms", func(t *testing.T, c *channel) {
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
		if d := c.impaired.(Dropper).Drops(); d.Send+d.Recv != 10 {
			t.Errorf("drops are %+v, want 10", d)
		}
		idle(t, c.emu)
	})
	// A frame that is larger than the queue passes if nothing waits.
	inChannel(t, "rate=1mbit/queue=1", func(t *testing.T, c *channel) {
		if got := numbersOf(c.sendNumbers(t, 0, 3, size)); !slices.Equal(got, []int{0}) {
			t.Errorf("got %d", got)
		}
	})
}

// TestNetemuMemory sends more than is ever held.
func TestNetemuMemory(t *testing.T) {
	inChannel(t, "delay=1m", func(t *testing.T, c *channel) {
		const size, most = 9000, emuMemory/9000 + 1000
		for n := range most {
			plugtest.Send(t, c.from, numbered(n, size))
			time.Sleep(time.Millisecond) // for who reads
		}
		got := len(c.rest())
		if held := got * (size + emuRecordLen); held > emuMemory || held < emuMemory-2*size {
			t.Errorf("%d bytes were held of %d frames", held, got)
		}
		if d := c.counts().Dropped; d != most-uint64(got) {
			t.Errorf("%d of %d arrived, %d dropped", got, most, d)
		}
		idle(t, c.emu)
	})
}

// TestNetemuReorder has a frame pass another, and one wait for none.
func TestNetemuReorder(t *testing.T) {
	inChannel(t, "reorder=100%", func(t *testing.T, c *channel) {
		got := c.sendNumbers(t, 0, 5, 60)
		if numbers := numbersOf(got); !slices.Equal(numbers, []int{1, 0, 3, 2, 4}) {
			t.Fatalf("got %d", numbers)
		}
		if got[3].at != 0 || got[4].at != emuLate {
			t.Errorf("the last two came after %v and %v", got[3].at, got[4].at)
		}
		idle(t, c.emu)
	})
}

// TestNetemuChange changes a network in use.
func TestNetemuChange(t *testing.T) {
	both := func(i Impairment) Emulation { return Emulation{Out: i, In: i} }
	inChannel(t, "", func(t *testing.T, c *channel) {
		for n := range 5 { // as it is not impaired
			plugtest.Send(t, c.from, numbered(n, 60))
			synctest.Wait()
		}
		if len(c.arrived) != 5 {
			t.Fatalf("%d frames arrived", len(c.arrived))
		}
		if c.counts() != (EmulationCounts{}) {
			t.Errorf("%+v without an impairment", c.counts())
		}
		c.arrived = nil

		check(t, c.emu.SetEmulation(both(Impairment{Loss: 1})))
		if got := c.sendNumbers(t, 0, 5, 60); len(got) > 0 {
			t.Errorf("%d frames arrived, though all are lost", len(got))
		}
		// Frames on their way come earlier, or later, and before those that follow.
		check(t, c.emu.SetEmulation(both(Impairment{Delay: time.Minute})))
		begin := time.Now()
		plugtest.Send(t, c.from, numbered(0, 60))
		synctest.Wait()
		time.Sleep(time.Second)
		check(t, c.emu.SetEmulation(both(Impairment{Delay: 2 * time.Second})))
		plugtest.Send(t, c.from, numbered(1, 60))
		got := c.rest()
		if len(got) != 2 || numberOf(got[0].frame) != 0 || got[0].at != begin.Sub(c.start)+2*time.Second || got[1].at != begin.Sub(c.start)+3*time.Second {
			t.Errorf("got %v", got)
		}
		// What waits for a slow line goes with the speed of a fast one.
		check(t, c.emu.SetEmulation(both(Impairment{Rate: 8})))
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
		check(t, c.emu.SetEmulation(both(Impairment{Rate: 8000})))
		got = c.rest()
		for n, a := range got[1:] {
			want := begin.Sub(c.start) + 100*time.Second + time.Second/2 + time.Duration(n+1)*100*time.Millisecond
			if a.at != want || numberOf(a.frame) != n+1 {
				t.Errorf("frame %d after %v, want %v", numberOf(a.frame), a.at, want)
			}
		}
		// And back to none.
		check(t, c.emu.SetEmulation(Emulation{}))
		if got := c.sendNumbers(t, 0, 100, 60); len(got) != 100 || got[99].at != got[0].at {
			t.Errorf("%d frames arrived", len(got))
		}
		idle(t, c.emu)
	})
	// A seed begins anew.
	inChannel(t, "loss=50%/seed=5", func(t *testing.T, c *channel) {
		first := numbersOf(c.sendNumbers(t, 0, 100, 60))
		e := c.emu.Emulation()
		check(t, c.emu.SetEmulation(e))
		if slices.Equal(numbersOf(c.sendNumbers(t, 0, 100, 60)), first) {
			t.Error("the seed in use begins anew")
		}
		e.Seed = 6
		check(t, c.emu.SetEmulation(e))
		e.Seed = 5
		check(t, c.emu.SetEmulation(e))
		if !slices.Equal(numbersOf(c.sendNumbers(t, 0, 100, 60)), first) {
			t.Error("another seed does not begin anew")
		}
	})
}

// TestNetemuPackets cuts what stands for several frames, and does to them what it
// does to frames that come one by one; with a delay alone it leaves it whole.
func TestNetemuPackets(t *testing.T) {
	const segments, mss = 40, 1000
	sent := packettest.Frames(t, packettest.TCP(segments, mss))
	arrives := func(t *testing.T, options string, whole bool) (frames [][]byte) {
		synctest.Test(t, func(t *testing.T) {
			c := newChannel(t, "out", options)
			if whole {
				p := packettest.TCP(segments, mss)
				check(t, c.from.(packet.Transport).SendPackets([]packet.Packet{p}, true))
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
	for _, options := range []string{"loss=30%/duplicate=10%/corrupt=30%/reorder=20%/seed=9", "jitter=5ms/seed=9", "rate=1mbit", "delay=5ms"} {
		t.Run(options, func(t *testing.T) {
			single, whole := arrives(t, options, false), arrives(t, options, true)
			if !slices.EqualFunc(single, whole, bytes.Equal) {
				t.Errorf("%d frames of a packet, %d of frames, or not the same", len(whole), len(single))
			}
		})
	}
	// Not even the header changes.
	synctest.Test(t, func(t *testing.T) {
		c := openPlugTest(t, "netemu://delay=5ms{mem://"+t.Name()+"}").(packet.Transport)
		peer := openPlugTest(t, "mem://"+t.Name()).(packet.Transport)
		defer c.(Conn).Close()
		defer peer.(Conn).Close()
		for _, way := range [][2]packet.Transport{{c, peer}, {peer, c}} {
			var b packet.Buffer
			go func() {
				time.Sleep(time.Millisecond) // the switch has seen who takes packets
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

// TestNetemuBatches sees frames that are due at once sent and received at once.
func TestNetemuBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &batches{}
		Register("nestedtest", func(context.Context, Locator, *Options) (Conn, error) { return sent, nil })
		defer unregister("nestedtest")
		sent.closed = make(chan struct{})
		c := openPlugTest(t, "netemu://delay=5ms{nestedtest://}")
		var packets []packet.Packet
		for n := range emuBatch {
			packets = append(packets, packet.Packet{Data: numbered(n, 100)})
		}
		check(t, c.(packet.Transport).SendPackets(packets, true))
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(sent.sizes, []int{emuBatch}) {
			t.Errorf("sent in batches of %d", sent.sizes)
		}
		c.Close()
	})
}

// batches is a plug that notes how many packets it is handed.
type batches struct {
	packet.Counters
	sizes  []int
	closed chan struct{}
}

func (b *batches) Recv([]byte) (int, error) { <-b.closed; return 0, net.ErrClosed }
func (b *batches) Send([]byte) error        { b.sizes = append(b.sizes, 1); return nil }
func (b *batches) Close() error             { close(b.closed); return nil }
func (b *batches) RecvPackets(*packet.Buffer) ([]packet.Packet, error) {
	<-b.closed
	return nil, net.ErrClosed
}
func (b *batches) SendPackets(p []packet.Packet, _ bool) error {
	b.sizes = append(b.sizes, len(p))
	return nil
}

// TestNetemuBehind leaves frames unread: they wait in the network below, which
// drops them when it is full.
func TestNetemuBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := openPlugTest(t, "netemu://loss-in=50%/seed=1{mem://"+t.Name()+"}"), openPlugTest(t, "mem://"+t.Name())
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
		e := FindEmulator(c)
		e.in.mu.Lock()
		held := e.in.queue.bytes
		e.in.mu.Unlock()
		if held > 2*emuBehind {
			t.Errorf("%d bytes are held", held)
		}
		if d := c.(Dropper).Drops(); d.Recv == 0 {
			t.Error("nothing was dropped")
		}
		<-first
	})
}

// TestNetemuErrors sees the end of the network below.
func TestNetemuErrors(t *testing.T) {
	for _, options := range []string{"", "delay=1h", "delay=5ms", "loss=100%"} {
		t.Run(options, func(t *testing.T) {
			testenv.NoLeaks(t)
			p, q := net.Pipe()
			Register("nestedtest", func(context.Context, Locator, *Options) (Conn, error) {
				return newPlug("nestedtest://", newStream(p)), nil
			})
			defer unregister("nestedtest")
			vnl := "netemu://" + options + "{nestedtest://}"
			in := openInbox(t, vnl)
			q.Close()
			err := in.WantEnd(t)
			wantError(t, err, fmt.Sprintf("vdeplug: recv %q: the peer has ended the stream", vnl))
			if !errors.Is(err, io.EOF) {
				t.Errorf("%v is no end of file", err)
			}
		})
	}
	// Who sends is told, too, though later.
	p, q := net.Pipe()
	Register("nestedtest", func(context.Context, Locator, *Options) (Conn, error) {
		return newPlug("nestedtest://", newStream(p)), nil
	})
	defer unregister("nestedtest")
	c := openPlugTest(t, "netemu://delay=1ms{nestedtest://}")
	defer c.Close()
	q.Close()
	var err error
	testenv.Eventually(t, "an error", func() bool {
		err = c.Send(numbered(1, 60))
		return err != nil
	})
	wantError(t, err, `vdeplug: send "netemu://delay=1ms{nestedtest://}": `)
}

// TestNetemuAllocs sends and receives without allocating.
func TestNetemuAllocs(t *testing.T) {
	for _, options := range []string{"", "loss=1%/duplicate=1%/corrupt=1%/reorder=1%", "delay=1us", "rate=100gbit"} {
		c, peer := openPlugTest(t, "netemu://"+options+"{mem://"+t.Name()+"}"), openPlugTest(t, "mem://"+t.Name())
		frame, buf := numbered(1, 1000), make([]byte, ether.MaxFrame)
		for name, way := range map[string][2]Conn{"out": {c, peer}, "in": {peer, c}} {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					if n, err := way[1].Recv(buf); err != nil || n == ether.HeaderLen {
						return
					}
				}
			}()
			allocs := testing.AllocsPerRun(2000, func() { way[0].Send(frame) })
			if allocs > 0 && !raceEnabled { // where pools forget
				t.Errorf("%q, %s: %.1f allocations a frame", options, name, allocs)
			}
			for {
				way[0].Send(frame[:ether.HeaderLen])
				select {
				case <-ended:
				case <-time.After(time.Millisecond):
					continue
				}
				break
			}
		}
		c.Close()
		peer.Close()
	}
}

// FuzzNetemu wants options that are accepted to be an emulation that is.
func FuzzNetemu(f *testing.F) {
	for _, vnl := range []string{
		"netemu://loss=1%/delay=20ms{mem://}", "netemu:///loss-in=0.05%/jitter-out=1h/duplicate=100%", "netemu://rate=1.5gbit/queue=64m/seed=18446744073709551615",
		"netemu://corrupt=1%25/reorder='1%'", "netemu://rate=.bit", "netemu://loss=NaN%", "netemu://delay=9e9h",
	} {
		f.Add(vnl)
	}
	f.Fuzz(func(t *testing.T, vnl string) {
		l, err := parse(vnl)
		if err != nil {
			return
		}
		e, _, err := parseNetemu(l)
		if err == nil {
			err = e.check()
			if err != nil {
				t.Errorf("%q: %v", vnl, err)
			}
		}
	})
}

// FuzzNetemuPacket has any packet pass a line.
func FuzzNetemuPacket(f *testing.F) {
	p := packettest.TCP(3, 100)
	f.Add(p.Offload.Flags, p.Offload.GSOType, p.Offload.GSOSize, p.Offload.CsumStart, p.Offload.CsumOffset, p.Data)
	f.Add(uint8(0), uint8(0), uint16(0), uint16(0), uint16(0), numbered(1, 60))
	f.Fuzz(func(t *testing.T, flags, gso uint8, size, start, offset uint16, data []byte) {
		h := virtio.Header{Flags: flags, GSOType: gso, GSOSize: size, CsumStart: start, CsumOffset: offset}
		for _, imp := range []Impairment{{Delay: time.Hour}, {Delay: time.Hour, Corrupt: 1, Duplicate: 1, Reorder: .5}} {
			m := newEmulator(Emulation{Out: imp, Seed: 1})
			var d packet.Counters
			l := &m.out
			l.dropped = &d.DroppedSend
			var s virtio.Segmenter
			for range 3 {
				l.put(&s, &packet.Packet{Offload: h, Data: bytes.Clone(data)}, 0)
			}
			for l.queue.head != nil {
				if _, p, _ := l.queue.first(); len(p.Data) < ether.HeaderLen || len(p.Data) > virtio.MaxPacket {
					t.Fatalf("a packet of %d bytes", len(p.Data))
				}
				l.queue.Pop().free()
			}
			if l.queue.bytes != 0 {
				t.Fatalf("%d bytes are left", l.queue.bytes)
			}
		}
	})
}
