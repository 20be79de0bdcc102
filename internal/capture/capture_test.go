package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/capture/capturetest"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/virtio"
)

// tcp returns a packet of the kernel's TCP; a single segment is a frame without checksum.
func tcp(segments, mss int) packet.Packet {
	p := packettest.TCP(segments, mss)
	if segments == 1 {
		p.Offload.GSOType, p.Offload.HdrLen, p.Offload.GSOSize = virtio.GSONone, 0, 0
	}
	return p
}

func read(t *testing.T, b []byte) capturetest.File {
	t.Helper()
	f := testenv.Must(capturetest.Read(b))(t)
	return f
}

// record makes a file with all that there is.
func record(t *testing.T, w io.Writer) (frames [][]byte) {
	t.Helper()
	a := Open(w, "vde0", "stack: mem://a", nil)
	b := Open(w, "vde1", "", nil)
	long, single := tcp(5, 1000), tcp(1, 999)
	before := []packet.Packet{tcp(5, 1000), tcp(1, 999)}
	packets := []packet.Packet{{Data: packettest.Frame(60)}, long, {Data: packettest.Frame(61)}, single, {Data: packettest.Frame(13)}, {Offload: virtio.Header{GSOType: 77}, Data: packettest.Frame(100)}}
	a.Packets(true, packets)
	for i, p := range []packet.Packet{long, single} {
		if p.Offload != before[i].Offload || !bytes.Equal(p.Data, before[i].Data) {
			t.Error("recording changes a packet")
		}
	}
	b.Frame(false, packettest.Frame(1514))
	b.Missed(3)
	b.Missed(0)
	b.Packets(false, packets[:1])
	testenv.Check(t, a.Close())
	testenv.Check(t, b.Close())
	testenv.Check(t, b.Close())
	a.Frame(true, packettest.Frame(60)) // too late
	frames = append([][]byte{packettest.Frame(60)}, packettest.Frames(t, long)...)
	frames = append(append(frames, packettest.Frame(61)), packettest.Frames(t, single)...)
	return append(frames, packettest.Frame(1514), packettest.Frame(60))
}

func TestRecord(t *testing.T) {
	var out bytes.Buffer
	begin := time.Now().UnixNano()
	frames := record(t, &out)
	f := read(t, out.Bytes())
	if want := []capturetest.Interface{
		{Section: 1, Name: "vde0", Description: "stack: mem://a", Closed: true, Received: 8, User: 8},
		{Section: 1, Name: "vde1", Closed: true, Received: 5, OSDropped: 3, User: 2},
	}; !slices.Equal(f.Interfaces, want) {
		t.Errorf("got interfaces %+v", f.Interfaces)
	}
	if len(f.Packets) != len(frames) {
		t.Fatalf("%d packets, want %d", len(f.Packets), len(frames))
	}
	last := begin
	for i, p := range f.Packets {
		id, missed := i/8, uint64(0)
		if i == 9 {
			missed = 3
		}
		if p.Interface != id || p.Out != (id == 0) || p.Missed != missed || !bytes.Equal(p.Data, frames[i]) {
			t.Errorf("packet %d: %+v, want %x", i, p, frames[i])
		}
		if p.Time < last || p.Time > time.Now().UnixNano() {
			t.Errorf("packet %d: time %d after %d", i, p.Time, last)
		}
		last = p.Time
	}
	if len(recorders.all) > 0 {
		t.Errorf("%d recorders are left", len(recorders.all))
	}
	// Later, there is another section.
	record(t, &out)
	if f := read(t, out.Bytes()); f.Sections != 2 || len(f.Interfaces) != 4 || len(f.Packets) != 2*len(frames) {
		t.Errorf("%d sections, %d interfaces", f.Sections, len(f.Interfaces))
	}
}

