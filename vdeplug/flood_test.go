package vdeplug

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/carrier"
)

// TestFloodShare floods networks with several ports, and looks how many copies are
// made while another network is in use, and while none is.
func TestFloodShare(t *testing.T) {
	const receivers, length = 5, 4 * time.Second
	for _, tt := range []struct {
		name     string
		flooders int
		other    bool
		most     time.Duration // cost of all copies
	}{
		{name: "one port", flooders: 1, other: true, most: length/portShare + 2*floodBurst},
		{name: "many ports", flooders: 20, other: true, most: 20*length/(portShare*indebted) + length/fabricShare},
		{name: "alone", flooders: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				name := "mem://" + t.Name()
				var all sync.WaitGroup
				var conns []Conn
				join := func(name string) carrier.Conn {
					c := openPlugTest(t, name)
					conns = append(conns, c)
					return c.(carrier.Conn)
				}
				for range receivers {
					c := join(name)
					all.Go(func() { // so that nothing is dropped
						var b carrier.Buffer
						defer b.Release()
						for {
							if _, err := c.RecvPackets(&b); err != nil {
								return
							}
						}
					})
				}
				stop := make(chan struct{})
				var other sync.WaitGroup
				if tt.other {
					c := join(name + " other")
					other.Go(func() {
						for tick := time.NewTicker(100 * time.Millisecond); ; {
							check(t, c.SendPackets([]carrier.Packet{{Data: numbered(1, 60)}}))
							select {
							case <-stop:
								tick.Stop()
								return
							case <-tick.C:
							}
						}
					})
				}
				synctest.Wait()
				start := time.Now()
				copies := make([]int, tt.flooders)
				var floods sync.WaitGroup
				for i := range tt.flooders {
					c := join(name)
					floods.Go(func() {
						packets := make([]carrier.Packet, fabricBatch)
						for i := range packets {
							packets[i].Data = broadcastOf(i)
						}
						for n := 0; time.Since(start) < length && (tt.other || n < 300); n++ {
							if err := c.SendPackets(packets); err != nil {
								t.Error(err)
							}
							copies[i] += len(packets) * (receivers + tt.flooders - 2)
						}
					})
				}
				floods.Wait()
				var cost time.Duration
				for _, n := range copies {
					cost += time.Duration(n) * floodCost
				}
				if tt.other && (cost > tt.most || cost < tt.most/4) {
					t.Errorf("copies for %v were made in %v, want about %v", cost, time.Since(start), tt.most)
				}
				if !tt.other && time.Since(start) != 0 {
					t.Errorf("a network alone waits for %v", time.Since(start))
				}
				close(stop)
				other.Wait() // it does not find its plug closed
				for _, c := range conns {
					c.Close()
				}
				all.Wait()
			})
		})
	}
}

func broadcastOf(n int) []byte {
	frame := numbered(n, 100)
	copy(frame, "\xff\xff\xff\xff\xff\xff")
	return frame
}

// TestFloodSpares sends to one beside a flood from other ports, which nothing
// holds up, and to all now and then, as those do who look for others.
func TestFloodSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, other := newFabric(kindSwitch, 64, time.Minute), newFabric(kindSwitch, 64, time.Minute)
		var ports []*memPort
		for i := range 12 {
			p := newMemPort(f)
			p.leave = func() error { f.leave(&p.port); return nil }
			ports = append(ports, p)
			src, dst := numbered(i, 60), station(100+i)
			copy(src[6:], dst[:])
			check(t, p.Send(src))
		}
		busy := newMemPort(other)
		busy.leave = func() error { other.leave(&busy.port); return nil }
		check(t, busy.Send(numbered(0, 60)))
		flood := make([]carrier.Packet, fabricBatch)
		for i := range flood {
			flood[i].Data = broadcastOf(i)
		}
		var all sync.WaitGroup
		for _, p := range ports[2:] {
			all.Go(func() {
				for range 100 {
					check(t, busy.Send(numbered(0, 60)))
					check(t, p.SendPackets(flood))
				}
			})
		}
		one := numbered(1, 60)
		to, from := station(101), station(100)
		copy(one, to[:])
		copy(one[6:], from[:])
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			before := time.Now()
			check(t, ports[0].SendPackets([]carrier.Packet{{Data: one}}))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for one waits for %v", d)
			}
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			before := time.Now()
			check(t, ports[0].SendPackets(flood[:1]))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for all waits for %v, though its sender sends few", d)
			}
		}
		if n := ports[0].droppedSend.Load(); n != 0 {
			t.Errorf("%d packets were dropped", n)
		}
		all.Wait()
		for _, p := range append(ports, busy) {
			p.Close()
		}
	})
}
