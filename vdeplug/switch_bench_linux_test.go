package vdeplug

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
	"github.com/vdestack/vdestack/internal/virtio"
)

// benchSwitches are the switches that are compared, each a process of its own.
var benchSwitches = []struct {
	name    string
	command func(b *testing.B, dir string) *exec.Cmd
}{
	{"vde_switch", func(b *testing.B, dir string) *exec.Cmd {
		return exec.Command(testenv.Need(b, "vde_switch", "vde2"), "-s", dir)
	}},
	{"vde_plug", func(b *testing.B, dir string) *exec.Cmd {
		return exec.Command(testenv.Need(b, "vde_plug", "vdeplug"), "null://", "switch://"+dir)
	}},
	{"ours", func(_ *testing.B, dir string) *exec.Cmd { return goSwitchCommand("switch://" + dir) }},
}

// BenchmarkSwitchRoundTrip sends one small frame there and back, between clients
// as those in C.
func BenchmarkSwitchRoundTrip(b *testing.B) {
	for _, sw := range benchSwitches {
		b.Run("switch="+sw.name, func(b *testing.B) {
			dir := filepath.Join(vdetest.ShortDir(b), "sw")
			startSwitch(b, dir, sw.command(b, dir))
			x, y := vdetest.DialRaw(b, dir).Join(), vdetest.DialRaw(b, dir).Join()
			there, back := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
			buf := make([]byte, ether.MaxFrame)
			for b.Loop() {
				for _, step := range []struct {
					from, to *vdetest.Raw
					frame    []byte
				}{{x, y, there}, {y, x, back}} {
					if err := vdetest.Write(step.from.Data, step.frame); err != nil {
						b.Fatal(err)
					}
					if _, err := vdetest.Read(step.to.Data, buf); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkSwitch carries 44 frames of 1500 bytes at a time, as much as the
// kernel's TCP hands over at once, through a switch in a process of its own:
// one of Debian or ours, between clients as those in C, which send and receive
// frame by frame, or ours. Nothing is lost, so that bytes are comparable.
func BenchmarkSwitch(b *testing.B) {
	const frames, mss = 44, 1446
	pkt := packettest.TCP(frames, mss)
	for _, sw := range benchSwitches {
		b.Run("switch="+sw.name+"/clients=C", func(b *testing.B) {
			dir := filepath.Join(vdetest.ShortDir(b), "sw")
			s := startSwitch(b, dir, sw.command(b, dir))
			x, y := vdetest.DialRaw(b, dir).Join(), vdetest.DialRaw(b, dir).Join()
			frame, buf := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 54+mss), make([]byte, ether.MaxFrame)
			// Each knows where the other is.
			vdetest.Write(y.Data, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			if _, err := vdetest.Read(x.Data, buf); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(frames * mss)
			defer reportCPU(b, s, frames)()
			for b.Loop() {
				for range frames {
					if err := vdetest.Write(x.Data, frame); err != nil {
						b.Fatal(err)
					}
				}
				for range frames {
					if n, err := vdetest.Read(y.Data, buf); n != len(frame) || err != nil {
						b.Fatal(n, err)
					}
				}
			}
		})
		b.Run("switch="+sw.name+"/clients=ours", func(b *testing.B) {
			dir := filepath.Join(vdetest.ShortDir(b), "sw")
			s := startSwitch(b, dir, sw.command(b, dir))
			x, y := openBench(b, dir), openBench(b, dir)
			var buf packet.Buffer
			defer buf.Release()
			if err := y.SendPackets([]packet.Packet{{Data: plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60)}}, true); err != nil {
				b.Fatal(err)
			}
			if _, err := x.RecvPackets(&buf); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(frames * mss)
			defer reportCPU(b, s, frames)()
			b.ReportAllocs()
			packets := make([]packet.Packet, 1)
			for b.Loop() {
				packets[0] = pkt
				if err := x.SendPackets(packets, true); err != nil {
					b.Fatal(err)
				}
				for n := 0; n < frames; {
					got, err := y.RecvPackets(&buf)
					if err != nil {
						b.Fatal(err)
					}
					for _, p := range got {
						frames, _ := virtio.Count(p.Offload, p.Data)
						n += frames
					}
				}
			}
		})
	}
}

// reportCPU reports how much processor time the switch takes for a frame. Other
// than the time that passes, that depends little on what else the machine does.
func reportCPU(b *testing.B, s *vdetest.Switch, frames int) func() {
	before := s.CPU(b)
	return func() {
		b.ReportMetric(float64((s.CPU(b)-before).Nanoseconds())/float64(b.N*frames), "cpu-ns/frame")
	}
}

func openBench(b *testing.B, vnl string) packet.Transport {
	b.Helper()
	c, err := Open(vnl, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c.(packet.Transport)
}
