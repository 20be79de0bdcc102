package fabric

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// TestFloodShare floods networks with several ports, and checks how many copies are made
// while another network is busy, and while all others are idle.
func TestFloodShare(t *testing.T) {
	testenv.Long(t)
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
				f, busy := newSwitch(), newSwitch()
				var all sync.WaitGroup
				var ports []*LocalPort
				join := func(f *Fabric) *LocalPort {
					p := NewLocalPort(f, nil)
					ports = append(ports, p)
					return p
				}
				for range receivers {
					p := join(f)
					all.Go(func() { // so that nothing is dropped
						var b packet.Buffer
						defer b.Release()
						for {
							if _, err := p.RecvPackets(&b); err != nil {
								return
							}
						}
					})
				}
				stop := make(chan struct{})
				var other sync.WaitGroup
				if tt.other {
					p := join(busy)
					other.Go(func() {
						for tick := time.NewTicker(100 * time.Millisecond); ; {
							testenv.Check(t, p.SendPackets([]packet.Packet{{Data: unicast()}}, true))
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
					p := join(f)
					floods.Go(func() {
						packets := make([]packet.Packet, batchSize)
						for i := range packets {
							packets[i].Data = broadcast()
						}
						for n := 0; time.Since(start) < length && (tt.other || n < 300); n++ {
							if err := p.SendPackets(packets, true); err != nil {
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
				other.Wait() // it does not find its port closed
				for _, p := range ports {
					p.Close()
				}
				all.Wait()
			})
		})
	}
}

func newSwitch() *Fabric { return New(Switch, DefaultStations, DefaultExpire) }

func unicast() []byte {
	return plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60)
}

func broadcast() []byte {
	return plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 100)
}

// TestFloodSpares sends to one station, and now and then to all, as ARP does, while other
// ports flood: nothing delays these packets.
func TestFloodSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, other := New(Switch, 64, time.Minute), New(Switch, 64, time.Minute)
		var ports []*LocalPort
		for i := range 12 {
			p := NewLocalPort(f, nil)
			ports = append(ports, p)
			hello := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(100+i), 60)
			testenv.Check(t, p.SendPackets([]packet.Packet{{Data: hello}}, false))
		}
		other.SetUplink(true) // it counts as busy
		defer other.SetUplink(false)
		flood := make([]packet.Packet, batchSize)
		for i := range flood {
			flood[i].Data = broadcast()
		}
		var all sync.WaitGroup
		for _, p := range ports[2:] {
			all.Go(func() {
				for range 100 {
					testenv.Check(t, p.SendPackets(flood, true))
				}
			})
		}
		one := plugtest.TestFrame(plugtest.Station(101), plugtest.Station(100), 60)
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			before := time.Now()
			testenv.Check(t, ports[0].SendPackets([]packet.Packet{{Data: one}}, true))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for one waits for %v", d)
			}
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			before := time.Now()
			testenv.Check(t, ports[0].SendPackets(flood[:1], true))
			if d := time.Since(before); d != 0 {
				t.Fatalf("a packet for all waits for %v, though its sender sends few", d)
			}
		}
		if n := ports[0].DroppedSend.Load(); n != 0 {
			t.Errorf("%d packets were dropped", n)
		}
		all.Wait()
		for _, p := range ports {
			p.Close()
		}
	})
}

// A counter is a receiver that counts the cost of packets.
type counter struct {
	gso           bool
	frames, units int
}

func (c *counter) TakesGSO() bool { return c.gso }

func (c *counter) Dropped() (recv, send uint64) { return 0, 0 }

func (c *counter) Deliver(packets []packet.Packet) {
	for i := range packets {
		frames, _ := virtio.Count(packets[i].Offload, packets[i].Data)
		c.frames += frames
		c.units += 1 + len(packets[i].Data)/floodUnit
	}
}

// TestFloodFrames floods a network with packets that become as many frames as
// possible, while another network is busy.
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
	for _, gso := range []int{0, 2, 8} {
		synctest.Test(t, func(t *testing.T) {
			f, other := New(Hub, 64, time.Minute), New(Hub, 64, time.Minute)
			from, beside := &Port{Receiver: &counter{}}, &Port{Receiver: &counter{}}
			f.Join(from)
			other.Join(beside)
			var receivers []*counter
			for i := range 8 {
				c := &counter{gso: i < gso}
				receivers = append(receivers, c)
				f.Join(&Port{Receiver: c})
			}
			batch := slices.Repeat([]packet.Packet{pkt}, 4)
			start := time.Now()
			var uses sync.WaitGroup
			uses.Go(func() {
				for r := NewRoutes(); time.Since(start) < length; time.Sleep(idleAfter / 4) {
					testenv.Must(other.Forward(r, beside, []packet.Packet{{Data: broadcast()}}, false))(t)
				}
			})
			synctest.Wait()
			for r := NewRoutes(); time.Since(start) < length-time.Second; {
				testenv.Must(f.Forward(r, from, batch, true))(t)
			}
			uses.Wait()
			var cost, cheapest time.Duration
			for i, c := range receivers {
				copies := c.frames
				if c.gso {
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
				t.Errorf("%d take GSO packets: copies for %v were made in %v, want at most %v", gso, cost, time.Since(start), most)
			}
			for _, p := range f.ports {
				f.Leave(p)
			}
			other.Leave(beside)
		})
	}
}
