package vdeplug

import (
	"bytes"
	"context"
	"errors"
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

func TestCaptureConn(t *testing.T) {
	for _, vnl := range []string{"mem://capture", "netemu://delay=1ms{mem://capture}", "nestedtest://"} {
		t.Run(vnl, func(t *testing.T) {
			Register(Scheme{
				Name: "nestedtest",
				Open: func(context.Context, Locator, *Options) (Conn, error) {
					c, err := Open("mem://nestedtest", nil)
					return struct {
						Conn
						Dropper
					}{c, c.(Dropper)}, err // one that moves no packets
				},
			})
			defer unregister("nestedtest")
			testConn(t, func(t *testing.T) Conn { return Capture(openPlugTest(t, vnl), new(bytes.Buffer), "plug") })
		})
	}
}

// TestCapture records two plugs into one file.
func TestCapture(t *testing.T) {
	testenv.NoLeaks(t)
	var out bytes.Buffer
	a := Capture(openPlugTest(t, "netemu://{mem://capture}"), &out, "a")
	b := plugtest.NewInbox(t, Capture(openPlugTest(t, "mem://capture"), &out, "b"))
	if FindEmulator(a) == nil {
		t.Error("a capture hides what it records")
	}
	var want [][]byte
	for _, n := range []int{60, 1514, ether.MaxFrame} {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), n)
		plugtest.Send(t, a, frame)
		b.Want(t, frame)
		want = append(want, frame)
	}
	plugtest.Send(t, a, make([]byte, ether.HeaderLen-1)) // does not get there
	p := packettest.TCP(5, 1000)
	frames := packettest.Frames(t, p)
	check(t, a.(packet.Transport).SendPackets([]packet.Packet{p}, true))
	for _, frame := range frames {
		b.Want(t, frame)
	}
	want = append(want, frames...)
	check(t, a.Close())
	check(t, b.Close())
	f, err := capturetest.Read(out.Bytes())
	check(t, err)
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
	if d := a.(Dropper).Drops(); d != (Drops{Send: 1}) {
		t.Errorf("drops are %+v", d)
	}
}

// fullDisk is a writer that fails.
type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

// TestCaptureFails loses the recording, not the network.
func TestCaptureFails(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := Capture(openPlugTest(t, "mem://capture"), fullDisk{}, "a"), openInbox(t, "mem://capture")
	for range 10 {
		frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)
		plugtest.Send(t, a, frame)
		b.Want(t, frame)
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
			c, err := Open("null://", nil)
			if err != nil {
				b.Fatal(err)
			}
			if name == "on" {
				c = Capture(c, &nowhere{}, "a")
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

type nowhere struct{}

func (*nowhere) Write(b []byte) (int, error) { return len(b), nil }
