package vdeplug

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/virtio"
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
				join := func(name string) packet.Transport {
					c := openPlugTest(t, name)
					conns = append(conns, c)
					return c.(packet.Transport)
				}
				for range receivers {
					c := join(name)
					all.Go(func() { // so that nothing is dropped
						var b packet.Buffer
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
							check(t, c.SendPackets([]packet.Packet{{Data: numbered(1, 60)}}, true))
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
						packets := make([]packet.Packet, fabricBatch)
						for i := range packets {
							packets[i].Data = broadcastOf(i)
						}
						for n := 0; time.Since(start) < length && (tt.other || n < 300); n++ {
							if err := c.SendPackets(packets, true); err != nil {
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
			src, dst := numbered(i, 60), plugtest.Station(100+i)
			copy(src[6:], dst[:])
			check(t, p.SendPackets([]packet.Packet{{Data: src}}, false))
		}
		busy := newMemPort(other)
		busy.leave = func() error { other.leave(&busy.port); return nil }
		check(t, busy.SendPackets([]packet.Packet{{Data: numbered(0, 60)}}, false))
		flood := make([]packet.Packet, fabricBatch)
		for i := range flood {
			flood[i].Data = broadcastOf(i)
		}
		var all sync.WaitGroup
		for _, p := range ports[2:] {
			all.Go(func() {
				for range 100 {
					check(t, busy.SendPackets([]packet.Packet{{Data: numbered(0, 60)}}, false))
					check(t, p.SendPackets(flood, true))
				}
			})
		}
		one := numbered(1, 60)
		to, from := plugtest.Station(101), plugtest.Station(100)
		copy(one, to[:])
		copy(one[6:], from[:])
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			before := time.Now()
			check(t, ports[0].SendPackets([]packet.Packet{{Data: one}}, true))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for one waits for %v", d)
			}
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			before := time.Now()
			check(t, ports[0].SendPackets(flood[:1], true))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for all waits for %v, though its sender sends few", d)
			}
		}
		if n := ports[0].DroppedSend.Load(); n != 0 {
			t.Errorf("%d packets were dropped", n)
		}
		all.Wait()
		for _, p := range append(ports, busy) {
			p.Close()
		}
	})
}

// A counter takes packets, and counts what they cost.
type counter struct {
	whole         bool
	frames, units int
}

func (c *counter) takesWhole() bool { return c.whole }

func (c *counter) deliver(packets []packet.Packet) {
	for i := range packets {
		frames, _ := virtio.Count(packets[i].Offload, packets[i].Data)
		c.frames += frames
		c.units += 1 + len(packets[i].Data)/floodUnit
	}
}

// TestFloodFrames floods a network with packets that become as many frames as can
// be, beside another network.
func TestFloodFrames(t *testing.T) {
	const length = 4 * time.Second
	pkt := packet.Packet{
		Offload: virtio.Header{GSOType: virtio.GSOTCPv4, GSOSize: 36, Flags: virtio.FlagNeedsCsum, HdrLen: 54, CsumStart: 34, CsumOffset: 16},
		Data:    make([]byte, 60000),
	}
	copy(pkt.Data, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00\x45")
	binary.BigEndian.PutUint16(pkt.Data[16:], 60000-14)
	pkt.Data[22], pkt.Data[23], pkt.Data[46] = 64, 6, 0x50
	frames, _ := virtio.Count(pkt.Offload, pkt.Data)
	if frames < 1600 {
		t.Fatalf("%d frames", frames)
	}
	for _, whole := range []int{0, 2, 8} {
		synctest.Test(t, func(t *testing.T) {
			f, other := newFabric(kindHub, 64, time.Minute), newFabric(kindHub, 64, time.Minute)
			from, beside := &port{taker: &counter{}}, &port{taker: &counter{}}
			f.join(from)
			other.join(beside)
			var takers []*counter
			for i := range 8 {
				c := &counter{whole: i < whole}
				takers = append(takers, c)
				f.join(&port{taker: c})
			}
			batch := slices.Repeat([]packet.Packet{pkt}, 4)
			start := time.Now()
			var uses sync.WaitGroup
			uses.Go(func() {
				for r := newRouting(); time.Since(start) < length; time.Sleep(fabricIdle / 4) {
					_, err := other.forward(r, beside, []packet.Packet{{Data: broadcastOf(1)}}, false)
					check(t, err)
				}
			})
			synctest.Wait()
			for r := newRouting(); time.Since(start) < length-time.Second; {
				_, err := f.forward(r, from, batch, true)
				check(t, err)
			}
			uses.Wait()
			var cost, cheapest time.Duration
			for i, c := range takers {
				copies := c.frames
				if c.whole {
					copies = c.units
				}
				cost += time.Duration(copies) * floodCost
				if i == 0 {
					cheapest = time.Duration(c.units) * floodCost
				}
			}
			cost -= cheapest
			most := (time.Since(start)+floodBurst)/portShare + 8*time.Duration(frames)*floodCost
			if cost > most || cost < most/16 {
				t.Errorf("%d take whole packets: copies for %v were made in %v, want at most %v", whole, cost, time.Since(start), most)
			}
			for _, p := range f.ports {
				f.leave(p)
			}
			other.leave(beside)
		})
	}
}
