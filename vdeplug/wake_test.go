package vdeplug

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestStreamWakes sends bursts over a stream, each when the last one has arrived.
func TestStreamWakes(t *testing.T) {
	testenv.Long(t)
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			x, y := net.Pipe()
			a, b := NewStream(x).(*plug), NewStream(y).(*plug)
			arrived := make(chan int, 1000)
			var all sync.WaitGroup
			all.Go(func() {
				var buf packet.Buffer
				defer buf.Release()
				for {
					packets, err := b.RecvPackets(&buf)
					if err != nil {
						return
					}
					arrived <- len(packets)
				}
			})
			for range 20 {
				left := 1 + r.IntN(50)
				packets := make([]packet.Packet, left)
				for i := range packets {
					packets[i].Data = plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60+r.IntN(9000)) // more than the queue holds
				}
				if r.IntN(2) == 0 {
					testenv.Check(t, a.SendPackets(packets, true))
				} else {
					left = min(left, 20)
					for _, p := range packets[:left] {
						testenv.Check(t, a.Send(p.Data))
					}
				}
				for left > 0 {
					left -= <-arrived
				}
			}
			if d := a.Drops(); d != (Drops{}) {
				t.Errorf("%+v", d)
			}
			a.Close()
			b.Close()
			all.Wait()
		})
	}
}

// TestReconnectWakes has networks that end soon and come back, with several receivers: all of
// them go on, and get the final error.
func TestReconnectWakes(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			left, frames := 10, 0
			next := func() Conn {
				n := r.IntN(5)
				frames += n
				return plugtest.NewEndingConn(n, errors.New("it has ended"))
			}
			first := next()
			c := newReconnector(t.Context(), "test", first, &Options{}, func(context.Context) (Conn, bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if left--; left < 0 {
					return nil, false, errors.ErrUnsupported
				}
				if r.IntN(2) == 0 {
					return nil, false, errors.New("not yet")
				}
				return next(), false, nil
			})
			var all sync.WaitGroup
			var got [3]int
			for i := range got {
				all.Go(func() {
					buf := make([]byte, ether.MaxFrame)
					for {
						if _, err := c.Recv(buf); err != nil {
							return
						}
						got[i]++
						time.Sleep(time.Duration(i) * time.Millisecond)
					}
				})
			}
			all.Wait()
			if sum := got[0] + got[1] + got[2]; sum != frames {
				t.Errorf("received %d frames, want %d", sum, frames)
			}
			c.Close()
		})
	}
}

// TestMemPortWakes has as many goroutines receive as there are frames, one each.
func TestMemPortWakes(t *testing.T) {
	testenv.Long(t)
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			name := "mem://" + t.Name()
			from, to := openPlug(t, name), openPlug(t, name)
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
					testenv.Check(t, from.(packet.Transport).SendPackets([]packet.Packet{packettest.TCP(n, 100)}, true))
				}
				all.Wait()
			}
		})
	}
}
