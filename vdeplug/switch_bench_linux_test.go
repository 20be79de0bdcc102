package vdeplug

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
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
			dir := filepath.Join(shortDir(b), "sw")
			startSwitch(b, dir, sw.command(b, dir))
			x, y := dialRaw(b, dir).join(), dialRaw(b, dir).join()
			there, back := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 60), plugtest.TestFrame(plugtest.Station(1), plugtest.Station(2), 60)
			buf := make([]byte, ether.MaxFrame)
			for b.Loop() {
				for _, step := range []struct {
					from, to *rawClient
					frame    []byte
				}{{x, y, there}, {y, x, back}} {
					if err := writeRaw(step.from.data, step.frame); err != nil {
						b.Fatal(err)
					}
					if _, err := readRaw(step.to.data, buf); err != nil {
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
			dir := filepath.Join(shortDir(b), "sw")
			s := startSwitch(b, dir, sw.command(b, dir))
			x, y := dialRaw(b, dir).join(), dialRaw(b, dir).join()
			frame, buf := plugtest.TestFrame(plugtest.Station(2), plugtest.Station(1), 54+mss), make([]byte, ether.MaxFrame)
			// Each knows where the other is.
			writeRaw(y.data, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(2), 60))
			if _, err := readRaw(x.data, buf); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(frames * mss)
			defer s.reportCPU(b, frames)()
			for b.Loop() {
				for range frames {
					if err := writeRaw(x.data, frame); err != nil {
						b.Fatal(err)
					}
				}
				for range frames {
					if n, err := readRaw(y.data, buf); n != len(frame) || err != nil {
						b.Fatal(n, err)
					}
				}
			}
		})
		b.Run("switch="+sw.name+"/clients=ours", func(b *testing.B) {
			dir := filepath.Join(shortDir(b), "sw")
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
			defer s.reportCPU(b, frames)()
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
func (s *vdeSwitch) reportCPU(b *testing.B, frames int) func() {
	before := s.cpu(b)
	return func() {
		b.ReportMetric(float64((s.cpu(b)-before).Nanoseconds())/float64(b.N*frames), "cpu-ns/frame")
	}
}

// cpu returns the processor time that the process of a switch has taken.
func (s *vdeSwitch) cpu(b *testing.B) (total time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no processor time of the switch", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(ns)
	}
	return total
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
