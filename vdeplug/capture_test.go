package vdeplug

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/vdestack/vdestack/internal/capture/capturetest"
	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestCapture records two plugs into one file.
func TestCapture(t *testing.T) {
	testenv.NoLeaks(t)
	var out bytes.Buffer
	a := Capture(openPlug(t, "netemu://{mem://capture}"), &out, "a")
	b := plugtest.NewInbox(t, Capture(openPlug(t, "mem://capture"), &out, "b"))
	if FindEmulator(a) == nil {
		t.Error("a capture hides what it records")
	}
	var want [][]byte
	for _, n := range []int{60, 1514, ether.MaxFrame} {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
		plugtest.Deliver(t, a, b, frame)
		want = append(want, frame)
	}
	plugtest.Send(t, a, make([]byte, ether.HeaderLen-1)) // does not get there
	p := packettest.TCP(5, 1000)
	frames := packettest.Frames(t, p)
	testenv.Check(t, a.(packet.Transport).SendPackets([]packet.Packet{p}, true))
	for _, frame := range frames {
		b.Want(t, frame)
	}
	want = append(want, frames...)
	testenv.Check(t, a.Close())
	testenv.Check(t, b.Close())
	f := testenv.Must(capturetest.Read(out.Bytes()))(t)
	if len(f.Interfaces) != 2 || f.Interfaces[0].Name != "a" || f.Interfaces[1].Name != "b" {
		t.Fatalf("got interfaces %+v", f.Interfaces)
	}
	var got [2][][]byte
	for _, p := range f.Packets {
		got[p.Interface] = append(got[p.Interface], p.Data)
		if p.Out != (p.Interface == 0) || p.Missed != 0 {
			t.Errorf("got %+v", p)
		}
	}
	for i := range got {
		if !slices.EqualFunc(got[i], want, bytes.Equal) {
			t.Errorf("%s has %d frames, want %d", f.Interfaces[i].Name, len(got[i]), len(want))
		}
	}
	wantDrops(t, a, Drops{Send: 1})
}

// A fullDisk is a writer that fails.
type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

// TestCaptureFails has a writer that fails: the recording ends, and the network goes on.
func TestCaptureFails(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := Capture(openPlug(t, "mem://capture"), fullDisk{}, "a"), openInbox(t, "mem://capture")
	for range 10 {
		plugtest.Deliver(t, a, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	}
	if err := a.Close(); !errors.Is(err, errFull) {
		t.Errorf("close: %v, want the error of the writer", err)
	}
	if err := a.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)); err != net.ErrClosed {
		t.Errorf("got %v", err)
	}
}

// BenchmarkCapture sends with a capture and without.
func BenchmarkCapture(b *testing.B) {
	for _, name := range []string{"off", "on"} {
		b.Run(name, func(b *testing.B) {
			c := openPlug(b, "null://")
			if name == "on" {
				c = Capture(c, io.Discard, "a")
			}
			defer c.Close()
			frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
			b.ReportAllocs()
			for b.Loop() {
				c.Send(frame)
			}
		})
	}
}