// TestWireshark reads a file with its programs.
func TestWireshark(t *testing.T) {
	testenv.Long(t)
	tshark, capinfos := testenv.Need(t, "tshark", "tshark"), testenv.Need(t, "capinfos", "wireshark-common")
	file := filepath.Join(t.TempDir(), "file.pcapng")
	w := testenv.Must(os.Create(file))(t)
	frames := record(t, w)
	testenv.Check(t, w.Close())
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return string(out)
	}
	var want strings.Builder
	for i, f := range frames {
		iface, direction := "vde0", 2
		if i >= 8 {
			iface, direction = "vde1", 1
		}
		status, good := "", 1
		if len(f) > 200 && i < 8 {
			status = fmt.Sprint(good)
		}
		fmt.Fprintf(&want, "%d\t%s\t0x%08x\t%d\t%s\n", i+1, iface, direction, len(f), status)
	}
	got := run(tshark, "-r", file, "-o", "tcp.check_checksum:TRUE", "-T", "fields", "-e", "frame.number",
		"-e", "frame.interface_name", "-e", "frame.packet_flags", "-e", "frame.len", "-e", "tcp.checksum.status")
	if got != want.String() {
		t.Errorf("tshark says\n%s, want\n%s", got, want.String())
	}
	got = run(capinfos, "-M", file)
	for _, text := range []string{"File type:           pcapng", "Ethernet", "nanoseconds (9)", "Strict time order:   True", "Capture application: vdestack", "Name = vde0", "Description = stack: mem://a", "Name = vde1", "Number of stat entries = 1"} {
		if !strings.Contains(got, text) {
			t.Errorf("capinfos does not say %q:\n%s", text, got)
		}
	}
}

// A slow is a writer that takes what it is told to.
type slow struct {
	bytes.Buffer
	take chan error
}

func (s *slow) Write(b []byte) (int, error) {
	if err := <-s.take; err != nil {
		return 0, err
	}
	return s.Buffer.Write(b)
}

// TestSlow fills the buffer of a writer that waits: nobody waits for it, and the
// file tells what is missing.
func TestSlow(t *testing.T) {
	testenv.Long(t)
	synctest.Test(t, func(t *testing.T) {
		w := &slow{take: make(chan error)}
		i := Open(w, "vde0", "", nil)
		synctest.Wait()
		const frames, size = 20000, 1500
		for range frames {
			i.Frame(true, packettest.Frame(size))
		}
		kept, dropped := i.Counts()
		if kept+dropped != frames {
			t.Errorf("%d recorded, %d dropped", kept, dropped)
		}
		if kept < bufferSize/(size+packetMore)-1 || kept > bufferSize/size+1 {
			t.Errorf("%d frames are kept", kept)
		}
		if w.Len() > 0 {
			t.Error("it has written")
		}
		close(w.take)
		synctest.Wait()
		i.Frame(true, packettest.Frame(size))
		testenv.Check(t, i.Close())
		f := read(t, w.Bytes())
		last := f.Packets[len(f.Packets)-1]
		if s := f.Interfaces[0]; last.Missed != dropped || s.Dropped != dropped || s.User != uint64(len(f.Packets)) || s.Received != frames+1 {
			t.Errorf("the last frame missed %d, %+v, want %d", last.Missed, s, dropped)
		}
	})
}

// TestFailing ends with the first error, once for all who record, and takes in no
// more.
func TestFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slow{take: make(chan error)}
		full := errors.New("the disk is full")
		var mu sync.Mutex
		told := 0
		failed := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if told++; !errors.Is(err, full) {
				t.Errorf("told %v", err)
			}
		}
		a, b := Open(w, "vde0", "", failed), Open(w, "vde1", "", failed)
		synctest.Wait()
		a.Frame(true, packettest.Frame(60))
		w.take <- nil
		w.take <- full
		synctest.Wait()
		if told != 2 || !errors.Is(a.Err(), full) {
			t.Errorf("told %d times, error %v", told, a.Err())
		}
		c := Open(w, "vde2", "", failed)
		if told != 3 {
			t.Errorf("told %d times", told)
		}
		for range 10 {
			a.Frame(true, packettest.Frame(60))
			c.Packets(true, []packet.Packet{tcp(3, 1000)})
		}
		_, dropA := a.Counts()
		_, dropC := c.Counts()
		if dropA != 10 || dropC != 30 || len(a.r.pending) > 0 {
			t.Errorf("%d and %d dropped, %d bytes kept", dropA, dropC, len(a.r.pending))
		}
		for _, i := range []*Interface{a, b, c} {
			if err := i.Close(); !errors.Is(err, full) || err.Error() != "writing the capture: the disk is full" {
				t.Errorf("close: %v", err)
			}
		}
	})
}

