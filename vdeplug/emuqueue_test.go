package vdeplug

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
)

// hasten gives both directions a clock that goes on by a random time whenever it
// is looked at, as that of a busy machine does between two statements. In a bubble
// it would stand still.
func hasten(e *Emulator, r *rand.Rand, most time.Duration) {
	var mu sync.Mutex // guards r and gone
	for _, l := range []*emuLine{&e.out, &e.in} {
		real, gone := l.now, time.Duration(0)
		l.now = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			gone += time.Duration(r.Int64N(int64(most)))
			return real() + gone
		}
	}
}

// TestNetemuWakes sends a burst, and the next when all of it has arrived. Who
// sleeps though there is something for them sleeps for ever, which ends the test.
func TestNetemuWakes(t *testing.T) {
	for _, options := range []string{
		"delay=1ms/jitter=1ms", "rate=1gbit/queue=64m", "rate=100mbit/delay=20ms/queue=64m", "delay=10us", "reorder=30%", "reorder=30%/delay=10us/jitter=20us", "jitter=10us/duplicate=10%",
	} {
		for _, way := range []string{"out", "in"} {
			for _, receivers := range []int{1, 3} {
				t.Run(fmt.Sprint(options, "/", way, "/", receivers), func(t *testing.T) {
					for seed := range uint64(5) {
						synctest.Test(t, func(t *testing.T) { testNetemuWakes(t, options, way, receivers, seed) })
					}
				})
			}
		}
	}
}

func testNetemuWakes(t *testing.T, options, way string, receivers int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	name := "mem://" + t.Name()
	impaired, plain := openPlugTest(t, fmt.Sprintf("netemu://%s/seed=%d{%s}", options, seed+1, name)), openPlugTest(t, name)
	emu := FindEmulator(impaired)
	hasten(emu, rand.New(rand.NewPCG(seed, 1)), time.Duration(1)<<(seed%16))
	from, to := impaired, plain
	if way == "in" {
		from, to = plain, impaired
	}
	var all sync.WaitGroup
	arrived := make(chan int, 1000)
	for range receivers {
		all.Go(func() {
			var b packet.Buffer
			defer b.Release()
			for {
				packets, err := to.(packet.Transport).RecvPackets(&b)
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
			plugtest.Send(t, from, numbered(sent, 60+r.IntN(9000)))
			sent++
		}
		if r.IntN(4) == 0 {
			e := emu.Emulation()
			check(t, emu.SetEmulation(Emulation{Out: Impairment{Delay: time.Hour}, In: Impairment{Delay: time.Hour}}))
			synctest.Wait()
			check(t, emu.SetEmulation(e))
		}
		for got < sent || got < want() {
			got += <-arrived
		}
	}
	impaired.Close()
	plain.Close()
	all.Wait()
}

// TestNetemuEnd has all who receive learn of the end of the network, behind what
// has arrived before.
func TestNetemuEnd(t *testing.T) {
	for _, options := range []string{"delay=1ms", "reorder=100%", "delay=10us/jitter=1ms"} {
		t.Run(options, func(t *testing.T) {
			for seed := range uint64(50) {
				synctest.Test(t, func(t *testing.T) {
					end := errors.New("it has ended")
					inner := &endingConn{frames: int(seed % 5), err: end}
					l, err := Parse("netemu://" + options)
					check(t, err)
					e, _, err := parseNetemu(l)
					check(t, err)
					c := newEmuConn(inner, e)
					hasten(c.emu, rand.New(rand.NewPCG(seed, 1)), time.Millisecond)
					var all sync.WaitGroup
					var got atomic.Int64
					for range 4 {
						all.Go(func() {
							var b packet.Buffer // Recv would let one of them wait for all
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
					check(t, c.Close())
				})
			}
		})
	}
}

// An endingConn is a plug whose network ends after some frames.
type endingConn struct {
	frames int
	err    error
}

func (c *endingConn) Recv(frame []byte) (int, error) {
	if c.frames--; c.frames < 0 {
		return 0, c.err
	}
	return copy(frame, numbered(c.frames, 60)), nil
}

func (c *endingConn) Send([]byte) error { return net.ErrClosed }

func (c *endingConn) Close() error { return nil }

// TestMemPortWakes has as many goroutines receive as there are frames, one each.
func TestMemPortWakes(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			name := "mem://" + t.Name()
			from, to := openPlugTest(t, name), openPlugTest(t, name)
			defer from.Close()
			defer to.Close()
			for range 20 {
				frames := 1 + r.IntN(20)
				var all sync.WaitGroup
				for range frames {
					all.Go(func() {
						if _, err := to.Recv(make([]byte, ether.MaxFrame)); err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				for left := frames; left > 0; {
					n := 1 + r.IntN(left)
					left -= n
					check(t, from.(packet.Transport).SendPackets([]packet.Packet{packettest.TCP(n, 100)}, true))
				}
				all.Wait()
			}
		})
	}
}
