package vdeplug

import (
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"github.com/vdestack/vdestack/internal/virtio"
)

// BenchmarkSwitchRoundTrip sends one small frame there and back, between clients like those
// in C.
func BenchmarkSwitchRoundTrip(b *testing.B) {
	for _, sw := range switchKinds {
		b.Run("switch="+sw.name, func(b *testing.B) {
			s := newSwitch(b, sw.command)
			x, y := vdetest.DialRaw(b, s.Dir).Join(), vdetest.DialRaw(b, s.Dir).Join()
			there, back := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
			buf := make([]byte, ether.MaxFrame)
			for b.Loop() {
				for _, step := range []struct {
					from, to *vdetest.Raw
					frame    []byte
				}{{x, y, there}, {y, x, back}} {
					testenv.Check(b, vdetest.Write(step.from.Data, step.frame))
					_, err := vdetest.Read(step.to.Data, buf)
					testenv.Check(b, err)
				}
			}
		})
	}
}

// BenchmarkSwitch carries 44 frames of 1500 bytes at a time, as many as a packet of the
// kernel's TCP, through a switch in a process of its own, one of Debian or ours. Clients are
// like those in C, which send and receive frame by frame, or ours. Nothing is lost, so that
// bytes are comparable.
func BenchmarkSwitch(b *testing.B) {
	const frames, mss = 44, 1446
	pkt := packettest.TCP(frames, mss)
	for _, sw := range switchKinds {
		b.Run("switch="+sw.name+"/clients=C", func(b *testing.B) {
			s := newSwitch(b, sw.command)
			x, y := vdetest.DialRaw(b, s.Dir).Join(), vdetest.DialRaw(b, s.Dir).Join()
			frame, buf := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 54+mss), make([]byte, ether.MaxFrame)
			// Each knows where the other is.
			vdetest.Write(y.Data, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			testenv.Must(vdetest.Read(x.Data, buf))(b)
			b.SetBytes(frames * mss)
			defer reportCPU(b, s, frames)()
			for b.Loop() {
				for range frames {
					testenv.Check(b, vdetest.Write(x.Data, frame))
				}
				for range frames {
					if n, err := vdetest.Read(y.Data, buf); n != len(frame) || err != nil {
						b.Fatal(n, err)
					}
				}
			}
		})
		b.Run("switch="+sw.name+"/clients=ours", func(b *testing.B) {
			s := newSwitch(b, sw.command)
			x, y := openPlug(b, s.Dir).(packet.Transport), openPlug(b, s.Dir).(packet.Transport)
			var buf packet.Buffer
			defer buf.Release()
			testenv.Check(b, y.SendPackets([]packet.Packet{{Data: plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60)}}, true))
			testenv.Must(x.RecvPackets(&buf))(b)
			b.SetBytes(frames * mss)
			defer reportCPU(b, s, frames)()
			b.ReportAllocs()
			packets := make([]packet.Packet, 1)
			for b.Loop() {
				packets[0] = pkt
				testenv.Check(b, x.SendPackets(packets, true))
				for n := 0; n < frames; {
					got, err := y.RecvPackets(&buf)
					testenv.Check(b, err)
					for _, p := range got {
						frames, _ := virtio.Count(p.Offload, p.Data)
						n += frames
					}
				}
			}
		})
	}
}

// reportCPU reports how much processor time the switch takes for a frame. Unlike the elapsed
// time, that depends little on what else the machine does.
func reportCPU(b *testing.B, s *vdetest.Switch, frames int) func() {
	before := s.CPU(b)
	return func() {
		b.ReportMetric(float64((s.CPU(b)-before).Nanoseconds())/float64(b.N*frames), "cpu-ns/frame")
	}
}