// A badWriter does not return from Write.
type badWriter func()

func (w badWriter) Write([]byte) (int, error) {
	w()
	return 0, nil
}

// TestBadWriter has writers that panic, or end the goroutine. That is the end of the
// recording, and of nothing else.
func TestBadWriter(t *testing.T) {
	for name, w := range map[string]io.Writer{
		"panic":      badWriter(func() { panic("no") }),
		"Goexit":     badWriter(runtime.Goexit),
		"no pointer": (*os.File)(nil),
		"nil":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan error, 2)
			i := Open(w, "vde0", "", func(err error) { told <- err })
			err := <-told
			i.Frame(true, packettest.Frame(60))
			if _, dropped := i.Counts(); dropped != 1 {
				t.Errorf("%d frames dropped, want 1", dropped)
			}
			if got := i.Close(); got == nil || got != err {
				t.Errorf("Close returns %v, told %v", got, err)
			}
			if len(told) > 0 {
				t.Errorf("told again: %v", <-told)
			}
		})
	}
}

// TestStalled closes while a writer takes nothing, and while it takes a bit.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slow{take: make(chan error)}
		i := Open(w, "vde0", "", nil)
		start := time.Now()
		if err := i.Close(); !errors.Is(err, errStalled) || time.Since(start) != stallTime {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		w.take <- nil // what was begun ends
		synctest.Wait()
		select {
		case <-i.r.done:
		default:
			t.Error("it goes on")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := &slow{take: make(chan error)}
		i := Open(w, "vde0", "", nil)
		for range 2000 {
			i.Frame(true, packettest.Frame(1500))
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for {
				time.Sleep(stallTime / 2)
				select {
				case w.take <- nil:
				case <-i.r.done:
					return
				}
			}
		})
		testenv.Check(t, i.Close())
		if f := read(t, w.Bytes()); len(f.Packets) != 2000 || !f.Interfaces[0].Closed {
			t.Errorf("%d packets", len(f.Packets))
		}
	})
}

// sliceWriter cannot be compared.
type sliceWriter struct{ to []*bytes.Buffer }

func (s sliceWriter) Write(b []byte) (int, error) { return s.to[0].Write(b) }

// TestNotComparable gives each its own section, where it cannot be known that two
// writers are one.
func TestNotComparable(t *testing.T) {
	var a, b bytes.Buffer
	i, j := Open(sliceWriter{[]*bytes.Buffer{&a}}, "vde0", "", nil), Open(sliceWriter{[]*bytes.Buffer{&b}}, "vde0", "", nil)
	i.Frame(true, packettest.Frame(60))
	testenv.Check(t, i.Close())
	testenv.Check(t, j.Close())
	if f, g := read(t, a.Bytes()), read(t, b.Bytes()); len(f.Packets) != 1 || len(g.Packets) != 0 || g.Sections != 1 {
		t.Errorf("got %+v and %+v", f, g)
	}
}

