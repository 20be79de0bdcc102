package netem

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// hasten gives both directions a clock that advances by a random time whenever it is
// read, as on a busy machine. In a bubble it would stand still between two statements.
func hasten(e *Transport, r *rand.Rand, most time.Duration) {
	var mu sync.Mutex // guards r and gone
	for _, p := range []*pipe{&e.out, &e.in} {
		real, gone := p.now, time.Duration(0)
		p.now = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			gone += time.Duration(r.Int64N(int64(most)))
			return real() + gone
		}
	}
}

// TestWakes sends a burst, and the next when all of it has arrived. A receiver that is
// not woken sleeps forever, which ends the test.
func TestWakes(t *testing.T) {
	testenv.Long(t)
	const us, ms = time.Microsecond, time.Millisecond
	for _, imp := range []Impairment{
		{Delay: ms, Jitter: ms}, {Rate: 1e9, Queue: MaxQueue}, {Rate: 100e6, Delay: 20 * ms, Queue: MaxQueue}, {Delay: 10 * us},
		{Reorder: .3}, {Reorder: .3, Delay: 10 * us, Jitter: 20 * us}, {Jitter: 10 * us, Duplicate: .1},
	} {
		for _, way := range []string{"out", "in"} {
			for _, receivers := range []int{1, 3} {
				t.Run(fmt.Sprintf("%+v/%s/%d", imp, way, receivers), func(t *testing.T) {
					for seed := range uint64(5) {
						synctest.Test(t, func(t *testing.T) { testWakes(t, imp, way, receivers, seed) })
					}
				})
			}
		}
	}
}

func testWakes(t *testing.T, imp Impairment, way string, receivers int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	sw := newSwitch()
	emu, plain := New(fabric.NewLocalPort(sw, nil), both(imp, seed+1)), fabric.NewLocalPort(sw, nil)
	hasten(emu, rand.New(rand.NewPCG(seed, 1)), time.Duration(1)<<(seed%16))
	from, to := packet.Transport(emu), packet.Transport(plain)
	if way == "in" {
		from, to = plain, emu
	}
	var all sync.WaitGroup
	arrived := make(chan int, 1000)
	for range receivers {
		all.Go(func() {
			var b packet.Buffer
			defer b.Release()
			for {
				packets, err := to.RecvPackets(&b)
				if err != nil {
					return
				}
				for range packets {
					arrived <- 1
				}
			}
		})
	}
	want := func() int { // have arrived, or will
		out, in := emu.Counts()
		if way == "in" {
			out = in
		}
		return int(out.Frames + out.Duplicated)
	}
	got := 0
	for sent := 0; sent < 400; {
		for burst := 1 + r.IntN(80); burst > 0; burst-- {
			testenv.Check(t, from.SendPackets([]packet.Packet{{Data: numbered(sent, 60+r.IntN(9000))}}, false))
			sent++
		}
		if r.IntN(4) == 0 {
			before := emu.Settings()
			testenv.Check(t, emu.Set(both(Impairment{Delay: time.Hour}, 0)))
			synctest.Wait()
			testenv.Check(t, emu.Set(before))
		}
		for got < sent || got < want() {
			got += <-arrived
		}
	}
	emu.Close()
	plain.Close()
	all.Wait()
}

// TestEnd checks that all receivers notice the end of the network, after all packets.
func TestEnd(t *testing.T) {
	for _, imp := range []Impairment{{Delay: time.Millisecond}, {Reorder: 1}, {Delay: 10 * time.Microsecond, Jitter: time.Millisecond}} {
		t.Run(fmt.Sprintf("%+v", imp), func(t *testing.T) {
			for seed := range uint64(50) {
				synctest.Test(t, func(t *testing.T) {
					end := errors.New("it has ended")
					inner := plugtest.NewEndingConn(int(seed%5), end)
					c := New(packet.Of[struct{ Recv, Send uint64 }](inner, ether.MaxFrame), both(imp, 0))
					hasten(c, rand.New(rand.NewPCG(seed, 1)), time.Millisecond)
					var all sync.WaitGroup
					var got atomic.Int64
					for range 4 {
						all.Go(func() {
							var b packet.Buffer // with Recv, only one of them would wait
							defer b.Release()
							for {
								packets, err := c.RecvPackets(&b)
								if err != nil {
									if !errors.Is(err, end) {
										t.Error(err)
									}
									return
								}
								got.Add(int64(len(packets)))
							}
						})
					}
					all.Wait()
					if got.Load() != int64(seed%5) {
						t.Errorf("received %d frames, want %d", got.Load(), seed%5)
					}
					testenv.Check(t, c.Close())
				})
			}
		})
	}
}