// TestConcurrent records from all sides while interfaces come and go.
func TestConcurrent(t *testing.T) {
	var out bytes.Buffer
	first := Open(&out, "first", "", nil)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for range 10 {
				i := Open(&out, fmt.Sprint("vde", n), "", nil)
				for range 20 {
					i.Frame(true, packettest.Frame(60+n))
					first.Packets(false, []packet.Packet{tcp(2, 100)})
				}
				if err := i.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	testenv.Check(t, first.Close())
	f := read(t, out.Bytes())
	if len(f.Interfaces) != 41 || len(f.Packets) != 4*10*(20+40) {
		t.Errorf("%d interfaces, %d packets", len(f.Interfaces), len(f.Packets))
	}
}

func BenchmarkPackets(b *testing.B) {
	p := tcp(45, 1448)
	i := Open(io.Discard, "vde0", "", nil)
	defer i.Close()
	packets := []packet.Packet{p}
	b.SetBytes(int64(len(p.Data)))
	b.ReportAllocs()
	for b.Loop() {
		i.Packets(true, packets)
	}
}

// TestLate records frames that come later than others of a later time.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var quiet atomic.Bool
		slow, fast := Open(&out, "slow", "", nil), Open(&out, "fast", "", nil)
		slow.Late(quiet.Load)
		fast.Late(func() bool { return true })
		seen := func(i *Interface, ago time.Duration) {
			ns := time.Now().Add(-ago).UnixNano()
			i.SeenAt([]packet.Packet{{Data: packettest.Frame(60)}}, func(int) (bool, int64) { return i == slow, ns })
		}
		written := func() (order []string) {
			synctest.Wait()
			for _, p := range read(t, out.Bytes()).Packets {
				order = append(order, []string{"slow", "fast"}[p.Interface])
			}
			return order
		}
		expect := func(want ...string) {
			t.Helper()
			if got := written(); !slices.Equal(got, want) {
				t.Errorf("written %q, want %q", got, want)
			}
		}
		seen(fast, 10*time.Millisecond)
		time.Sleep(100 * time.Millisecond)
		expect() // slow may have an earlier one
		seen(slow, time.Second)
		time.Sleep(holdStep)
		expect("slow")
		seen(slow, 105*time.Millisecond)
		quiet.Store(true)
		time.Sleep(holdStep)
		expect("slow", "fast", "slow")
		quiet.Store(false)
		seen(fast, 0)
		time.Sleep(time.Minute)
		expect("slow", "fast", "slow") // however long that takes
		seen(slow, time.Hour)
		time.Sleep(holdStep)
		expect("slow", "fast", "slow", "slow")
		quiet.Store(true)
		time.Sleep(holdStep)
		expect("slow", "fast", "slow", "slow", "fast")
		quiet.Store(false)
		seen(fast, -time.Hour)
		seen(slow, -time.Minute)
		testenv.Check(t, slow.Close())
		testenv.Check(t, fast.Close())
		expect("slow", "fast", "slow", "slow", "fast", "slow", "fast")
	})
}

// TestLateMuch records frames that wait for those of an interface that is never quiet: not
// for ever, since memory is bounded.
func TestLateMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		slow, fast := Open(&out, "slow", "", nil), Open(&out, "fast", "", nil)
		slow.Late(func() bool { return false })
		fast.Late(func() bool { return true })
		const size = 1500
		const frames = holdSize * 3 / 4 / size
		packets := []packet.Packet{{Data: packettest.Frame(size)}}
		for round := range 2 {
			for range frames {
				fast.SeenAt(packets, func(int) (bool, int64) { return false, time.Now().UnixNano() })
			}
			time.Sleep(10 * holdStep)
			synctest.Wait()
			if got := len(read(t, out.Bytes()).Packets); (got > frames) != (round == 1) || round == 0 && got > 0 {
				t.Errorf("%d frames are written of %d", got, (round+1)*frames)
			}
		}
		testenv.Check(t, slow.Close())
		testenv.Check(t, fast.Close())
		if got := len(read(t, out.Bytes()).Packets); got != 2*frames {
			t.Errorf("%d frames are written in the end, want %d", got, 2*frames)
		}
	})
}

// A slowWriter takes a random time.
type slowWriter struct {
	r     *rand.Rand
	bytes int
}

func (w *slowWriter) Write(b []byte) (int, error) {
	if n := w.r.IntN(3); n > 0 {
		time.Sleep(time.Duration(n) * time.Microsecond)
	}
	w.bytes += len(b)
	return len(b), nil
}

// TestWakes records from several goroutines, which come and go, with pauses in
// which all is written. A writer that sleeps though there is something would end the
// bubble.
func TestWakes(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			w := &slowWriter{r: rand.New(rand.NewPCG(seed, 0))}
			frame := make([]byte, 100)
			var all sync.WaitGroup
			for n := range uint64(4) {
				r := rand.New(rand.NewPCG(seed, n+1))
				all.Go(func() {
					i := Open(w, "vde0", "", nil)
					for range 50 {
						if r.IntN(2) == 0 {
							i.Frame(true, frame)
						} else {
							i.Packets(false, []packet.Packet{{Data: frame}, {Data: frame}})
						}
						time.Sleep(time.Duration(r.IntN(4)) * time.Microsecond)
					}
					before := time.Now()
					if err := i.Close(); err != nil || time.Since(before) >= stallTime {
						t.Errorf("Close: %v after %v", err, time.Since(before))
					}
				})
			}
			all.Wait()
			if w.bytes < 4*50*len(frame) {
				t.Errorf("%d bytes were written", w.bytes)
			}
		})
	}
}
